"""The scale of a Gaussian by any of its keywords; the others are made of it when asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ..core.mistakes import described
from ..core.scales import SCALE_KINDS, log_var_of, sigma_of
from .base import Fused, Parameter
from .given import derived

__all__ = ["Scaled", "one_scale", "scale_of"]

# "scale" is what PyTorch calls std.
ATTRIBUTES = tuple(["scale" if kind == "std" else kind for kind in SCALE_KINDS])
_POSITIVE = ("scale", "var")


class Scaled(Fused):
    """Has a Gaussian's scale, the last of its parameters, by one keyword of five."""

    def __init__(
        self,
        loc: Parameter,
        scale: Parameter | None = None,
        validate_args: bool | None = None,
        *,
        log_std: Parameter | None = None,
        logvar: Parameter | None = None,
        var: Parameter | None = None,
        rho: Parameter | None = None,
    ) -> None:
        name, value = one_scale(scale, log_std, logvar, var, rho)
        self._constrain(name)
        self._made_of(("loc", name), (loc, value), validate_args)

    @property
    def _scale(self) -> dict[str, Any]:
        """The scale's keyword of the package's functions, and what was given for it."""
        name = self._names[-1]
        return {"std" if name == "scale" else name: self._parameter(name)}

    def _constrain(self, name: str) -> None:
        """Say which values the scale may have, where the counterpart does not."""
        if name != "scale":
            of_scale = constraints.positive if name in _POSITIVE else constraints.real
            usual: dict[str, Any] = type(self).arg_constraints  # type: ignore[assignment]
            others = {key: of for key, of in usual.items() if key != "scale"}
            self.arg_constraints = others | {name: of_scale}  # type: ignore[misc]

    @derived
    def scale(self) -> Tensor:
        return self._as("scale", sigma_of)

    @derived
    def var(self) -> Tensor:
        return self._as("var", lambda x, kind: sigma_of(x, kind).square())

    @derived
    def logvar(self) -> Tensor:
        return self._as("logvar", _log_var)

    @derived
    def log_std(self) -> Tensor:
        return self._as("log_std", lambda x, kind: 0.5 * _log_var(x, kind))

    @derived
    def rho(self) -> Tensor:
        return self._as("rho", _rho)

    def _as(self, name: str, made: Callable[[Tensor, int], Tensor]) -> Tensor:
        """The scale by another keyword, made of what was given."""
        given = self._names[-1]
        if given == name:
            return self._whole(name)
        return made(getattr(self, given), ATTRIBUTES.index(given))


def _log_var(x: Tensor, kind: int) -> Tensor:
    return log_var_of(x, sigma_of(x, kind), kind)


def _rho(x: Tensor, kind: int) -> Tensor:
    """The inverse of softplus."""
    sigma = sigma_of(x, kind)
    return sigma + torch.log(-torch.expm1(-sigma))


def one_scale(
    scale: Parameter | None,
    log_std: Parameter | None,
    logvar: Parameter | None,
    var: Parameter | None,
    rho: Parameter | None,
) -> tuple[str, Parameter]:
    """Name and value of the one that was given."""
    if scale is not None and log_std is logvar is var is rho is None:  # most often so
        return "scale", scale
    values = {"scale": scale, "log_std": log_std, "logvar": logvar, "var": var, "rho": rho}
    given = {name: value for name, value in values.items() if value is not None}
    if len(given) != 1:
        said = " and ".join(f"{name}={described(value)}" for name, value in given.items())
        raise ValueError(f"give exactly one of {', '.join(values)}; got {said or 'none'}")
    ((name, value),) = given.items()
    return name, value


def scale_of(distribution: Any) -> dict[str, Any]:
    """The scale of a Gaussian of this package or of PyTorch's, by its keyword."""
    if isinstance(distribution, Scaled):
        return distribution._scale
    return {"std": distribution.scale}
