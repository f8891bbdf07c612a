// The element-wise draws for portable.
#define FR_ISA 0
#include "draws.inc"
