"""The element-wise families: how parameters and base noise become a sample and its values.

A formula takes parameters of shape (n,), base noise ``eps`` of shape (n,) or (samples, n), the
position ``kind`` (and ``prior_kind``) of a scale keyword in ``SCALE_KINDS``, and the family's
``numbers``. It returns ``z``, shaped as eps, and ``values``: numbers per element that the op layer
sums, such as a KL (shape (n,)) or a log-density (shaped as eps: the family is ``sampled``). All is
differentiable PyTorch code in float32 or float64; gradients of every order are those of these
formulas. ``eps=None`` where only values that need no noise are wanted: z is then not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .gaussian import STD, clamp, log_var_of, sigma_of

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
Values = tuple[Tensor, ...]
Formula = Callable[
    [Sequence[Tensor], Tensor | None, int, int, Sequence[float]], tuple[Tensor, Values]
]


class Family(NamedTuple):
    """What the op layer and the backends must know about a family."""

    parameters: int
    numbers: int
    base: str
    """A name of ``rng.bases.BASES``."""
    values: int
    sampled: bool
    """Whether the values depend on the noise: then each sample has its own."""
    formula: Formula
    linear: bool = True
    """Whether z is parameter 0 and something that does not depend on it."""


def _scale(x: Tensor, kind: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    """sigma and log sigma^2 of a scale parameter, bounded."""
    return _sigma_and_log(clamp(x, low, high), kind)


def _sigma_and_log(x: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    sigma = sigma_of(x, kind)
    return sigma, log_var_of(x, sigma, kind)


class _Prior(NamedTuple):
    """The Gaussian that a divergence or log-density is to: its mean, and its scale parameter."""

    mean: Tensor | float
    x: Tensor
    kind: int
    log_var: Tensor


def _prior_of_numbers(mean: float, std: float, like: Tensor) -> _Prior:
    x = torch.full((), std, dtype=like.dtype, device=like.device)
    return _Prior(mean, x, STD, torch.full_like(x, 2.0 * math.log(std)))


def _prior_of_tensors(mean: Tensor, x: Tensor, kind: int) -> _Prior:
    return _Prior(mean, x, kind, _sigma_and_log(x, kind)[1])


def _in_prior(
    loc: Tensor, x: Tensor, kind: int, log_var: Tensor, prior: _Prior, eps: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(loc + sigma eps - prior mean) / prior sigma, and sigma / prior sigma.

    Without eps the distance is loc's. Where a sigma, or a power of it that a gradient has, may be
    beyond the dtype, the ratio is of the logarithms, and the distance is divided by the root of the
    prior's sigma twice. It is NaN where two parts of it overflow with opposite signs.
    """
    edge, most = (230.0, 700.0) if loc.dtype == torch.float64 else (28.0, 87.0)
    near = (log_var.abs() < edge) & (prior.log_var.abs() < edge)
    # Elsewhere of any number, so that no infinite derivative meets a gradient that is masked.
    sigma = sigma_of(torch.where(near, x, 1.0), kind)
    prior_sigma = sigma_of(torch.where(near, prior.x, 1.0), prior.kind)
    far_log_var = torch.where(near, 0.0, prior.log_var)
    fixed = far_log_var.detach()
    # 1, with the derivatives that the prior's scale gives the whole distance: those of its parts
    # may be infinities that cancel.
    shrink = torch.exp(0.5 * (fixed - far_log_var))
    far_ratio = torch.exp(0.5 * (torch.where(near, 0.0, log_var) - fixed))
    root = torch.exp((-0.25 * fixed).clamp(max=most))  # bounded, so that nothing times it is NaN
    far = (loc - prior.mean) * root * root
    if eps is not None:
        far = far + far_ratio * eps
    distance = (_sample(loc, sigma, eps) - prior.mean) / prior_sigma
    return (
        torch.where(near, distance, far * shrink),
        torch.where(near, sigma / prior_sigma, far_ratio * shrink),
    )


def _gaussian_kl(
    loc: Tensor, x: Tensor, kind: int, log_var: Tensor, prior: _Prior, floor: float
) -> Tensor:
    distance, ratio = _in_prior(loc, x, kind, log_var, prior)
    kl = 0.5 * (distance * distance + ratio * ratio - 1.0 - (log_var - prior.log_var))
    return floored(kl, floor)


def floored(element: Tensor, floor: float) -> Tensor:
    """Free bits: at least ``floor``, with no gradient below it."""
    return torch.where(element < floor, floor, element) if floor > -math.inf else element


