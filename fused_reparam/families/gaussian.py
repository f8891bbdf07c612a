"""The Gaussian: its KL to a Gaussian prior, or log-densities, of numbers or of tensors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.scales import RHO, STD, VAR, clamp, sigma_of
from .family import HALF_LOG_2PI, Family, Terms, bounded_exp, located, log_q, sigma_and_log


class _Prior(NamedTuple):
    """The Gaussian that a divergence or log-density is to: its mean, and its scale parameter."""

    mean: Tensor | float
    x: Tensor
    kind: int
    log_var: Tensor


def _prior_of_numbers(mean: float, std: float, like: Tensor) -> _Prior:
    held = std if std <= torch.finfo(like.dtype).max else math.inf  # full takes no larger number
    x = torch.full((), held, dtype=like.dtype, device=like.device)
    return _Prior(mean, x, STD, torch.full_like(x, 2.0 * math.log(std)))


def _prior_of_tensors(mean: Tensor, x: Tensor, kind: int) -> _Prior:
    return _Prior(mean, x, kind, sigma_and_log(x, kind)[1])


def _positive(x: Tensor, kind: int) -> Tensor:
    """A prior's scale parameter; NaN, with gradients of NaN, where it has no sigma above 0."""
    return x * torch.where(x > 0.0, 1.0, torch.nan) if kind in (STD, VAR) else x


