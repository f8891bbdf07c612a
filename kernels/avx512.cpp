// The kernels for avx512.
#define FR_ISA 2
#include "kernels.inc"
