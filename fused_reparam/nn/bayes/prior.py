"""The prior of a Bayesian layer's weights, and where their scales start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Never, TypedDict

import torch
from torch import Tensor, nn

from ... import functional
from ...core.mistakes import described, unknown
from ...core.scales import SCALE_KINDS
from ...functional import arguments
from ...functional.divergence import PriorArgument, prior_of
from ...functional.sample_weight import Mixture, mixture_constants
from ...functional.tensor_numbers import check_broadcasts, operand
from ..stochastic import Stochastic
from ..tensor_numbers import number_of_prior, own, release
from .ranks import checked_noise

__all__ = [
    "Mixture",
    "Numbers",
    "Prior",
    "PriorOptions",
    "WithPrior",
    "checked_prior",
    "fitted",
    "flat",
    "gaussian_kl",
    "no_prior",
    "sampled_kl",
]

_MIXTURE = ("mixture_share", "mixture_std1", "mixture_std2")
_CHECKS = {"prior_mean": arguments.number, "prior_std": arguments.deviation}
# Of a prior: mean, standard deviation, mixture.
Numbers = tuple[Tensor | float, Tensor | float, Mixture | None]


class PriorOptions(TypedDict, total=False):
    """What every Bayesian layer takes beside its sizes."""

    prior: PriorArgument
    prior_mean: Tensor | float
    prior_std: Tensor | float
    mixture: Mixture | None
    rho_init: float
    noise: str


class Prior(NamedTuple):
    """A layer's, checked; and whose noise its weights have."""

    mean: Tensor | float
    std: Tensor | float
    mixture: Mixture | None
    rho_init: float
    noise: str


def checked_prior(
    of: Callable[..., Any],
    *,
    prior: PriorArgument = None,
    prior_mean: Tensor | float = 0.0,
    prior_std: Tensor | float = 1.0,
    mixture: Mixture | None = None,
    rho_init: float = -5.0,
    noise: str = "shared",
    **mistaken: Never,
) -> Prior:
    """What a user said of it to ``of``, a class or a function."""
    if mistaken:
        raise unknown(of, mistaken)
    if prior is not None:
        usual = {"prior_mean": 0.0, "prior_std": 1.0, "mixture": None}
        others = {"prior_mean": prior_mean, "prior_std": prior_std, "mixture": mixture}
        for name, value in others.items():
            if isinstance(value, Tensor) or value != usual[name]:
                raise ValueError(
                    f"give prior or {name}, got {described(prior)} and {name}={described(value)}"
                )
        prior_mean, prior_std = _mean_and_std(prior)
    mean = number_of_prior("prior_mean", prior_mean, arguments.number)
    std = number_of_prior("prior_std", prior_std, arguments.deviation)
    if mixture is not None:
        mixture = _checked_mixture(mixture, std)
    rho_init = arguments.number("rho_init", rho_init)
    return Prior(mean, std, mixture, rho_init, checked_noise(noise))


def _checked_mixture(mixture: Any, std: Tensor | float) -> Mixture:
    """A mixture of numbers, or of tensors that a layer can hold; its std must be the default."""
    if isinstance(mixture, (tuple, list)) and len(mixture) == 3:
        names = ("mixture share", "mixture std", "mixture std")
        mixture = tuple(
            number_of_prior(name, value, arguments.number)
            for name, value in zip(names, mixture, strict=True)
        )
    return mixture_constants(mixture, std)


def _mean_and_std(prior: PriorArgument) -> tuple[Any, Any]:
    found = prior_of(prior)
    if not found.parameters:
        return found.constants  # type: ignore[return-value]
    if SCALE_KINDS[found.kind] != "std":
        raise ValueError(
            "the prior of weights is (mean, std) or a torch.distributions.Normal, got one with its "
            f"{SCALE_KINDS[found.kind]}"
        )
    (_, mean), (_, std) = found.parameters
    return mean, std


def fitted(prior: Prior, weights: Mapping[str, Tensor]) -> dict[str, Tensor | float]:
    """The numbers of a prior by name, as a layer of these weights holds them; or ValueError."""
    named = [("prior_mean", prior.mean), ("prior_std", prior.std)]
    return _fitted([*named, *zip(_MIXTURE, prior.mixture or (), strict=False)], weights)


def _fitted(
    named: Iterable[tuple[str, Tensor | float]], weights: Mapping[str, Tensor]
) -> dict[str, Tensor | float]:
    return {name: _number_of(name, value, weights) for name, value in named}