def _in_prior(
    loc: Tensor, x: Tensor, kind: int, log_var: Tensor, prior: _Prior, eps: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(loc + sigma eps - prior mean) / prior sigma, and sigma / prior sigma.

    Without eps the distance is loc's. Where a sigma, or a power of it that a gradient has, may be
    beyond the dtype, the ratio is of the logarithms, and the distance is divided by the root of the
    prior's sigma twice. It is NaN where two parts of it overflow with opposite signs.

    A sigma that is itself a number of the dtype is divided as it is, far out too: a quotient's
    gradient is made of quotients that fit where it does.
    """
    edge, most = (230.0, 700.0) if loc.dtype == torch.float64 else (28.0, 87.0)
    number = _is_number(x, kind)
    near = (number | (log_var.abs() < edge)) & (
        (number & _is_number(prior.x, prior.kind)) | (prior.log_var.abs() < edge)
    )
    # Elsewhere of any number, so that no infinite derivative meets a gradient that is masked.
    prior_sigma = sigma_of(torch.where(near, prior.x, 1.0), prior.kind)
    sigma = sigma_of(torch.where(near, x, 1.0), kind)
    ratio = sigma / prior_sigma
    far_log_var = torch.where(near, 0.0, prior.log_var)
    fixed = far_log_var.detach().clamp(max=torch.finfo(loc.dtype).max)  # less than an infinite one
    # 1, with the derivatives that the prior's scale gives the whole distance: those of its parts
    # may be infinities that cancel.
    shrink = torch.exp(0.5 * (fixed - far_log_var))
    far_ratio = bounded_exp(0.5 * (torch.where(near, 0.0, log_var) - fixed))
    root = torch.exp((-0.25 * fixed).clamp(max=most))  # bounded, so that nothing times it is NaN
    far = (loc - prior.mean) * root * root
    distance = (loc - prior.mean) / prior_sigma
    if eps is not None:
        far = far + far_ratio * eps
        # In one quotient, whose parts' gradients may be infinities that cancel, and of a sixteenth:
        # loc + sigma eps may be beyond the dtype.
        distance = 16.0 * (((loc - prior.mean) / 16.0 + (sigma / 16.0) * eps) / prior_sigma)
    return torch.where(near, distance, far * shrink), torch.where(near, ratio, far_ratio * shrink)


def _is_number(x: Tensor, kind: int) -> Tensor:
    """Where sigma is about the parameter itself or its root: not an exponential, which may be
    beyond the dtype.
    """
    return x > 0.0 if kind == RHO else torch.full_like(x, int(kind in (STD, VAR)), dtype=torch.bool)


def _gaussian_kl(
    loc: Tensor, x: Tensor, kind: int, log_var: Tensor, prior: _Prior, floor: float
) -> Tensor:
    distance, ratio = _in_prior(loc, x, kind, log_var, prior)
    kl = 0.5 * (distance * distance + ratio * ratio - 1.0 - (log_var - prior.log_var))
    return floored(kl, floor)


def floored(element: Tensor, floor: float) -> Tensor:
    """Free bits: at least ``floor``, with no gradient below it."""
    return torch.where(element < floor, floor, element) if floor > -math.inf else element


def gaussian(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = mu + sigma eps; term: KL to N(prior_mean, prior_std^2), at least ``floor``.

    Parameters mu, x. Constants low, high (bounds of x), prior_mean, prior_std, floor::

        KL = 0.5 (((mu - prior_mean) / prior_std)^2 + (sigma / prior_std)^2 - 1
                  - log(sigma^2 / prior_std^2))
    """
    low, high, prior_mean, prior_std, floor = constants
    x = clamp(p[1], low, high)
    sigma, log_var = sigma_and_log(x, kind)
    prior = _prior_of_numbers(prior_mean, prior_std, x)
    return located(p[0], sigma, eps), (_gaussian_kl(p[0], x, kind, log_var, prior, floor),)


def gaussian_prior(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """The same with the prior's mean and scale as parameters 2, 3; constants low, high, floor."""
    low, high, floor = constants
    x = clamp(p[1], low, high)
    sigma, log_var = sigma_and_log(x, kind)
    prior = _prior_of_tensors(p[2], _positive(p[3], prior_kind), prior_kind)
    return located(p[0], sigma, eps), (_gaussian_kl(p[0], x, kind, log_var, prior, floor),)


def log_prob(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = mu + sigma eps; terms: log q(z) and log p(z), the prior N(prior_mean, prior_std^2).

    Parameters mu, x. Constants low, high, prior_mean, prior_std::

        log q = -0.5 eps^2 - log sigma - 0.5 log 2 pi
    """
    low, high, prior_mean, prior_std = constants
    x = clamp(p[1], low, high)
    sigma, log_var = sigma_and_log(x, kind)
    prior = _prior_of_numbers(prior_mean, prior_std, x)
    return located(p[0], sigma, eps), _log_densities(p[0], x, kind, log_var, eps, prior)


def log_prob_prior(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """The same with the prior's mean and scale as parameters 2 and 3; constants low, high."""
    x = clamp(p[1], *constants)
    sigma, log_var = sigma_and_log(x, kind)
    prior = _prior_of_tensors(p[2], _positive(p[3], prior_kind), prior_kind)
    return located(p[0], sigma, eps), _log_densities(p[0], x, kind, log_var, eps, prior)


def _log_densities(
    loc: Tensor, x: Tensor, kind: int, log_var: Tensor, eps: Tensor, prior: _Prior
) -> Terms:
    """log q(z) and log p(z) of z = loc + sigma eps, in the prior's units: z may be infinite."""
    d, _ = _in_prior(loc, x, kind, log_var, prior, eps)
    return log_q(eps, log_var), -0.5 * d * d - 0.5 * prior.log_var - HALF_LOG_2PI


def gaussian_density(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = mu + sigma eps; term: the log-density of N(mu, sigma^2) at a point.

    Parameters mu, x, point. Numbers low, high (bounds of x)::

        log p = -0.5 ((point - mu) / sigma)^2 - log sigma - 0.5 log 2 pi
    """
    x = clamp(p[1], *constants)
    sigma, _ = sigma_and_log(x, kind)
    return located(p[0], sigma, eps), (log_density(p[2], p[0], x, kind),)


def log_density(point: Tensor, loc: Tensor, x: Tensor, kind: int) -> Tensor:
    """Of N(loc, sigma^2), also where sigma is beyond the dtype."""
    own = _prior_of_tensors(loc, x, kind)
    d, _ = _in_prior(point, torch.ones_like(point), STD, torch.zeros_like(point), own)
    return log_q(d, own.log_var)


GAUSSIAN = Family(2, 5, "normal", 1, False, gaussian, scaled=True, term="gaussian")
GAUSSIAN_PRIOR = Family(
    4, 3, "normal", 1, False, gaussian_prior, scaled=True, term="gaussian_prior"
)
GAUSSIAN_DENSITY = Family(
    3, 2, "normal", 1, False, gaussian_density, scaled=True, term="gaussian_density"
)
LOG_PROB = Family(2, 4, "normal", 2, True, log_prob, scaled=True, transform="log_prob")
LOG_PROB_PRIOR = Family(
    4, 2, "normal", 2, True, log_prob_prior, scaled=True, transform="log_prob_prior"
)
