// The Gumbel-softmax for portable.
#define FR_ISA 0
#include "softmax/kernels.h"
