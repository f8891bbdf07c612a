// The kernels for portable.
#define FR_ISA 0
#include "kernels.inc"
