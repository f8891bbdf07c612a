"""A bounded action: the tanh of a Gaussian, between two ends."""

from __future__ import annotations

import math

import torch

from ..core.scales import clamp, sigma_of
from .family import Family, located, log_of, log_q, scale_of, sigma_and_log
from .gaussian import log_density


def tanh_normal(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = middle + half tanh(x), x = mean + sigma eps; term: its log-density, from x itself.

    Parameters mean, scale. Constants low, high (bounds of the scale parameter), lowest, highest (of
    the action); middle and half are their mean and half their distance. With e = exp(-2 |x|)::

        log p = -0.5 eps^2 - log sigma - 0.5 log 2 pi - log half - 2 (log 2 - |x| - log(1 + e))
    """
    return _tanh_normal(p, eps, kind, *constants)


def tanh_normal_between(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """The same with lowest and highest as parameters 2 and 3; constants low, high."""
    low, high = constants
    return _tanh_normal(p, eps, kind, low, high, p[2], p[3])


def _tanh_normal(p, eps, kind, low, high, lowest, highest):  # type: ignore[no-untyped-def]
    sigma, log_var = scale_of(p[1], kind, low, high)
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
    return action, (log_q(eps, log_var) - log_of(half) - log_slope,)


def tanh_normal_score(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """The same of a fixed action: z has no gradient, and the term's is the score.

    That of log N(x; mean, sigma^2) at x, which is not moved by the parameters.
    """
    scale = clamp(p[1], *constants[:2])
    x = (p[0] + sigma_of(scale, kind) * eps).detach()
    action, (log_prob,) = tanh_normal([t.detach() for t in p], eps, kind, prior_kind, constants)
    own = log_density(x, p[0], scale, kind)
    # In the graph, as all samples are, with a gradient of 0.
    action = torch.where(torch.zeros_like(x, dtype=torch.bool), p[0], action.detach())
    return action, (log_prob.detach() + (own - own.detach()),)


def tanh_normal_score_between(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """The same with lowest and highest as parameters 2 and 3, which the score is also of.

    Constants low, high, spacing: of numbers around 1 in the action's dtype. An action that is so
    near an end that it was rounded to it gives the ends no gradient.
    """
    low, high, spacing = constants
    scale = clamp(p[1], low, high)
    x = (p[0] + sigma_of(scale, kind) * eps).detach()
    fixed = [t.detach() for t in p]
    action, (log_prob,) = tanh_normal_between(fixed, eps, kind, prior_kind, (low, high))
    # The action's distances to both ends, by their gradients too.
    width, least = (
        fixed[3] - fixed[2],
        0.5 * spacing * torch.maximum(fixed[2].abs(), fixed[3].abs()),
    )
    above, below = width * torch.sigmoid(2.0 * x), width * torch.sigmoid(-2.0 * x)
    held = (above < least) | (below < least)
    above = torch.where(held, 1.0, above - (p[2] - fixed[2]))
    below = torch.where(held, 1.0, below + (p[3] - fixed[3]))
    log_above, log_below = torch.log(above), torch.log(below)
    point = torch.where(held, x, 0.5 * (log_above - log_below))
    factor = torch.where(held, 0.0, torch.log(p[3] - p[2]) - log_above - log_below)
    own = log_density(point, p[0], scale, kind) + factor
    action = torch.where(torch.zeros_like(x, dtype=torch.bool), p[0], action)
    return action, (log_prob + (own - own.detach()),)


def tanh_normal_density(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = mean + sigma eps; term: the log-density of middle + half tanh(z) at an action.

    Parameters mean, scale, action. Numbers low, high (bounds of the scale parameter), lowest,
    highest, least. The distances to both ends are exact where the action is near one of them; none
    is less than ``least``, where the action is held and gets no gradient, nor more than both::

        above = action - lowest, below = highest - action, x = 0.5 (log above - log below)
        log p = log N(x; mean, sigma^2) + log half - log above - log below
    """
    low, high, lowest, highest, least = constants
    x = clamp(p[1], low, high)
    sigma, _ = sigma_and_log(x, kind)
    held = (p[2] - lowest < least) | (highest - p[2] < least)
    action = torch.where(held, p[2].detach(), p[2])
    width = highest - lowest
    above = torch.log((action - lowest).clamp(least, width))
    below = torch.log((highest - action).clamp(least, width))
    density = log_density(0.5 * (above - below), p[0], x, kind)
    return located(p[0], sigma, eps), (density + (math.log(0.5 * width) - above - below),)


def tanh_normal_density_between(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """The same with the action's distances above and below as parameters 2 and 3.

    Constants low, high.
    A negative distance is that of an action that is held, which has no gradient, nor have the ends:
    the other distance is then that of the ends.
    """
    x = clamp(p[1], *constants)
    sigma, _ = sigma_and_log(x, kind)
    held = (p[2] < 0.0) | (p[3] < 0.0)
    above, below = (torch.where(held, t.detach().abs(), t) for t in p[2:])
    log_above, log_below = torch.log(above), torch.log(below)
    density = log_density(0.5 * (log_above - log_below), p[0], x, kind)
    width = torch.where(held, torch.maximum(above, below), above + below)
    factor = torch.log(0.5 * width) - log_above - log_below
    return located(p[0], sigma, eps), (density + factor,)


TANH_NORMAL = Family(
    2, 4, "normal", 1, True, tanh_normal, linear=False, scaled=True, transform="tanh_normal"
)
TANH_NORMAL_SCORE = Family(
    2, 4, "normal", 1, True, tanh_normal_score, linear=False, scaled=True,
    transform="tanh_normal_score",
)  # fmt: skip
TANH_NORMAL_DENSITY = Family(
    3, 5, "normal", 1, False, tanh_normal_density, scaled=True, term="tanh_normal_density"
)
TANH_NORMAL_BETWEEN = Family(
    4, 2, "normal", 1, True, tanh_normal_between, linear=False, scaled=True,
    transform="tanh_normal_between",
)  # fmt: skip
TANH_NORMAL_SCORE_BETWEEN = Family(
    4, 3, "normal", 1, True, tanh_normal_score_between, linear=False, scaled=True,
    transform="tanh_normal_score_between",
)  # fmt: skip
TANH_NORMAL_DENSITY_BETWEEN = Family(
    4, 2, "normal", 1, False, tanh_normal_density_between, scaled=True,
    term="tanh_normal_density_between",
)  # fmt: skip
