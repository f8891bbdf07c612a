"""A linear layer of sampled weights that are not kept, as ``recompute=True`` asks for."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.scales import RHO, SCALE_KINDS
from ..ops.sampled_linear import Spec, sampled_linear
from . import elementwise
from .arguments import parameters
from .elementwise import Named
from .sample_weight import Mixture, mixture_of_numbers, sample_weight
from .sources import key_of, sources_of

__all__ = ["linear", "served"]

# Mean, standard deviation and mixture of a prior.
Numbers = tuple[Tensor | float, Tensor | float, Mixture | None]


def served(prior: Numbers) -> bool:
    """Whether one pass draws weights and computes their KL to this prior."""
    mean, _, mixture = prior
    if mixture is None:
        return True
    return not isinstance(mean, Tensor) and mixture_of_numbers(mean, mixture) is not None


def linear(
    x: Tensor,
    mu: Tensor,
    rho: Tensor,
    bias: tuple[Tensor, Tensor] | None,
    prior: Numbers,
    key: Tensor | None = None,
    key_of_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``(y, kl, kl of the bias)`` of weights drawn from N(mu, softplus(rho)^2), and of a bias.

    The numbers are those of ``linear(x, w, b)`` with ``w, kl = sample_weight(mu, rho, ...)`` and
    then the same of the bias, for the same keys or state of the generator.
    """
    mean, std, mixture = prior
    key = key_of(sources_of(key, None, {}), mu)
    b = of_bias = None
    if bias is not None:
        b, of_bias = sample_weight(*bias, mean, std, mixture=mixture, key=key_of_bias)
    family, prior_kind, constants, tensors = _draw(prior)
    params = parameters(("mu", mu), (SCALE_KINDS[RHO], rho), *tensors)
    y, kl = sampled_linear(x, params, b, key, Spec(family, RHO, prior_kind, constants))
    return y, kl, of_bias


def _draw(prior: Numbers) -> tuple[str, int, tuple[float, ...], tuple[Named, ...]]:
    """Family, kind of the prior's scale, constants, and the prior's tensors."""
    mean, std, mixture = prior
    free_bits, scale = elementwise.UNBOUNDED[0], SCALE_KINDS.index("std")
    if mixture is not None:
        found: Any = mixture_of_numbers(mean, mixture)  # type: ignore[arg-type]
        return "mixture", 0, found, ()
    if isinstance(mean, Tensor) or isinstance(std, Tensor):
        tensors = ("prior_mean", mean), ("prior_std", std)
        return "gaussian_prior", scale, (*elementwise.UNBOUNDED, free_bits), tensors
    return "gaussian", 0, (*elementwise.UNBOUNDED, mean, std, free_bits), ()