def _number_of(name: str, value: Tensor | float, weights: Mapping[str, Tensor]) -> Tensor | float:
    """A number, or a tensor of the weights' dtype and device: a copy, unless it is learned."""
    if not isinstance(value, Tensor):
        return value
    for weight, t in weights.items():
        check_broadcasts(name, value, f"the layer's {weight} of shape", t.shape)
    like = next(iter(weights.values()))
    operand(name, value, value)
    if not value.requires_grad and not isinstance(value, nn.Parameter):
        value = value.to(like.device, like.dtype)
    promoted = torch.promote_types(value.dtype, like.dtype)
    if value.device != like.device or promoted != like.dtype:
        raise ValueError(
            f"{name} must be on {like.device} and fit into {like.dtype}, as the layer's "
            f"weights, got {described(value)} on {value.device}"
        )
    return own(value)


def flat(numbers: Numbers) -> tuple[Any, ...]:
    """Mean and standard deviation of a prior, or mean and the three numbers of a mixture."""
    mean, std, mixture = numbers
    return (mean, std) if mixture is None else (mean, *mixture)


def gaussian_kl(mu: Tensor, rho: Tensor, mean: Any, std: Any) -> Tensor:
    """Of weights to their prior, summed."""
    return functional.gaussian_kl(mu, rho=rho, reduction="sum", prior=(mean, std))


def sampled_kl(
    mu: Tensor, rho: Tensor, mean: Any, *mixture: Any, key: Tensor | None = None
) -> Tensor:
    """To a mixture: an estimate, of weights that are drawn for it."""
    return functional.sample_weight(mu, rho, mean, mixture=mixture, key=key)[1]  # type: ignore[arg-type]


class WithPrior(Stochastic):
    """A layer that holds the prior of its weights: numbers as attributes, tensors as buffers."""

    prior_mean: Tensor | float
    prior_std: Tensor | float
    rho_init: float
    noise: str
    _mixture = False
    """Whether there is one, which ``mixture_share`` and its two ``mixture_std`` say."""
    _drawn: object = None
    """What was drawn last, by the prior as it was."""

    def __setattr__(self, name: str, value: Any) -> None:
        # No properties: a module can't register tensors by their names. A replica of DataParallel
        # is given tensors that have a history.
        if name not in _CHECKS or "_weights" not in vars(self) or hasattr(self, "_is_replica"):
            super().__setattr__(name, value)
            return
        value = number_of_prior(name, value, _CHECKS[name])
        if name == "prior_std" and self.mixture is not None:
            mixture_constants(self.mixture, value)
        self._put(_fitted([(name, value)], self._means()))

    def _hold(self, prior: Prior, weights: Mapping[str, Tensor]) -> None:
        """Keep a prior of these weights."""
        self.rho_init, self.noise = prior.rho_init, prior.noise
        self._put(fitted(prior, weights))

    def _put(self, numbers: Mapping[str, Tensor | float]) -> None:
        """Keep numbers that fit, in place of those of the same names; what was drawn is void."""
        release(self, *numbers)
        for name, value in numbers.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            elif isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                vars(self)[name] = value
        if _MIXTURE[0] in numbers:
            self._mixture = True
        self._drawn = None

    def _means(self) -> dict[str, Tensor]:
        """Of the weights that the layer has."""
        return {n[:-3]: p for n, p in self._parameters.items() if p is not None and n[-3:] == "_mu"}

    def _check_mixture(self, mixture: Mixture | None) -> None:
        """Raise ValueError where the layer's other options allow no such mixture."""

    @property
    def _held(self) -> tuple[str, ...]:
        """The names of the prior's tensors."""
        names = ("prior_mean", "prior_std", *_MIXTURE)
        return tuple(n for n in names if n in self._buffers or n in self._parameters)

    @property
    def prior(self) -> tuple[Tensor | float, Tensor | float]:
        """Mean and standard deviation of a prior that is no mixture."""
        return self.prior_mean, self.prior_std

    @property
    def mixture(self) -> Mixture | None:
        """Share and standard deviations of a prior that is a mixture."""
        if not self._mixture:
            return None
        share, std1, std2 = (getattr(self, name) for name in _MIXTURE)
        return share, std1, std2

    @mixture.setter
    def mixture(self, mixture: Mixture | None) -> None:
        checked: dict[str, Tensor | float] = {}
        if mixture is not None:
            mixture = _checked_mixture(mixture, self.prior_std)
            self._check_mixture(mixture)
            checked = _fitted(zip(_MIXTURE, mixture, strict=True), self._means())
        release(self, *_MIXTURE)
        self._mixture = False
        self._put(checked)

    def _numbers(self) -> Numbers:
        """Mean, standard deviation and mixture of the prior."""
        return self.prior_mean, self.prior_std, self.mixture


def no_prior(layer: WithPrior) -> None:
    """What the layer's argument ``prior`` is printed as: it stands in ``prior_mean`` and others."""
