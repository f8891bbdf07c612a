// The relaxed categories for avx2.
#define FR_ISA 1
#include "softmax.inc"
