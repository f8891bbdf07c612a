"""Student's t whose degrees of freedom are a parameter: see `fused_reparam.families.loc_scale`.

eps is a pair: the noise, and its derivative in df.
"""

import triton
import triton.language as tl

from ..scale import times


@triton.jit
def student_t_sample(
    loc, scale, df, eps, n2, n3, n4, n5, n6, EXACT: tl.constexpr, MATH: tl.constexpr
):
    return loc + scale * eps[0]


@triton.jit
def student_t_sample_gradients(
    loc, scale, df, eps, gz, n2, n3, n4, n5, n6, EXACT: tl.constexpr, MATH: tl.constexpr
):
    return gz, gz * eps[0], times(times(gz, eps[1]), scale)
