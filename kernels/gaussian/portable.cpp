// The Gaussian latent for portable.
#define FR_ISA 0
#include "gaussian/kernels.h"
