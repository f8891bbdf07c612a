"""Student's t with degrees of freedom that are a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.dtypes import compute_dtype
from ..families import FAMILIES
from ..rng import keys
from .arguments import check_together, parameters
from .elementwise import sample
from .sources import Sources, made_in_op


def student_t(loc: Tensor, scale: Tensor | float, df: Tensor, sources: Sources) -> Tensor:
    """loc + scale t: the numbers that the op makes of the same key for a df that is a number.

    The gradient of df is that of ``rng.bases``' formula at fixed u and u'.
    """
    in_op = made_in_op(sources)
    narrow = isinstance(scale, Tensor) and scale.dtype is not df.dtype
    if in_op and loc.dtype is df.dtype and not narrow:
        named = ("loc", loc), ("scale", scale), ("df", df)
        return sample("student_t_df", named, sources)[0]
    loc, scale = parameters(("loc", loc), ("scale", scale))
    # df may be a number that 16 bits don't hold.
    wide = [t.to(compute_dtype(loc.dtype)) for t in (loc, scale, df)]
    if in_op:
        named = ("loc", wide[0]), ("scale", wide[1]), ("df", wide[2])
        return sample("student_t_df", named, sources)[0].to(loc.dtype)
    for name, t in (("loc", loc), ("scale", scale)):
        check_together(name, t, "df", df)
    shape = torch.broadcast_shapes(loc.shape, scale.shape, df.shape)
    if sources.eps is not None:
        loc = loc if shape in (loc.shape, scale.shape) else loc.expand(shape)
        return sample("student_t", (("loc", loc), ("scale", scale)), sources, constants=(1.0,))[0]
    if sources.rng == "torch":
        eps = _as_torch_draws(loc, wide[2], torch.Size((*sources.sample_shape, *shape)), sources)
        return (wide[0] + wide[1] * eps).to(loc.dtype)  # addcmul rounds once
    full = (t for t in (loc, scale, df) if t.dim() == len(shape) and t.shape == shape)
    like = next(full, loc.expand(shape)).detach()
    ones = torch.ones_like(like, dtype=wide[0].dtype).unsqueeze(-1).expand(*shape, 2)
    pairs = sample("exponential", (("rate", ones),), sources, constants=(1.0, 0.0))[0]
    return FAMILIES["student_t_df"].formula(wide, pairs, 0, 0, ())[0].to(loc.dtype)


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