def gaussian(p, eps, kind, prior_kind, numbers):  # type: ignore[no-untyped-def]
    """z = mu + sigma eps; value: KL to N(prior_mean, prior_std^2), at least ``floor``.

    Parameters mu, x. Numbers low, high (bounds of x), prior_mean, prior_std, floor::

        KL = 0.5 (((mu - prior_mean) / prior_std)^2 + (sigma / prior_std)^2 - 1
                  - log(sigma^2 / prior_std^2))
    """
    low, high, prior_mean, prior_std, floor = numbers
    x = clamp(p[1], low, high)
    sigma, log_var = _sigma_and_log(x, kind)
    prior = _prior_of_numbers(prior_mean, prior_std, x)
    return _sample(p[0], sigma, eps), (_gaussian_kl(p[0], x, kind, log_var, prior, floor),)


def gaussian_prior(p, eps, kind, prior_kind, numbers):  # type: ignore[no-untyped-def]
    """The same with the prior's mean and scale as parameters 2 and 3; numbers low, high, floor."""
    low, high, floor = numbers
    x = clamp(p[1], low, high)
    sigma, log_var = _sigma_and_log(x, kind)
    prior = _prior_of_tensors(p[2], p[3], prior_kind)
    return _sample(p[0], sigma, eps), (_gaussian_kl(p[0], x, kind, log_var, prior, floor),)


def log_prob(p, eps, kind, prior_kind, numbers):  # type: ignore[no-untyped-def]
    """z = mu + sigma eps; values: log q(z) and log p(z), the prior N(prior_mean, prior_std^2).

    Parameters mu, x. Numbers low, high, prior_mean, prior_std::

        log q = -0.5 eps^2 - log sigma - 0.5 log 2 pi
    """
    low, high, prior_mean, prior_std = numbers
    x = clamp(p[1], low, high)
    sigma, log_var = _sigma_and_log(x, kind)
    prior = _prior_of_numbers(prior_mean, prior_std, x)
    return _sample(p[0], sigma, eps), _log_densities(p[0], x, kind, log_var, eps, prior)


def log_prob_prior(p, eps, kind, prior_kind, numbers):  # type: ignore[no-untyped-def]
    """The same with the prior's mean and scale as parameters 2 and 3; numbers low, high."""
    x = clamp(p[1], *numbers)
    sigma, log_var = _sigma_and_log(x, kind)
    prior = _prior_of_tensors(p[2], p[3], prior_kind)
    return _sample(p[0], sigma, eps), _log_densities(p[0], x, kind, log_var, eps, prior)


def mixture(p, eps, kind, prior_kind, numbers):  # type: ignore[no-untyped-def]
    """z = mu + sigma eps; value: log q(z) - log p(z), the prior a mixture of two normals.

    Parameters mu, x. Numbers low, high, prior_mean, share, std1, std2::

        p = share N(prior_mean, std1^2) + (1 - share) N(prior_mean, std2^2),  0 < share < 1
    """
    low, high, mean = numbers[:3]
    std, constant, ahead, fall = wider_and_narrower(*numbers[3:])
    sigma, log_var = _scale(p[1], kind, low, high)
    z = p[0] + sigma * eps
    d = (z - mean) / std
    square = d * d
    # Not torch.logaddexp: its second derivative is NaN where one of the two is far below the other.
    more = -torch.nn.functional.logsigmoid(fall * square - ahead)
    return z, (_log_q(eps, log_var) - (constant - HALF_LOG_2PI - 0.5 * square + more),)


def wider_and_narrower(share: float, std1: float, std2: float) -> tuple[float, float, float, float]:
    """A mixture by its wider normal: its std, and log(share / std) of it; how far the narrower
    one's logarithm is ahead of the wider one's at the mean, and how it falls with d^2.

    With d = (z - mean) / std and ``a = ahead - fall d^2``: ``log p = constant - d^2 / 2 - log(2 pi)
    / 2 + log(1 + e^a)``. Nothing is infinite less infinite, however far z is.
    """
    (wide, constant), (narrow, other) = sorted(
        ((std1, math.log(share) - math.log(std1)), (std2, math.log1p(-share) - math.log(std2))),
        reverse=True,
    )
    ratio = wide / narrow
    # Float32's: not 0, which times an infinite square would be NaN, and nothing infinite.
    fall = min(max(0.5 * (ratio * ratio - 1.0), 2.0**-126), 2.0**126)
    return wide, constant, other - constant, fall


