// The Gaussian latent for avx512.
#define FR_ISA 2
#include "gaussian/kernels.h"
