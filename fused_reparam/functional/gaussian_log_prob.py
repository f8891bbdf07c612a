"""Gaussian samples with their log-densities, for importance-weighted bounds."""

from __future__ import annotations

from typing import Never

from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.noise_options import Generators, SampleShape
from ..core.scales import SCALE_KINDS
from ..core.tracers import fx, special
from . import elementwise
from .arguments import bounds_of, one_scale
from .divergence import PriorArgument, prior_of
from .sources import one_source

__all__ = ["gaussian_rsample_log_prob"]


@names_mistakes
def gaussian_rsample_log_prob(
    mu: Tensor,
    logvar: Tensor | float | None = None,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    clamp: tuple[float, float] | None = None,
    num_samples: int | None = None,
    sample_shape: SampleShape | None = None,
    prior: PriorArgument = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    rng: str = "philox",
    eps: Tensor | None = None,
    **mistaken: Never,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Sample a diagonal Gaussian, and its log-density and the prior's where the sample fell.

    .. math::
        z = \mu + \sigma \epsilon \qquad
        \log q = \sum -\tfrac12 \epsilon^2 - \log \sigma - \tfrac12 \log 2\pi \qquad
        \log p = \sum -\tfrac12 \Big(\frac{z - \mu_p}{\sigma_p}\Big)^2
            - \log \sigma_p - \tfrac12 \log 2\pi

    The sums run over all dims but the first. The gradients are those of the formulas: through z
    (path-wise) and through the parameters themselves (score). To drop the score's, evaluate log q
    of z at detached parameters instead.

    Args:
        mu, logvar, log_std, std, var, rho, clamp, prior, sample_shape, num_samples, key, generator,
            rng, eps: see :func:`gaussian_latent`.

    Returns:
        ``(z, log_q, log_p)`` of shapes (\*sample_shape, \*shape), (\*sample_shape, B) and the same,
        B the size of dim 0.
        z has the inputs' dtype, the densities are float32 (float64 for float64 inputs).

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does.

    Source: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016.

    Example:
        >>> import math, torch
        >>> from fused_reparam import gaussian_rsample_log_prob
        >>> mu, log_std = torch.zeros(4, 3), torch.zeros(4, 3)
        >>> z, log_q, log_p = gaussian_rsample_log_prob(mu, log_std=log_std, num_samples=50)
        >>> bound = torch.logsumexp(log_p - log_q, 0) - math.log(50)  # + log p(x|z), in a VAE
        >>> z.shape, bound
        (torch.Size([50, 4, 3]), tensor([0., 0., 0., 0.]))
    """
    if not isinstance(mu, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(gaussian_rsample_log_prob, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    kind, scale = one_scale("mu", mu, logvar, log_std, std, var, rho)
    sources = one_source(key, generator, rng, eps, sample_shape, num_samples)
    bounds = bounds_of(clamp, kind)
    against = prior_of(prior)
    z, (log_q, log_p), _ = elementwise.sample(
        against.of("log_prob"),
        (("mu", mu), (SCALE_KINDS[kind], scale), *against.parameters),
        sources=sources,
        kind=kind,
        prior_kind=against.kind,
        constants=(*bounds, *against.constants),
        reduction="sample",
    )
    return z, log_q, log_p
