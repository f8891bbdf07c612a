"""The sample alone of the two halves of one tensor."""

from __future__ import annotations

from typing import Literal, Never, Unpack, overload

from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.noise_options import Generators, SampleShape
from ..core.scalars import flag
from ..core.tracers import fx, special
from . import latent
from .arguments import scale_kind
from .divergence import usual
from .min_std import from_moments
from .options import MomentsRsampleOptions
from .sources import one_source

__all__ = ["gaussian_rsample_from_moments"]


@overload
def gaussian_rsample_from_moments(
    moments: Tensor,
    dim: int = 1,
    *,
    return_eps: Literal[False] = False,
    **options: Unpack[MomentsRsampleOptions],
) -> Tensor: ...
@overload
def gaussian_rsample_from_moments(
    moments: Tensor,
    dim: int = 1,
    *,
    return_eps: Literal[True],
    **options: Unpack[MomentsRsampleOptions],
) -> tuple[Tensor, Tensor]: ...
@overload
def gaussian_rsample_from_moments(
    moments: Tensor,
    dim: int = 1,
    *,
    return_eps: bool,
    **options: Unpack[MomentsRsampleOptions],
) -> Tensor | tuple[Tensor, Tensor]: ...
@names_mistakes
def gaussian_rsample_from_moments(
    moments: Tensor,
    dim: int = 1,
    *,
    scale: str = "logvar",
    min_std: float | None = None,
    clamp: tuple[float, float] | None = None,
    num_samples: int | None = None,
    sample_shape: SampleShape | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    rng: str = "philox",
    eps: Tensor | None = None,
    return_eps: bool = False,
    **mistaken: Never,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Sample ``z = mu + sigma * eps`` of means and scales in one tensor, without the KL.

    The halves are read in place, and the backward pass writes one gradient in the layout of
    ``moments``.

    Args:
        moments, dim, scale, min_std, clamp, num_samples, sample_shape, key, generator, rng, eps,
            return_eps: see :func:`gaussian_latent_from_moments`.

    Returns:
        z, of the shape of one half, behind ``sample_shape`` or (num_samples,), or ``(z, eps)`` with
        ``return_eps``.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent_from_moments` does.

    Source: the layout is that of latent-diffusion autoencoders (Rombach et al., 2022).

    Example:
        >>> import torch
        >>> from fused_reparam import gaussian_rsample_from_moments
        >>> gaussian_rsample_from_moments(torch.zeros(2, 8, 4, 4), clamp=(-30.0, 20.0)).shape
        torch.Size([2, 4, 4, 4])
    """
    if not isinstance(moments, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(gaussian_rsample_from_moments, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    kind = scale_kind(scale)
    if return_eps is not False:
        return_eps = flag("return_eps", return_eps)
    sources = one_source(key, generator, rng, eps, sample_shape, num_samples)
    halves, split = from_moments(moments, dim, kind, min_std, clamp)
    found = latent.latent(*halves, usual(None), sources, return_eps, split)
    return found if return_eps else found[0]  # type: ignore[return-value]
