"""Distributions within [0, 1]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributions
from torch.distributions.utils import (
    clamp_probs,
    logits_to_probs,
    probs_to_logits,
)

from ..families import continuous_bernoulli
from ..functional.relaxed_log_prob import relaxed_bernoulli_log_prob
from ..functional.unit_interval import relaxed_bernoulli
from .base import Fused, OfFamily, Parameter, SomeNoise, Transformed, in_dtype_of, points
from .given import derived

__all__ = ["ContinuousBernoulli", "Kumaraswamy", "RelaxedBernoulli"]


class _OfChance(Fused):
    """Has log-odds, or the probability of 1 that they are made of."""

    @derived
    def logits(self) -> Tensor:
        if self._names[0] == "logits":
            return self._whole("logits")
        return probs_to_logits(self.probs, is_binary=True)

    @derived
    def probs(self) -> Tensor:
        if self._names[0] == "probs":
            return self._whole("probs")
        return clamp_probs(logits_to_probs(self.logits, is_binary=True))

    @property
    def param_shape(self) -> torch.Size:
        return self._param.size()

    @property
    def _param(self) -> Any:
        return getattr(self, self._names[0])

    def _of_chance(
        self, probs: Parameter | None, logits: Parameter | None, validate_args: bool | None
    ) -> None:
        name, value = chance(probs, logits)
        self._made_of((name,), (value,), validate_args)


def chance(probs: Any, logits: Any) -> tuple[str, Any]:
    """Name and value of the one that was given."""
    if (probs is None) == (logits is None):
        raise ValueError(
            f"give exactly one of probs and logits, got {'neither' if probs is None else 'both'}"
        )
    return ("logits", logits) if probs is None else ("probs", probs)


class ContinuousBernoulli(_OfChance, OfFamily, distributions.ContinuousBernoulli):  # type: ignore[override]
    r"""The continuous Bernoulli distribution, ``torch.distributions.ContinuousBernoulli``.

    .. math::
        z = \frac{\log(1 - u + u e^{\ell})}{\ell}, \qquad
        \log p(z) = \ell z - \log \frac{e^\ell - 1}{\ell}

    Args:
        probs, logits, lims, validate_args: as of ``torch.distributions.ContinuousBernoulli``.
            Samples, densities and divergences are smooth at logits of 0 and need no ``lims``, which
            are those of the moments and of the distribution function.

    Source: Loaiza-Ganem and Cunningham, "The continuous Bernoulli: fixing a pervasive error in
    variational autoencoders", 2019.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import ContinuousBernoulli
        >>> q = ContinuousBernoulli(logits=torch.linspace(-5.0, 5.0, 100))
        >>> z, kl = q.rsample_and_kl(ContinuousBernoulli(logits=0.0))
        >>> bool(((z >= 0) & (z <= 1) & (kl >= 0)).all())
        True
    """

    _family = "continuous_bernoulli"

    def __init__(
        self,
        probs: Parameter | None = None,
        logits: Parameter | None = None,
        lims: tuple[float, float] = (0.499, 0.501),
        validate_args: bool | None = None,
    ) -> None:
        self._lims = lims
        self._of_chance(probs, logits, validate_args)

    @property
    def probs(self) -> Tensor:  # type: ignore[override]
        """Held off 0 and 1, where moments would be NaN, and not kept, see ``given.keeps``."""
        given = self.__dict__.get("probs")
        if given is None:
            given = super().probs
        return clamp_probs(given)

    @probs.setter
    def probs(self, value: Tensor) -> None:
        self.__dict__["probs"] = value

    def _expand_others(self, new: Any) -> None:
        super()._expand_others(new)
        new._lims = self._lims

    def _log_prob(self, value: Tensor) -> Tensor:
        logits = self.logits
        _, log_shc, less_half = continuous_bernoulli.prior_constants(logits)
        # Half the size of large logits is in both terms: with it nothing else would be left.
        near = logits.abs() < 1.0
        offset = torch.where(near, 0.5, (logits > 0.0).to(logits.dtype))
        return (value - offset) * logits - torch.where(near, log_shc, less_half)


class Kumaraswamy(OfFamily, Transformed, distributions.Kumaraswamy):
    r"""The Kumaraswamy distribution, ``torch.distributions.Kumaraswamy`` in one pass.

    .. math::
        z = (1 - u^{1 / b})^{1 / a}, \qquad
        \log p(z) = \log ab + (a - 1) \log z + (b - 1) \log(1 - z^a)

    Args:
        concentration1, concentration0, validate_args: a and b, as of
            ``torch.distributions.Kumaraswamy``.

    The divergence to a ``Beta`` is that of :func:`fused_reparam.kumaraswamy_kl`.

    Source: Nalisnick and Smyth, "Stick-breaking variational autoencoders", 2017.

    Example:
        >>> import torch
        >>> from torch.distributions import kl_divergence
        >>> from fused_reparam.distributions import Beta, Kumaraswamy
        >>> q = Kumaraswamy(torch.full((3, 4), 2.0), torch.full((4,), 5.0))
        >>> q.rsample().shape, kl_divergence(q, Beta(1.0, 5.0)).shape
        (torch.Size([3, 4]), torch.Size([3, 4]))
    """

    _family = "kumaraswamy"

    def __init__(
        self,
        concentration1: Parameter,
        concentration0: Parameter,
        validate_args: bool | None = None,
    ) -> None:
        names = "concentration1", "concentration0"
        self._made_of(names, (concentration1, concentration0), validate_args)

    def _log_prob(self, value: Tensor) -> Tensor:
        a, b = self.concentration1, self.concentration0
        log_value = torch.log(value)
        left = torch.log(-torch.expm1(a * log_value))
        return torch.log(a) + torch.log(b) + (a - 1.0) * log_value + (b - 1.0) * left


class Relaxed(Fused):
    """Has a temperature beside its parameters."""

    _temperature: Parameter

    @property
    def temperature(self) -> Any:
        return self._temperature

    def _expand_others(self, new: Any) -> None:
        super()._expand_others(new)
        new._temperature = self._temperature


class RelaxedBernoulli(_OfChance, Relaxed, Transformed, distributions.RelaxedBernoulli):
    r"""The relaxed Bernoulli distribution, ``torch.distributions.RelaxedBernoulli`` in one pass.

    .. math::
        z = \mathrm{sigmoid}\Big(\frac{\ell + \log u - \log(1 - u)}{\tau}\Big)

    Args:
        temperature: tau, positive: a tensor, or a number, which PyTorch does not take everywhere.
        probs, logits, validate_args: as of ``torch.distributions.RelaxedBernoulli``.

    Source: Maddison, Mnih and Teh, "The concrete distribution", 2017.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import RelaxedBernoulli
        >>> q = RelaxedBernoulli(0.5, logits=torch.zeros(4, 3))
        >>> z, log_prob = q.rsample_and_log_prob()
        >>> z.shape, log_prob.shape
        (torch.Size([4, 3]), torch.Size([4, 3]))
    """

    def __init__(
        self,
        temperature: Parameter,
        probs: Parameter | None = None,
        logits: Parameter | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self._temperature = temperature
        self._of_chance(probs, logits, validate_args)

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | {"temperature": torch.as_tensor(self._temperature)}

    def _draw(self, noise: SomeNoise) -> Tensor:
        return relaxed_bernoulli(self.logits, self._temperature, **noise)

    def _log_prob(self, value: Tensor) -> Tensor:
        value = points(value, self.logits)
        found = relaxed_bernoulli_log_prob(value, self.logits, self._temperature)
        return in_dtype_of(found, value, self.logits)
