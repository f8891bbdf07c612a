"""Log-densities of a Gaussian: at given points, and at its own samples."""

from __future__ import annotations

from typing import Never

from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.noise_options import Generators, SampleShape
from ..core.scales import SCALE_KINDS
from ..core.tracers import fx, special
from . import elementwise
from .arguments import check_tensor, clamped, one_scale
from .divergence import PriorArgument, prior_of
from .min_std import raised
from .reduction import Dims, as_dims, summed
from .sources import one_source

__all__ = ["gaussian_log_prob", "gaussian_rsample_log_prob"]


@names_mistakes
def gaussian_log_prob(
    z: Tensor,
    mu: Tensor | float,
    logvar: Tensor | float | None = None,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    reduction: str = "none",
    dims: Dims = None,
    min_std: float | None = None,
    clamp: tuple[float, float] | None = None,
    **mistaken: Never,
) -> Tensor:
    r"""Log-density of a diagonal Gaussian at given points.

    .. math::
        \log p(z) = -\tfrac12 \Big(\frac{z - \mu}{\sigma}\Big)^2
            - \log \sigma - \tfrac12 \log 2\pi \text{ per element, reduced}

    That of ``torch.distributions.Normal(mu, sigma).log_prob(z)``, in one pass each way, in float32
    also for 16-bit inputs, and right where sigma itself is beyond the dtype.

    Args:
        z: the points, any shape; float32, float64, float16 or bfloat16. All tensors broadcast
            against each other: z (B, 1, D) against mu (1, B, D) gives every pair. All receive
            gradients.
        mu, logvar, log_std, std, var, rho, min_std, clamp: the Gaussian, as
            :func:`gaussian_latent` takes it. mu may be a number.
        reduction: "none": element-wise, which is the default here; or any other of
            :func:`gaussian_latent`, of the broadcast shape.
        dims: in place of a reduction, the dims to sum over, as in :func:`gaussian_latent`: -1 where
            the last dim holds the event.

    Returns:
        float32 tensor (float64 for float64 inputs) of the broadcast shape, or what the reduction
        leaves of it.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does.

    Source: the density of the normal distribution; of all pairs: Chen et al., "Isolating sources of
    disentanglement in variational autoencoders", 2018.

    Example:
        >>> import torch
        >>> from fused_reparam import gaussian_log_prob
        >>> z, mu, log_std = torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4, 3)
        >>> pairs = gaussian_log_prob(z[:, None], mu[None], log_std=log_std[None], dims=-1)
        >>> pairs.shape, round(pairs[0, 0].item(), 4)
        (torch.Size([4, 4]), -2.7568)
    """
    if not isinstance(z, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(gaussian_log_prob, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    check_tensor("z", z)
    kind, scale = one_scale("mu", mu, logvar, log_std, std, var, rho)
    if min_std is not None:
        kind, scale = raised(kind, scale, min_std, mu)
    scale, bounds = clamped(scale, clamp, kind)
    _, (found,) = elementwise.terms_alone(
        "gaussian_density", (("mu", mu), (SCALE_KINDS[kind], scale), ("z", z)), kind, 0, bounds,
        summed(reduction, dims, "none"),
    )  # fmt: skip
    return found


@names_mistakes
def gaussian_rsample_log_prob(
    mu: Tensor | float,
    logvar: Tensor | float | None = None,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    min_std: float | None = None,
    clamp: tuple[float, float] | None = None,
    num_samples: int | None = None,
    sample_shape: SampleShape | None = None,
    prior: PriorArgument = None,
    dims: Dims = None,
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

    The sums run over all dims but the first, or over ``dims``. The gradients are those of the
    formulas: through z (path-wise) and through the parameters themselves (score). To drop the
    score's, evaluate log q of z at detached parameters instead, by :func:`gaussian_log_prob`.

    Args:
        mu, logvar, log_std, std, var, rho, min_std, clamp, prior, sample_shape, num_samples, key,
            generator, rng, eps: see :func:`gaussian_latent`.
        dims: the dims that the densities are summed over, an int or a sequence of ints, negative
            ones counted from the end, of the shape of one sample; () sums over none.

    Returns:
        ``(z, log_q, log_p)`` of shapes (\*sample_shape, \*shape), (\*sample_shape, B) and the same,
        B the size of dim 0; with ``dims`` the densities have the dims that are left.
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
    if min_std is not None:
        kind, scale = raised(kind, scale, min_std, mu)
    sources = one_source(key, generator, rng, eps, sample_shape, num_samples)
    scale, bounds = clamped(scale, clamp, kind)
    against = prior_of(prior)
    z, (log_q, log_p), _ = elementwise.sample(
        against.of("log_prob"),
        (("mu", mu), (SCALE_KINDS[kind], scale), *against.parameters),
        sources=sources,
        kind=kind,
        prior_kind=against.kind,
        constants=(*bounds, *against.constants),
        reduction="sample" if dims is None else as_dims(dims),
    )
    return z, log_q, log_p
