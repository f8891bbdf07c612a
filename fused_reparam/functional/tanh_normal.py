"""Bounded actions: a Gaussian pushed through tanh, with its log-density."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.noise_options import Generators, NoiseOptions, misnamed
from ..core.scales import SCALE_KINDS
from ..core.tracers import fx, node_of, special
from . import elementwise
from .arguments import bounds_of, interval, one_scale, parameters
from .sources import sources_of

__all__ = ["tanh_normal_rsample"]


@names_mistakes
def tanh_normal_rsample(
    mean: Tensor,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    logvar: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    low: float = -1.0,
    high: float = 1.0,
    clamp: tuple[float, float] | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> tuple[Tensor, Tensor]:
    r"""Sample an action between two bounds and its log-density.

    .. math::
        x = \mu + \sigma \epsilon \qquad a = m + h \tanh x \qquad
        \log p(a) = \sum -\tfrac12 \epsilon^2 - \log \sigma - \tfrac12 \log 2\pi - \log h
            - 2 (\log 2 - |x| - \log(1 + e^{-2 |x|}))

    with m and h the bounds' mean and half their distance. The log-density is computed from x, not
    from the action: it is right where tanh rounds to 1. It is summed over the last dim.

    Args:
        mean: of x; float32, float64, float16 or bfloat16, shape (\*batch, actions).
        log_std, std, logvar, var, rho: the scale of x. Exactly one must be given; see
            :func:`gaussian_latent`.
        low, high: bounds of the action, finite numbers.
        clamp: (low, high) bounds on log_std or logvar; the gradient outside is 0.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gaussian_latent`. eps is standard normal.

    Returns:
        ``(action, log_prob)`` of shapes (\*sample_shape, \*batch, actions) and that without its
        last dim: the inputs' dtype, and float32 (float64 for float64 inputs).

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does; ValueError also unless
            low < high.

    Source: Haarnoja et al., "Soft actor-critic", 2018, appendix C.

    Example:
        >>> import torch
        >>> from fused_reparam import tanh_normal_rsample
        >>> mean, log_std = torch.zeros(256, 6), torch.full((256, 6), -1.0)
        >>> action, log_prob = tanh_normal_rsample(mean, log_std=log_std, low=-2.0, high=2.0)
        >>> action.shape, log_prob.shape, bool(action.abs().max() <= 2.0)
        (torch.Size([256, 6]), torch.Size([256]), True)
    """
    if not isinstance(mean, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(tanh_normal_rsample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    kind, scale = one_scale("mean", mean, logvar, log_std, std, var, rho)
    sources = sources_of(key, generator, noise)
    constants = (*bounds_of(clamp, kind), *interval(low, high))
    action, (log_prob,), _ = elementwise.sample(
        "tanh_normal",
        (("mean", mean), (SCALE_KINDS[kind], scale)),
        sources=sources,
        kind=kind,
        constants=constants,
        reduction="last",
    )
    return action, log_prob


def without_noise(
    mean: Tensor,
    scale: Tensor | float,
    kind: str,
    low: float,
    high: float,
    clamp: tuple[float, float] | None,
) -> tuple[Tensor, Tensor]:
    """What a draw would be without noise; for modules in eval mode. ``kind`` names the scale."""
    if not isinstance(mean, Tensor) or fx._is_fx_tracing_flag:
        node = node_of(without_noise, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    params = parameters(("mean", mean), (kind, scale))
    eps = mean.new_zeros(torch.broadcast_shapes(*(t.shape for t in params)))
    return tanh_normal_rsample(mean, low=low, high=high, clamp=clamp, eps=eps, **{kind: scale})  # type: ignore[arg-type]
