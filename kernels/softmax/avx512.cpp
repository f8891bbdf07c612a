// The Gumbel-softmax for avx512.
#define FR_ISA 2
#include "softmax/kernels.h"
