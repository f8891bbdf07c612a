"""The prior of a Bayesian layer's weights, and where their scales start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Never, TypedDict

from ...core.mistakes import unknown
from ...functional import arguments
from ...functional.sample_weight import mixture_constants

__all__ = ["Mixture", "Prior", "PriorOptions", "checked_prior"]

Mixture = tuple[float, float, float]


class PriorOptions(TypedDict, total=False):
    """What every Bayesian layer takes beside its sizes."""

    prior_mean: float
    prior_std: float
    mixture: Mixture | None
    rho_init: float


class Prior(NamedTuple):
    """A layer's, checked."""

    mean: float
    std: float
    mixture: Mixture | None
    rho_init: float


def checked_prior(
    of: Callable[..., Any],
    *,
    prior_mean: float = 0.0,
    prior_std: float = 1.0,
    mixture: Mixture | None = None,
    rho_init: float = -5.0,
    **mistaken: Never,
) -> Prior:
    """What a user said of it to ``of``, a class or a function."""
    if mistaken:
        raise unknown(of, mistaken)
    mean = arguments.number("prior_mean", prior_mean)
    std = arguments.deviation("prior_std", prior_std)
    if mixture is not None:
        if isinstance(mixture, (tuple, list)) and len(mixture) == 3:  # of numbers: no parameters
            names = ("mixture share", "mixture std", "mixture std")
            share, *stds = map(arguments.number, names, mixture)
            mixture = share, stds[0], stds[1]
        mixture = mixture_constants(mixture, std)
    return Prior(mean, std, mixture, arguments.number("rho_init", rho_init))
