// The kernels for avx2.
#define FR_ISA 1
#include "kernels.inc"