def tanh_normal(p, eps, kind, prior_kind, numbers):  # type: ignore[no-untyped-def]
    """z = middle + half tanh(x), x = mean + sigma eps; value: its log-density, from x itself.

    Parameters mean, scale. Numbers low, high (bounds of the scale parameter), lowest, highest (of
    the action); middle and half are their mean and half their distance. With e = exp(-2 |x|)::

        log p = -0.5 eps^2 - log sigma - 0.5 log 2 pi - log half - 2 (log 2 - |x| - log(1 + e))
    """
    low, high, lowest, highest = numbers
    sigma, log_var = _scale(p[1], kind, low, high)
    x = p[0] + sigma * eps
    positive = x >= 0
    size = torch.where(positive, x, -x)
    e = torch.exp(-2.0 * size)
    # Near zero 1 - e has no digits left. Elsewhere not torch.tanh, whose gradient 1 - tanh^2 is 0
    # where the float is 1. Nor expm1, which the older exporter to ONNX does not know.
    tanh = torch.where(size < 0.25, torch.tanh(size), (1.0 - e) / (1.0 + e))
    tanh = torch.where(positive, tanh, -tanh)
    half = 0.5 * (highest - lowest)
    action = 0.5 * (highest + lowest) + half * tanh
    # The sum may round to beyond an end.
    action = action + (action.clamp(lowest, highest) - action).detach()
    # Near zero as log(1 - tanh^2), whose derivative does not cancel.
    near = torch.where(size < 0.25, tanh, 0.0)
    far = 2.0 * (math.log(2.0) - size - torch.log1p(e))
    log_slope = torch.where(size < 0.25, torch.log1p(-near * near), far)
    return action, (_log_q(eps, log_var) - math.log(half) - log_slope,)


def log_normal(p, eps, kind, prior_kind, numbers):  # type: ignore[no-untyped-def]
    """z = exp(loc + sigma eps); value: KL to the log-normal of loc 0 and sigma 1.

    Parameters loc, scale. Numbers low, high.
    """
    sigma, log_var = _scale(p[1], kind, *numbers)
    kl = 0.5 * (p[0] * p[0] + sigma * sigma - 1.0 - log_var)
    return torch.exp(_sample(p[0], sigma, eps)), (kl,)


def _loc_scale(kl: Callable[[Tensor, Tensor], Tensor] | None) -> Formula:
    """z = loc + scale eps; value: KL to the standard member, where it is closed."""

    def formula(p, eps, kind, prior_kind, numbers):  # type: ignore[no-untyped-def]
        return _sample(p[0], p[1], eps), () if kl is None else (kl(p[0], p[1]),)

    return formula


def laplace_kl(loc: Tensor, scale: Tensor) -> Tensor:
    """scale exp(-|loc| / scale) + |loc| - log scale - 1."""
    size = loc.abs()
    # Where the first term is nothing beside the others it is left out: its gradient would be 0
    # times an infinity.
    none = (size > 700.0 * scale) | (scale < torch.finfo(scale.dtype).tiny)
    inside = torch.where(none, 1.0, scale)
    # In units of the scale, a constant that changes nothing: no square of 1 / scale is met.
    unit = 1.0 / inside.detach()
    sized, scaled = torch.where(none, 0.0, size) * unit, inside * unit
    near = torch.where(none, 0.0, inside.detach() * (scaled * torch.exp(-sized / scaled)))
    return near + size - torch.log(scale) - 1.0


def uniform_kl(loc: Tensor, scale: Tensor) -> Tensor:
    """-log scale where [loc - scale, loc + scale] is within [-1, 1], else infinite; NaN of NaN."""
    end = loc.abs() + scale
    nothing = 0.0 * torch.where(end > 1.0, 0.0, loc) ** 2 * scale
    return torch.where(end > 1.0, math.inf, nothing - torch.log(scale))


def cauchy_kl(loc: Tensor, scale: Tensor) -> Tensor:
    """log(((1 + scale)^2 + loc^2) / (4 scale))."""
    # Of the root, and by the difference of the logarithms: neither overflows.
    return 2.0 * torch.log(0.5 * torch.hypot(1.0 + scale, loc)) - torch.log(scale)


