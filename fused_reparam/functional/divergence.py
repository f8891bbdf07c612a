"""The KL of a Gaussian: to which prior, its free bits and its factor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from ..core import reductions
from ..core.mistakes import described, suggestion
from ..core.modes import eager
from ..core.scales import SCALE_KINDS
from ..core.storage import check_given
from .arguments import check_choice, check_reduction, check_tensor, deviation, number, one_scale
from .reduction import Dims, Reduction, summed

# What a user gives: None, (mean, std), (mean, {"logvar": tensor}) or a Normal.
PriorArgument = tuple[Any, Any] | Distribution | None
_PER = ("sample", "element")


class Prior(NamedTuple):
    """N(mean, std^2) by python numbers, or by parameters of the op."""

    constants: tuple[float, ...]  # mean, std; none where there are parameters
    parameters: tuple[tuple[str, Tensor | float], ...] = ()  # named: mean, scale
    kind: int = 0  # position of the scale parameter's keyword in SCALE_KINDS

    def of(self, family: str) -> str:
        """The form of a family that takes this prior."""
        return f"{family}_prior" if self.parameters else family


def prior_of(prior: PriorArgument) -> Prior:
    """The prior that a user gave, checked."""
    if prior is None:
        return Prior((0.0, 1.0))
    if isinstance(prior, Distribution):
        prior = _of_normal(prior)
    if not isinstance(prior, Sequence) or len(prior) != 2:
        raise TypeError(
            'prior must be None, (mean, std) of two numbers, (mean, {"logvar": tensor}) with any '
            f"of {', '.join(SCALE_KINDS)}, or a torch.distributions.Normal; got {described(prior)}"
        )
    mean, scale = prior
    if isinstance(scale, dict):
        unknown = [str(name) for name in scale if name not in SCALE_KINDS]
        if unknown:
            raise ValueError(
                f"prior's scale must be one of {', '.join(SCALE_KINDS)}, got {', '.join(unknown)}"
                + suggestion(unknown[0], SCALE_KINDS)
            )
        kind, value = one_scale("prior mean", mean, *(scale.get(name) for name in SCALE_KINDS))
        return Prior((), (("prior mean", mean), (f"prior {SCALE_KINDS[kind]}", value)), kind)
    if isinstance(scale, Tensor):
        raise TypeError(
            'prior: say which scale a tensor is: (mean, {"logvar": tensor}) or another of '
            f"{', '.join(SCALE_KINDS)}; got {described(prior)}"
        )
    std = deviation("prior std", scale)
    if isinstance(mean, Tensor):
        check_tensor("prior mean", mean)
        kind = SCALE_KINDS.index("std")
        return Prior((), (("prior mean", mean), ("prior std", std)), kind)
    return Prior((number("prior mean", mean), std))


def _of_normal(prior: Distribution) -> Any:
    """Mean and std of a Normal, also of an Independent one; another distribution as it is."""
    normal = prior
    while isinstance(normal, Independent):
        normal = normal.base_dist
    if not isinstance(normal, Normal):
        return prior
    loc, scale = normal.loc, normal.scale
    if eager() and all(t.is_cpu and not (t.dim() or t.requires_grad) for t in (loc, scale)):
        return loc.item(), scale.item()  # Normal(0.0, 1.0), for tensors on any device
    return loc, {"std": scale}


class Divergence:
    """Which KL is wanted, and what the op has to know of it."""

    __slots__ = (
        "beta",
        "constants",
        "family",
        "inner",
        "prior",
        "reduction",
        "sample_floor",
        "standard",
    )

    def __init__(
        self,
        reduction: Reduction | None,  # None: no KL is wanted
        prior: Prior,
        element_floor: float = -math.inf,  # of each element's KL
        sample_floor: float = -math.inf,  # of each sample's KL
        beta: Tensor | float = 1.0,
    ) -> None:
        self.reduction, self.prior, self.sample_floor, self.beta = (
            reduction,
            prior,
            sample_floor,
            beta,
        )
        # Free bits of a sample need each sample's sum, whatever is made of them then.
        by_sample = sample_floor > -math.inf and not isinstance(reduction, tuple)
        self.inner = "sample" if by_sample else reduction
        self.family = prior.of("gaussian")
        self.constants = (*prior.constants, element_floor)
        factor = isinstance(beta, Tensor) or beta != 1.0
        self.standard = self.constants == (0.0, 1.0, -math.inf) and not (
            factor or sample_floor > -math.inf
        )
        """Whether it is the KL to N(0, 1) as it is."""

    def finish(self, kl: Tensor, shape: Callable[[], torch.Size]) -> Tensor:
        """What is left to do to the op's KL of a latent of a shape: it has B numbers or one."""
        if self.sample_floor > -math.inf:
            kl = kl.clamp_min(self.sample_floor)  # no gradient below it
            if self.reduction == "batchmean":
                kl = kl.mean()
            elif self.reduction != "sample" and isinstance(self.reduction, str):
                kl = reductions.scaled(kl.sum(), reductions.factor(shape(), self.reduction))
        if isinstance(self.beta, Tensor):
            if self.beta.device != kl.device and not self.beta.is_cpu:
                raise ValueError(
                    f"beta must be on {kl.device}, as the KL is, got {self.beta.device}"
                )
            return kl * self.beta.to(kl.dtype)
        return kl if self.beta == 1.0 else kl * self.beta


# Made once: a small call's time is spent on such things.
_USUAL: dict[Reduction | None, Divergence] = {
    reduction: Divergence(reduction, prior_of(None)) for reduction in (None, *reductions.REDUCTIONS)
}


def usual(reduction: Reduction | None) -> Divergence:
    """The KL to N(0, 1) as it is, or none."""
    # To a compiler numbers that were made before are inputs: it finds out late that they are not,
    # and compiles all again.
    if torch.compiler.is_compiling():
        return Divergence(reduction, prior_of(None))
    found = _USUAL.get(reduction)
    if found is None:  # of dims
        found = _USUAL[reduction] = Divergence(reduction, prior_of(None))
    return found


def divergence(
    reduction: str,
    prior: PriorArgument,
    free_bits: float | None,
    free_bits_per: str,
    beta: Tensor | float,
    dims: Dims = None,
) -> Divergence:
    """What a user asked for, checked."""
    over: Reduction = reduction
    if dims is None:
        check_reduction(reduction)
    else:
        over = summed(reduction, dims)
    check_choice("free_bits_per", free_bits_per, _PER)
    if prior is None and free_bits is None and type(beta) is int and beta == 1:
        return usual(over)
    floor = -math.inf
    if free_bits is not None:
        floor = number("free_bits", free_bits)
        if floor < 0.0:
            raise ValueError(f"free_bits must be at least 0, got {floor}")
    per_sample = free_bits_per == "sample"
    if free_bits is not None and per_sample and over in ("none", ()):
        said = 'reduction="none"' if over else "dims=()"
        raise ValueError(
            f"free bits of a sample are of its summed KL, and {said} has no sums: give another "
            'reduction, dims or free_bits_per="element"'
        )
    if isinstance(beta, Tensor):
        check_tensor("beta", beta)
        check_given("beta", beta)
        if beta.dim():
            raise ValueError(
                f"beta must be a number or a 0-d tensor, got shape {tuple(beta.shape)}"
            )
    else:
        beta = number("beta", beta)
    element, sample = (-math.inf, floor) if per_sample else (floor, -math.inf)
    return Divergence(over, prior_of(prior), element, sample, beta)
