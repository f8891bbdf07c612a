// The element-wise families for avx2.
#define FR_ISA 1
#include "elementwise/kernels.h"
