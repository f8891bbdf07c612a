"""Student's t with degrees of freedom that are a tensor, in PyTorch's operators."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.storage import check_given
from ..rng import keys
from .arguments import check_together, given_noise
from .elementwise import sample
from .sources import Sources


def student_t(loc: Tensor, scale: Tensor, df: Tensor, sources: Sources) -> Tensor:
    """loc + scale t: the numbers that the op makes of the same key for a df that is a number.

    The gradient of df is that of ``rng.bases``' formula at fixed u and u'.
    """
    for name, t in (("loc", loc), ("scale", scale)):
        check_given(name, t)
    check_together("df", df, "loc", loc)
    check_together("df", df, "scale", scale)
    shape = torch.broadcast_shapes(loc.shape, scale.shape, df.shape)
    full = (t for t in (loc, scale, df) if t.dim() == len(shape) and t.shape == shape)
    like = next(full, loc.expand(shape)).detach()
    whole = torch.Size((*sources.sample_shape, *shape))
    if sources.eps is not None:
        eps = given_noise(sources.eps, loc, whole).to(df.dtype)
    elif sources.rng == "torch":
        eps = _as_torch_draws(loc, df, whole, sources)
    else:
        eps = _of_uniforms(like, df, sources)
    return torch.addcmul(loc.to(eps.dtype), scale.to(eps.dtype), eps).to(loc.dtype)


def _of_uniforms(like: Tensor, df: Tensor, sources: Sources) -> Tensor:
    # Two words for an element: -ln u, and -ln u' of an angle, side by side in memory.
    rate = torch.ones_like(like, dtype=df.dtype).unsqueeze(-1) * df.new_ones(2)
    drawn = sample("exponential", (("rate", rate),), sources, constants=(1.0, 0.0))[0]
    cosine = torch.cos((2.0 * math.pi) * torch.exp(-drawn[..., 1]))
    t = drawn[..., 0] * (2.0 / df)
    # The root of e^t - 1 is that of 1 - e^-t times e^(t / 2), which is made by quarters, one after
    # the other: it may overflow before the result does, and what is infinite may be no factor of a
    # gradient, which may be 0.
    quarter = torch.exp(0.25 * t.clamp(max=4.0 * math.log(torch.finfo(t.dtype).max)))
    return (torch.sqrt(-torch.expm1(-t)) * cosine * torch.sqrt(df) * quarter) * quarter


def _as_torch_draws(like: Tensor, df: Tensor, shape: torch.Size, sources: Sources) -> Tensor:
    """As ``torch.distributions.StudentT`` does, gradient included."""
    generator = sources.generator
    if isinstance(generator, tuple):
        raise ValueError(
            'rng="torch" with a list of generators takes a df that is a number, got a tensor of '
            f"shape {tuple(df.shape)}"
        )
    keys.check_traceable(generator)
    device = keys.drawn_on(like.device, generator)
    normal = torch.empty(shape, dtype=like.dtype, device=device).normal_(generator=generator)
    half = (0.5 * df).expand(shape).to(device, like.dtype)
    chi2 = torch._standard_gamma(half, generator) / 0.5
    chi2 = chi2.clamp(min=torch.finfo(like.dtype).tiny).to(df.device, df.dtype)
    return normal.to(df.device, df.dtype) * torch.rsqrt(chi2 / df)
