// The element-wise families for avx512.
#define FR_ISA 2
#include "elementwise/kernels.h"
