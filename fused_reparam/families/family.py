"""What a family of distributions is to the op layer and to backends: one row of facts.

A formula takes parameters of shape (n,), base noise ``eps`` of shape (n,) or (samples, n), the
position ``kind`` (and ``prior_kind``) of a scale keyword in ``core.scales.SCALE_KINDS``, and the
family's ``constants``. It returns ``z``, shaped as eps, and ``terms``: what the op layer sums over
elements, such as a KL (shape (n,)) or a log-density (shaped as eps: the family is
``sampled``). All is differentiable PyTorch code in float32 or float64; gradients of every order are
those of these formulas. ``eps=None`` where only terms that need no noise are wanted: z is then not
looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.scales import LOG_STD, LOGVAR, clamp, log_var_of, sigma_of

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
Terms = tuple[Tensor, ...]
Number = float | Tensor
Formula = Callable[
    [Sequence[Tensor], Tensor | None, int, int, Sequence[float]], tuple[Tensor, Terms]
]


class Family(NamedTuple):
    """What the op layer and the backends must know about a family."""

    parameters: int
    constants: int
    base: str
    """A name of ``rng.bases.BASES``."""
    terms: int
    sampled: bool
    """Whether the terms depend on the noise: then each sample has its own."""
    formula: Formula
    linear: bool = True
    """Whether z is parameter 0 and something that does not depend on it."""
    scaled: bool = False
    """Whether parameter 1 is a scale, of the keyword ``kind``, and constants 0 and 1 bound it."""
    base_number: int | None = None
    """Which of the constants the base noise takes."""
    base_parameter: int | None = None
    """Which of the parameters the base noise takes instead. The noise is then no number that a user
    could give: a formula makes it of what an element's noise is made of, a pair along a last dim of
    its eps (``stream_of``), and so has the gradient of that parameter."""
    transform: str = "linear"
    """The name of what becomes of parameters and noise, in C++ and in Triton."""
    hard: str = ""
    """The same where ``kind`` is 1, of a family that is not scaled and has a second form."""
    term: str = ""
    """The name of the term that depends on the parameters alone."""
    draw: str = ""
    """A name of ``rng.torch_draws.DRAWS``: how PyTorch draws the noise of the counterpart there, if
    it is not as it draws others of this base noise."""

    names: str = ""
    """Those of the parameters, where it is not scaled; with a "+" that of a positive one."""

    # What follows is of families whose public functions are ``<name>_rsample`` and, where there is
    # a KL, ``<name>_latent``, with a prior of the same family. Self-test, tests, bench and
    # the table of docs/families.md are made of these rows.
    prior: str = ""
    """The names of the numbers that say what the KL is to."""
    prior_constants: Callable[..., tuple[Any, ...]] = lambda: ()
    """The family's constants, from the numbers of ``prior``, or from tensors given for them."""
    law: Callable[..., Any] | None = None
    """The distribution, by its parameters' names."""
    about: tuple[str, str, str] = ("", "", "")
    """Its name, its sample as a formula of uniform u and normal eps, and what it is used for."""

    def some_prior(self) -> dict[str, float]:
        """A prior to check with, which gives all that parameters not below 0.2 do."""
        return {
            name.rstrip("+"): 0.15 if name.endswith("+") else 0.3 for name in self.prior.split()
        }

    def to_tensors(self) -> Family:
        """The family with the prior's numbers as its last parameters, in place of constants."""
        own, formula, constants = self.parameters, self.formula, self.prior_constants

        def learned(p, eps, kind, prior_kind, _):  # type: ignore[no-untyped-def]
            return formula(p[:own], eps, kind, prior_kind, constants(*p[own:]))

        return self._replace(
            parameters=own + len(self.prior.split()), constants=0, formula=learned,
            term=f"{self.term}_prior", names=f"{self.names} {self.prior}", prior="",
            prior_constants=tuple, law=None, about=("", "", ""),
        )  # fmt: skip


def scale_of(x: Tensor, kind: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    """sigma and log sigma^2 of a scale parameter, bounded."""
    return sigma_and_log(clamp(x, low, high), kind)


def sigma_and_log(x: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    if kind not in (LOGVAR, LOG_STD):
        sigma = sigma_of(x, kind)
        return sigma, log_var_of(x, sigma, kind)
    log_sigma = 0.5 * x if kind == LOGVAR else x
    return bounded_exp(log_sigma), 2.0 * log_sigma


def bounded_exp(x: Tensor) -> Tensor:
    """e^x, 0 or infinite as ever; its derivatives may meet a gradient that is 0 or infinite.

    Above the dtype's range they are large rather than infinite, and below it there are none.
    """
    least, most = (-746.0, 709.78) if x.dtype == torch.float64 else (-104.0, 88.72)
    beyond = 1.0 + 1e30 * torch.relu(x - most)
    return torch.exp(x.clamp(least, most)) * beyond


def located(loc: Tensor, scale: Tensor, eps: Tensor | None) -> Tensor:
    return loc if eps is None else loc + scale * eps


def log_of(x: Number) -> Any:
    """The logarithm of a number, or of a tensor given for one."""
    return torch.log(x) if isinstance(x, Tensor) else math.log(x)


def over(x: Tensor | float, y: Tensor) -> Tensor:
    """x / y, whose gradient squares no 1 / y."""
    # In units of y, constants that change nothing.
    limits = torch.finfo(y.dtype)
    unit = y.detach().reciprocal().clamp(limits.tiny, limits.max)
    return (x * unit) / (y * unit)


def stretched(scale: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """scale e^(x / y), also where the power alone is beyond the dtype."""
    # Of less the power is 0, with derivatives of 0 that may not meet an infinite quotient.
    nothing = x / y < (-3000.0 if x.dtype == torch.float64 else -400.0)
    quotient = torch.where(nothing, -math.inf, over(x, torch.where(nothing, 1.0, y)))
    # Each half by itself: twice the gradient of one may be beyond the dtype.
    return (scale * torch.exp(0.5 * quotient)) * torch.exp(0.5 * quotient)


def bounded_quotient(x: Tensor, y: Tensor, most: float) -> Tensor:
    """x / y within bounds beyond which e^-|x / y| is 0; no gradient there."""
    beyond = (x / y).abs() > most
    return torch.where(beyond, most * torch.sign(x), x / torch.where(beyond, 1.0, y))


def log_q(eps: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * eps * eps - 0.5 * log_var - HALF_LOG_2PI
