"""The KL of a Gaussian: to which prior, its free bits and its factor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_choice, check_tensor, deviation, number, one_scale
from ..backends.reference import SCALE_KINDS
from ..backends.reference.families import floored
from ..mistakes import described, suggestion
from ..ops.gaussian_call import kl_weight
from ..storage import check_given

# What a user gives: None, (mean, std) or (mean, {"logvar": tensor}).
PriorArgument = tuple[Any, Any] | None
_PER = ("sample", "element")


class Prior(NamedTuple):
    """N(mean, std^2) by python numbers, or by parameters of the op."""

    numbers: tuple[float, ...] = (0.0, 1.0)  # mean, std; none where there are parameters
    parameters: tuple[tuple[str, Tensor | float], ...] = ()  # named: mean, scale
    kind: int = 0  # position of the scale parameter's keyword in SCALE_KINDS

    def of(self, family: str) -> str:
        """The form of a family that takes this prior."""
        return f"{family}_prior" if self.parameters else family


def prior_of(prior: PriorArgument) -> Prior:
    """The prior that a user gave, checked."""
    if prior is None:
        return Prior()
    if not isinstance(prior, Sequence) or len(prior) != 2:
        raise TypeError(
            'prior must be None, (mean, std) of two numbers, or (mean, {"logvar": tensor}) with '
            f"any of {', '.join(SCALE_KINDS)}; got {described(prior)}"
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


class Divergence(NamedTuple):
    """Which KL is wanted."""

    reduction: str
    prior: Prior
    element_floor: float  # of each element's KL
    sample_floor: float  # of each sample's KL
    beta: Tensor | float

    @property
    def inner(self) -> str:
        """The reduction that the op makes: free bits of a sample need each sample's sum."""
        return "sample" if self.sample_floor > -math.inf else self.reduction

    @property
    def in_op(self) -> bool:
        """Whether the elements' KLs are not those to N(0, 1)."""
        other = len(self.prior.parameters) > 0 or self.prior.numbers != (0.0, 1.0)
        return other or self.element_floor > -math.inf

    def finish(self, kl: Tensor, shape: torch.Size) -> Tensor:
        """What is left to do to the op's KL of a latent of this shape: it has B numbers or one."""
        if self.sample_floor > -math.inf:
            kl = floored(kl, self.sample_floor)
            if self.reduction != "sample":
                kl = kl_weight(shape, self.reduction) * kl.sum()
        if isinstance(self.beta, Tensor):
            if self.beta.device != kl.device and not self.beta.is_cpu:
                raise ValueError(
                    f"beta must be on {kl.device}, as the KL is, got {self.beta.device}"
                )
            return kl * self.beta.to(kl.dtype)
        return kl if self.beta == 1.0 else kl * self.beta


def standard(
    prior: PriorArgument, free_bits: float | None, free_bits_per: str, beta: Tensor | float
) -> bool:
    """Whether the KL is the plain one, to N(0, 1)."""
    return (
        prior is None
        and free_bits is None
        and type(free_bits_per) is str
        and free_bits_per == "sample"
        and isinstance(beta, (int, float))
        and beta == 1.0
        and beta is not True
    )


def divergence(
    reduction: str,
    prior: PriorArgument,
    free_bits: float | None,
    free_bits_per: str,
    beta: Tensor | float,
) -> Divergence:
    """What a user asked for, checked."""
    check_choice("free_bits_per", free_bits_per, _PER)
    floor = -math.inf
    if free_bits is not None:
        floor = number("free_bits", free_bits)
        if floor < 0.0:
            raise ValueError(f"free_bits must be at least 0, got {floor}")
    per_sample = free_bits_per == "sample"
    if free_bits is not None and per_sample and reduction == "none":
        raise ValueError(
            'free bits of a sample are of its summed KL, and reduction="none" has no sums: give '
            'another reduction or free_bits_per="element"'
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
    return Divergence(reduction, prior_of(prior), element, sample, beta)
