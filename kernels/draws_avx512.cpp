// The element-wise draws for avx512.
#define FR_ISA 2
#include "draws.inc"
