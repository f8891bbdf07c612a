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
from ..core.scales import SCALE_KINDS
from .arguments import check_choice, check_reduction, deviation, number, one_scale
from .reduction import Dims, Reduction, reduced, summed
from .tensor_numbers import Number, changing, check_broadcasts, fixed, number_or_tensor

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
            "prior must be None, (mean, std) of numbers or tensors, "
            f'(mean, {{"logvar": tensor}}) with any of {", ".join(SCALE_KINDS)}, or a '
            f"torch.distributions.Normal; got {described(prior)}"
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
    fixed = [not isinstance(value, Tensor) and not changing(value) for value in prior]
    if fixed[1]:
        scale = deviation("prior std", scale)
    if all(fixed):
        return Prior((number("prior mean", mean), scale))
    return Prior((), (("prior mean", mean), ("prior std", scale)), SCALE_KINDS.index("std"))


def _of_normal(prior: Distribution) -> Any:
    """Mean and std of a Normal, also of an Independent one; another distribution as it is.

    Those of ``Normal(0.0, 1.0)`` are tensors without dims on the CPU. In eager mode they are read
    at each call, unless somebody asks for their derivatives: the prior of numbers, which may be
    the standard one, is the quickest, and serves latents on any device.
    """
    normal = prior
    while isinstance(normal, Independent):
        normal = normal.base_dist
    if not isinstance(normal, Normal):
        return prior
    loc, scale = normal.loc, normal.scale
    if fixed(loc) and fixed(scale):
        return loc.item(), scale.item()
    return loc, {"std": scale}


class Divergence:
    """Which KL is wanted, and what the op has to know of it."""

    __slots__ = ("beta", "constants", "family", "floor", "inner", "prior", "reduction", "standard")

    def __init__(
        self,
        reduction: Reduction | None,  # None: no KL is wanted
        prior: Prior,
        floor: Number | None = None,  # of free bits
        per_sample: bool = True,
        beta: Tensor | float = 1.0,
    ) -> None:
        self.reduction, self.prior, self.floor, self.beta = reduction, prior, floor, beta
        self.inner = reduction
        """What the op is asked for: of free bits that it does not know, what they are of."""
        in_op = -math.inf
        if not per_sample and isinstance(floor, float):
            in_op, self.floor = floor, None
        elif floor is not None and not (per_sample and isinstance(reduction, tuple)):
            self.inner = "sample" if per_sample else "none"
        self.family = prior.of("gaussian")
        self.constants = (*prior.constants, in_op)
        unchanged = self.floor is None and not isinstance(beta, Tensor) and beta == 1.0
        self.standard = unchanged and self.constants == (0.0, 1.0, -math.inf)
        """Whether it is the KL to N(0, 1) as it is."""

    def finish(self, kl: Tensor, shape: Callable[[], torch.Size]) -> Tensor:
        """What is left to do to the op's KL of a latent of a shape."""
        if self.floor is not None:
            kl = self._with_free_bits(kl, shape)
        same = not isinstance(self.beta, Tensor) and self.beta == 1.0
        return kl if same else kl * self.beta

    def _with_free_bits(self, kl: Tensor, shape: Callable[[], torch.Size]) -> Tensor:
        assert self.reduction is not None
        floor = self.floor
        if isinstance(floor, Tensor):
            of = "each element" if self.inner == "none" else "each sample"
            check_broadcasts("free_bits", floor, f"the KL of {of}", kl.shape)
        kl = kl.clamp_min(floor)  # type: ignore[arg-type]  # no gradient below it
        if self.inner == "none":
            return reduced(kl, self.reduction)
        if self.reduction == "batchmean":
            return kl.mean()
        if self.reduction == "sample" or isinstance(self.reduction, tuple):
            return kl
        return reductions.scaled(kl.sum(), reductions.factor(shape(), self.reduction))


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
    free_bits: float | Tensor | None,
    free_bits_per: str,
    beta: Tensor | float,
    dims: Dims = None,
    like: Tensor | float | None = None,
) -> Divergence:
    """What a user asked for of a latent like a tensor, checked; a layer asks without one."""
    over: Reduction = reduction
    if dims is None:
        check_reduction(reduction)
    else:
        over = summed(reduction, dims)
    if type(free_bits_per) is not str or free_bits_per not in _PER:
        check_choice("free_bits_per", free_bits_per, _PER)
    if prior is None and free_bits is None and type(beta) is int and beta == 1:
        return usual(over)
    if not isinstance(like, Tensor):
        like = torch.empty(0)
    floor = None if free_bits is None else number_or_tensor("free_bits", free_bits, like, _bits)
    per_sample = free_bits_per == "sample"
    if free_bits is not None and per_sample and over in ("none", ()):
        said = 'reduction="none"' if over else "dims=()"
        raise ValueError(
            f"free bits of a sample are of its summed KL, and {said} has no sums: give another "
            'reduction, dims or free_bits_per="element"'
        )
    beta = number_or_tensor("beta", beta, like, number)
    if isinstance(beta, Tensor) and beta.dim():
        raise ValueError(f"beta must be a number or a 0-d tensor, got shape {tuple(beta.shape)}")
    return Divergence(over, prior_of(prior), floor, per_sample, beta)


def _bits(name: str, value: Any) -> float:
    found = number(name, value)
    if found < 0.0:
        raise ValueError(f"{name} must be at least 0, got {found}")
    return found
