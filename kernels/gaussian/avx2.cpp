// The Gaussian latent for avx2.
#define FR_ISA 1
#include "gaussian/kernels.h"
