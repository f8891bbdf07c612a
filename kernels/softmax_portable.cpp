// The relaxed categories for portable.
#define FR_ISA 0
#include "softmax.inc"
