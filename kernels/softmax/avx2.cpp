// The Gumbel-softmax for avx2.
#define FR_ISA 1
#include "softmax/kernels.h"
