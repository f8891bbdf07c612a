"""Weights of a Bayesian network: sampled, with the KL to their prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..core import reductions
from ..core.dtypes import compute_dtype
from ..core.mistakes import described, names_mistakes, not_a_tensor
from ..core.noise_options import Generators, NoiseOptions, misnamed
from ..core.scalars import is_number
from ..core.scales import RHO, SCALE_KINDS
from ..core.storage import check_given
from ..core.tracers import fx, special
from ..rng.keys import draw_key
from . import elementwise
from .arguments import check_reduction, check_tensor, deviation, number, parameters
from .divergence import divergence, usual
from .latent import latent
from .sources import Sources, made_in_op, sources_of
from .tensor_numbers import changing, fixed, in_graph

__all__ = ["sample_weight"]

_TINY = torch.finfo(torch.float32).tiny
Mixture = tuple[Tensor | float, Tensor | float, Tensor | float]


@names_mistakes
def sample_weight(
    mu: Tensor,
    rho: Tensor | float,
    prior_mean: Tensor | float = 0.0,
    prior_std: Tensor | float = 1.0,
    reduction: str = "sum",
    *,
    mixture: Mixture | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> tuple[Tensor, Tensor]:
    r"""Sample the weights of a Bayesian network and their divergence to the prior.

    .. math::
        w = \mu + \sigma \epsilon, \quad \sigma = \log(1 + e^\rho) \qquad
        KL = \tfrac12 \Big( \big(\tfrac{\mu - m}{s}\big)^2 + \big(\tfrac{\sigma}{s}\big)^2
            - 1 - \log \tfrac{\sigma^2}{s^2} \Big)

    With ``mixture=(share, std1, std2)`` the prior is ``share N(m, std1^2) + (1 - share) N(m,
    std2^2)``, whose KL has no closed form: instead comes its estimate ``log q(w) - log p(w)`` at
    the weights that were drawn, in the same pass.

    Args:
        mu: means, any shape; float32, float64, float16 or bfloat16.
        rho: the scale before softplus. Any number will do: sigma and its logarithm stay exact
            where softplus rounds to 0 or to rho.
        prior_mean: m, a number or a tensor that broadcasts to mu.
        prior_std: s, of the Gaussian prior, likewise.
        reduction: of the KL: "sum", "none", "sample", "mean" or "batchmean", see
            :func:`gaussian_latent`.
        mixture: share of the first Gaussian, from 0 to 1, and the two standard deviations; numbers
            or tensors. The KL is an estimate at a share of 1 too.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gaussian_latent`. eps is standard normal.

    Tensors of a prior (learned, of each row or each weight) get gradients. Their values are not
    checked: a standard deviation must be positive.

    Returns:
        ``(w, kl)``: weights of the broadcast shape in the inputs' dtype, and the KL in float32
        (float64 for float64 inputs). To a mixture each sample has its own estimate, behind the dims
        of ``sample_shape``.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does; ValueError also for a
            prior std that is not positive, a share outside [0, 1], or both priors.

    Source: Blundell et al., "Weight uncertainty in neural networks", 2015.

    Example:
        >>> import torch
        >>> from fused_reparam import sample_weight
        >>> mu, rho = torch.zeros(10, 20), torch.full((10, 20), -3.0)
        >>> w, kl = sample_weight(mu, rho, prior_std=0.1)
        >>> w.shape, round(kl.item(), 1)
        (torch.Size([10, 20]), 68.0)
        >>> w, kl = sample_weight(mu, rho, mixture=(0.5, 1.0, 0.0025))
        >>> kl.shape
        torch.Size([])
        >>> trained = torch.randn(10, 20)  # a prior around weights that are known already
        >>> w, kl = sample_weight(trained, rho, prior_mean=trained, prior_std=torch.ones(20))
    """
    if not isinstance(mu, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(sample_weight, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    check_reduction(reduction)
    sources = sources_of(key, generator, noise)
    mean = _tensor_or_number(number, "prior_mean", prior_mean)
    std = _tensor_or_number(deviation, "prior_std", prior_std)
    if mixture is None:
        tensors = isinstance(mean, Tensor) or isinstance(std, Tensor)
        prior: Any = (mean, {"std": std}) if tensors else (mean, std)
        if not tensors and prior == (0.0, 1.0):
            prior = None
        wanted = divergence(reduction, prior, None, "sample", 1)
        return latent(mu, rho, RHO, elementwise.UNBOUNDED, wanted, sources, False)  # type: ignore[return-value]
    parts = mixture_constants(mixture, std)
    varied = changing(mean) and not isinstance(mean, Tensor)
    if varied or any(isinstance(part, Tensor) or changing(part) for part in parts):
        return _to_tensors(mu, rho, mean, parts, reduction, sources)
    if _extreme(*parts[1:]):
        return _to_tensors(mu, rho, mean, parts, reduction, sources)
    if isinstance(mean, Tensor):
        return _around(mu, rho, mean, parts, reduction, sources)
    return _to_numbers(mu, rho, mean, parts, reduction, sources)


def _to_numbers(
    mu: Tensor,
    rho: Tensor | float,
    mean: float,
    parts: tuple[float, float, float],
    reduction: str,
    sources: Sources,
) -> tuple[Tensor, Tensor]:
    """Weights, and log q(w) less the log-density of a mixture of numbers."""
    w, (kl,), _ = elementwise.sample(
        "mixture",
        (("mu", mu), (SCALE_KINDS[RHO], rho)),
        sources=sources,
        kind=RHO,
        constants=_constants(mean, parts),
        reduction=reduction,
    )
    return w, kl


def _constants(mean: float, parts: tuple[float, float, float]) -> tuple[float, ...]:
    """Of the row of a mixture of numbers."""
    share, std1, std2 = parts
    if share in (0.0, 1.0):
        # Of two equal Gaussians, none of which has an infinite logarithm.
        std1 = std2 = std1 if share else std2
        share = 0.5
    return *elementwise.UNBOUNDED, mean, share, std1, std2


def mixture_of_numbers(mean: float, mixture: Mixture) -> tuple[float, ...] | None:
    """The constants by which the row of mixtures computes a checked one; None: it can't."""
    if any(isinstance(part, Tensor) for part in mixture) or _extreme(*mixture[1:]):  # type: ignore[arg-type]
        return None
    return _constants(mean, mixture)  # type: ignore[arg-type]


def _around(
    mu: Tensor,
    rho: Tensor | float,
    mean: Tensor,
    parts: tuple[float, float, float],
    reduction: str,
    sources: Sources,
) -> tuple[Tensor, Tensor]:
    """The same of a mixture around a tensor: the KL is that of the weights less it, around 0."""
    mu, mean = parameters(("mu", mu), ("prior_mean", mean))
    # PyTorch reads them before the op, which would refuse memory that was freed.
    check_given("mu", mu)
    check_given("prior_mean", mean)
    wide = compute_dtype(mu.dtype)
    centred = mu.to(wide) - mean.to(wide)
    made = made_in_op(sources)
    if made and sources.key is None:  # for two calls
        sources = sources._replace(key=draw_key(mu.device, sources.generator), generator=None)  # type: ignore[arg-type]
    bounds, wide_mu = elementwise.UNBOUNDED, mu.expand_as(centred)
    w, *eps = latent(wide_mu, rho, RHO, bounds, usual(None), sources, not made)
    if not made:
        sources = Sources(eps=eps[0], sample_shape=sources.sample_shape)
    return w, _to_numbers(centred, rho, 0.0, parts, reduction, sources)[1]


def mixture_constants(mixture: Mixture, prior_std: Tensor | float) -> tuple[Any, Any, Any]:
    """A mixture's share and standard deviations, checked; with one, prior_std stays at 1."""
    if isinstance(prior_std, Tensor) or prior_std != 1.0:
        said = described(prior_std) if isinstance(prior_std, Tensor) else prior_std
        raise ValueError(
            f"give prior_std or mixture, got prior_std={said} and {described(mixture)}"
        )
    if not isinstance(mixture, (tuple, list)) or len(mixture) != 3:
        raise ValueError(
            f"mixture must be three numbers (share, std1, std2), got {described(mixture)}"
        )
    share = _tensor_or_number(_share, "mixture share", mixture[0])
    std1, std2 = (_tensor_or_number(deviation, "mixture std", std) for std in mixture[1:])
    return share, std1, std2


def _extreme(std1: float, std2: float) -> bool:
    """Whether a power of the stds, or of their ratio, leaves float32 on the way to a result that
    does not: the row of numbers forms them, that of tensors does not.
    """
    narrow, wide = min(std1, std2), max(std1, std2)
    return not (narrow >= 2.0**-60 and wide <= 2.0**50 and wide <= narrow * 2.0**50)


def _tensor_or_number(check: Callable[[str, float], float], name: str, value: Any) -> Any:
    """A tensor as it is, unless it can be read as a number at once and for good; or a number.

    One that changes in compiled code stays as it is: nothing may be asked of it.
    """
    if type(value) is float and not is_compiling():  # most often so
        return check(name, value)
    if isinstance(value, Tensor):
        if not fixed(value):
            check_tensor(name, value)
            return value
    elif changing(value):
        return value
    elif not is_number(value):
        raise TypeError(f"{name} must be a floating tensor or a number, got {not_a_tensor(value)}")
    return check(name, value)


def _share(name: str, value: float) -> float:
    share = number(name, value)
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{name} must lie between 0 and 1, got {share}")
    return share


def _to_tensors(
    mu: Tensor,
    rho: Tensor | float,
    mean: Tensor | float,
    parts: tuple[Tensor | float, Tensor | float, Tensor | float],
    reduction: str,
    sources: Sources,
) -> tuple[Tensor, Tensor]:
    """The same of a mixture with tensors in it, with numbers that change in compiled code, or of
    extreme numbers.
    """
    names = "mixture prior_mean", "mixture share", "mixture std", "mixture std"
    named = tuple(zip(names, (mean, *parts), strict=True))
    tensors = [(name, value) for name, value in named if isinstance(value, Tensor)]
    for name, t in tensors:  # PyTorch reads them, which does not see memory that was freed
        check_given(name, t)
    mu, rho, *prior = parameters(("mu", mu), (SCALE_KINDS[RHO], rho), *tensors)
    dtype = mu.dtype
    if made_in_op(sources):  # the density is of weights that 16 bits don't round yet
        mu, rho = (t.to(compute_dtype(dtype)) for t in (mu, rho))
    if any(t.dim() for t in prior):
        mu = mu.expand(torch.broadcast_shapes(mu.shape, *(t.shape for t in prior)))
    w, (log_q, _), _ = elementwise.sample(
        "log_prob",
        (("mu", mu), (SCALE_KINDS[RHO], rho)),
        sources=sources,
        kind=RHO,
        constants=(*elementwise.UNBOUNDED, 0.0, 1.0),
        reduction=reduction,
    )
    wide, of_prior = log_q.dtype, iter(prior)
    around, *of_mixture = (
        next(of_prior).to(wide)
        if isinstance(value, Tensor)
        else in_graph(name, value, mu, wide)
        if changing(value)
        else value
        for name, value in named
    )
    point = w.to(wide)
    if isinstance(around, Tensor) or around != 0.0:
        point = point - around
    front = len(sources.sample_shape)
    shape, inner = w.shape[front:], reduction
    if front:  # the op knows of no samples in front of a point
        kept = front + reductions.kept_dims(len(shape), reduction)
        inner = reductions.keeping(kept) if kept < w.dim() else "none"
    density = tuple(zip(("w", *names[1:]), (point, *of_mixture), strict=True))
    (log_p,) = elementwise.terms_alone("mixture_density", density, 0, 0, (), inner)[1]
    if front:
        log_p = reductions.scaled(log_p, reductions.factor(shape, reduction))
    return w.to(dtype), log_q - log_p
