// The element-wise families for portable.
#define FR_ISA 0
#include "elementwise/kernels.h"
