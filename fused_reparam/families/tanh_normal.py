"""A bounded action: the tanh of a Gaussian, between two ends."""

from __future__ import annotations

import math

import torch

from .family import Family, log_q, scale_of


def tanh_normal(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = middle + half tanh(x), x = mean + sigma eps; term: its log-density, from x itself.

    Parameters mean, scale. Constants low, high (bounds of the scale parameter), lowest, highest (of
    the action); middle and half are their mean and half their distance. With e = exp(-2 |x|)::

        log p = -0.5 eps^2 - log sigma - 0.5 log 2 pi - log half - 2 (log 2 - |x| - log(1 + e))
    """
    low, high, lowest, highest = constants
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
    return action, (log_q(eps, log_var) - math.log(half) - log_slope,)


TANH_NORMAL = Family(
    2, 4, "normal", 1, True, tanh_normal, linear=False, scaled=True, transform="tanh_normal"
)
