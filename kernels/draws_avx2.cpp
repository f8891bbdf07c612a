// The element-wise draws for avx2.
#define FR_ISA 1
#include "draws.inc"
