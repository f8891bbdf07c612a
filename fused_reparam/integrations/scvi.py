"""scvi-tools: the likelihood of counts, of which most of its models' losses are made.

``NegativeBinomial.log_prob``, ``ZeroInflatedNegativeBinomial.log_prob`` and the mixture with a
dispersion for each component call two functions, each of which becomes one op.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import functional as fused
from .protocol import Report, Target, apply
from .servable import unserved

_MODULE = "scvi.distributions._negative_binomial"


def patch(rng: str = "philox") -> Report:
    """Let the ops serve scvi-tools' likelihoods of counts.

    ``rng``, and what is returned: see :func:`fused_reparam.integrations.patch`. Nothing here
    draws, so that ``rng`` changes nothing.
    """
    return apply("scvi", "scvi-tools", targets(), {"rng": rng})


def targets() -> list[Target]:
    """From scvi-tools 1.3 to 1.4 these are the same; the first is what it was in 1.0."""
    return [
        Target(
            _MODULE, "log_nb_positive", "x, mu, theta, eps, log_fn, lgamma_fn",
            NEGATIVE_BINOMIAL, _negative_binomial,
        ),
        Target(
            _MODULE, "log_zinb_positive", "x, mu, theta, pi, eps, log_fn, lgamma_fn",
            ZERO_INFLATED, _zero_inflated,
        ),
    ]  # fmt: skip


def _negative_binomial(
    x: Any, mu: Any, theta: Any, eps: Any = 1e-8, log_fn: Any = torch.log,
    lgamma_fn: Any = torch.lgamma,
) -> Tensor | str:  # fmt: skip
    why = _unserved((x, mu, theta), eps, log_fn, lgamma_fn)
    if why is not None:
        return why
    return fused.negative_binomial_log_prob(x, mu + eps, theta)


def _zero_inflated(
    x: Any, mu: Any, theta: Any, pi: Any, eps: Any = 1e-8, log_fn: Any = torch.log,
    lgamma_fn: Any = torch.lgamma,
) -> Tensor | str:  # fmt: skip
    why = _unserved((x, mu, theta, pi), eps, log_fn, lgamma_fn)
    if why is not None:
        return why
    if theta.dim() == 1 and max(x.dim(), mu.dim(), pi.dim()) < 2:
        return "one cell, to which the original adds a dim"
    return fused.zero_inflated_negative_binomial_log_prob(x, mu + eps, theta, pi)


def _unserved(given: tuple[Any, ...], eps: Any, log_fn: Any, lgamma_fn: Any) -> str | None:
    """Why the original is to do it."""
    why = unserved(*given)
    if why is not None:
        return why
    if not all(isinstance(each, Tensor) for each in given):
        return "a number in place of a tensor"
    if given[0].dtype not in (torch.float32, torch.float64):
        return f"{given[0].dtype}"
    if log_fn is not torch.log or lgamma_fn is not torch.lgamma:
        return "a logarithm or gamma function of the caller's"
    # The original adds eps to theta, too, which changes the result by less than eps.
    if type(eps) is not float or not 0.0 <= eps <= 1e-8:
        return "another eps than 1e-8"
    return None


NEGATIVE_BINOMIAL = "92fe403f2722"
ZERO_INFLATED = "8c3f4da1ba4e"