def relaxed_bernoulli(p, eps, kind, prior_kind, numbers):  # type: ignore[no-untyped-def]
    """z = sigmoid((logits + eps) / tau); kind 1 is straight-through: [logits + eps > 0] instead.

    Parameter logits. Number tau. The gradient is the sigmoid's either way.
    """
    total = p[0] + eps
    soft = torch.sigmoid(total / numbers[0])
    if kind == 0:
        return soft, ()
    return (total > 0).to(soft.dtype) + (soft - soft.detach()), ()


def kumaraswamy(p, eps, kind, prior_kind, numbers):  # type: ignore[no-untyped-def]
    """z = (1 - exp(-eps / b))^(1 / a). Parameters a (concentration1), b (concentration0).

    Beyond the bounds z is 1 or 0 and no gradient is left, where the quotients may be infinite.
    """
    t = _quotient(eps, p[1])
    # A tiny t is 1 - exp(-t) to its last digit, but may have no reciprocal, which a gradient would
    # take. Of a large t 1 - exp(-t) rounds to 1.
    tiny, large = t < 1e-20, t > 0.7
    of_tiny = torch.log(torch.where(tiny, eps, 1.0)) - torch.log(torch.where(tiny, p[1], 1.0))
    of_large = torch.log1p(-torch.exp(-torch.where(large, t, 1.0)))
    of_others = torch.log(-torch.expm1(-torch.where(tiny | large, 0.5, t)))
    log_base = torch.where(tiny, of_tiny, torch.where(large, of_large, of_others))
    return torch.exp(_quotient(log_base, p[0])), ()


def _quotient(x: Tensor, y: Tensor) -> Tensor:
    """x / y within bounds beyond which e^-|x / y| is 0; there it has no gradient."""
    most = 1100.0 if x.dtype == torch.float64 else 128.0
    beyond = (x / y).abs() > most
    return torch.where(beyond, most * torch.sign(x), x / torch.where(beyond, 1.0, y))


def _sample(loc: Tensor, scale: Tensor, eps: Tensor | None) -> Tensor:
    return loc if eps is None else loc + scale * eps


def _log_q(eps: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * eps * eps - 0.5 * log_var - HALF_LOG_2PI


def _log_densities(
    loc: Tensor, x: Tensor, kind: int, log_var: Tensor, eps: Tensor, prior: _Prior
) -> Values:
    """log q(z) and log p(z) of z = loc + sigma eps, in the prior's units: z may be infinite."""
    d, _ = _in_prior(loc, x, kind, log_var, prior, eps)
    return _log_q(eps, log_var), -0.5 * d * d - 0.5 * prior.log_var - HALF_LOG_2PI


FAMILIES: dict[str, Family] = {
    "gaussian": Family(2, 5, "normal", 1, False, gaussian),
    "gaussian_prior": Family(4, 3, "normal", 1, False, gaussian_prior),
    "log_prob": Family(2, 4, "normal", 2, True, log_prob),
    "log_prob_prior": Family(4, 2, "normal", 2, True, log_prob_prior),
    "mixture": Family(2, 6, "normal", 1, True, mixture),
    "tanh_normal": Family(2, 4, "normal", 1, True, tanh_normal, linear=False),
    "log_normal": Family(2, 2, "normal", 1, False, log_normal, linear=False),
    "laplace": Family(2, 0, "laplace", 1, False, _loc_scale(laplace_kl)),
    "logistic": Family(2, 0, "logistic", 0, False, _loc_scale(None)),
    "gumbel": Family(2, 0, "gumbel", 0, False, _loc_scale(None)),
    "uniform": Family(2, 0, "uniform", 1, False, _loc_scale(uniform_kl)),
    "cauchy": Family(2, 0, "cauchy", 1, False, _loc_scale(cauchy_kl)),
    "student_t": Family(2, 1, "student_t", 0, False, _loc_scale(None)),
    "relaxed_bernoulli": Family(1, 1, "logistic", 0, False, relaxed_bernoulli, linear=False),
    "kumaraswamy": Family(2, 0, "exponential", 0, False, kumaraswamy, linear=False),
}
"""By name, which backends receive; the order is the native library's numbering."""


def is_standard(family: str, numbers: Sequence[float], samples: int) -> bool:
    """Whether a call is a sample of a Gaussian and its KL to N(0, 1), for which a backend may have
    kernels of its own.
    """
    return family == "gaussian" and samples == 1 and tuple(numbers[2:]) == (0.0, 1.0, -math.inf)


def base_number(family: str, numbers: Sequence[float]) -> float:
    """The number that the family's base noise takes: Student's degrees of freedom, else unused."""
    return numbers[0] if family == "student_t" else 0.0
