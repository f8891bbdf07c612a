// The relaxed categories for avx512.
#define FR_ISA 2
#include "softmax.inc"
