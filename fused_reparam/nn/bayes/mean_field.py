"""Weights of independent Gaussians, for layers to draw, and their KL to the prior."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ... import functional
from ...backends.cpu import extension
from ...core.dtypes import DTYPES
from ...core.mistakes import described
from ...core.modes import eager
from ..stochastic import Stochastic
from .prior import (
    Numbers,
    Prior,
    PriorOptions,
    WithPrior,
    checked_prior,
    flat,
    gaussian_kl,
    sampled_kl,
)
from .ranks import is_sharded, key_of_rank, kl_of_shards, total, whole

__all__ = ["MeanField", "Part", "WeightAndBias", "has_bias"]

# What is drawn at once of a weight: means, scales and the numbers of their prior.
Part = tuple[Tensor, Tensor, Numbers]


class _Drawn(NamedTuple):
    """The KLs that came with drawn weights, and of what."""

    kls: dict[str, list[Tensor]]  # of each weight
    state: list[object]
    thread: int

    def __reduce__(self) -> tuple[Any, ...]:
        # A tensor with a history can be neither copied nor pickled: a layer's copy has None here.
        return type(None), ()


class MeanField(WithPrior):
    """A layer of PyTorch's whose weights are Gaussians, each element of its own, and their KL.

    A weight ``name`` of PyTorch's layer is here two parameters, ``name_mu`` and ``name_rho``.
    """

    _of: ClassVar[type[nn.Module]]
    """PyTorch's layer, whose sizes, options and first values this one has."""
    _drawn: _Drawn | None

    def __init__(self, layer: nn.Module, **options: Unpack[PriorOptions]) -> None:
        """A layer that takes over what PyTorch's has, its parameters included."""
        super().__init__()
        prior = checked_prior(type(self), **options)
        vars(self).update(_sizes_of(layer))
        self._become(layer._parameters, prior, {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_weights" not in vars(self):  # from older code
            self._weights = {name: (f"{name}_mu", f"{name}_rho") for name in ("weight", "bias")}

    @classmethod
    def _from(cls, layer: nn.Module, options: PriorOptions) -> Self:
        """A layer whose means are copies of another's weights."""
        problem = cls._unfit(layer)
        if problem:
            raise TypeError(f"{cls.__name__} can't be made of this layer: {problem}")
        prior = checked_prior(cls, **options)
        made = cls.__new__(cls)
        Stochastic.__init__(made)
        vars(made).update(_sizes_of(layer))
        copies = {
            name: None if p is None else nn.Parameter(p.detach().clone(), p.requires_grad)
            for name, p in layer._parameters.items()
        }
        made._become(copies, prior, {})
        return made.train(layer.training)

    @classmethod
    def _convert(
        cls, layer: nn.Module, prior: Prior, scales: dict[nn.Parameter, nn.Parameter]
    ) -> None:
        """Make a layer of PyTorch's one of this class, the same object."""
        means = dict(layer._parameters)
        layer._parameters.clear()
        for name in _LISTS_OF_WEIGHTS:
            vars(layer).pop(name, None)
        layer.__class__ = cls
        assert isinstance(layer, cls)
        layer._become(means, prior, scales)

    def _become(
        self,
        means: Mapping[str, nn.Parameter | None],
        prior: Prior,
        scales: dict[nn.Parameter, nn.Parameter],
    ) -> None:
        """Take parameters as means. ``scales`` holds those of means that layers share."""
        self._asks_nothing()
        self._weights = {name: (f"{name}_mu", f"{name}_rho") for name in means}
        for name, mu in means.items():
            if mu is not None and mu not in scales:
                rho = torch.full_like(mu, prior.rho_init)
                scales[mu] = nn.Parameter(rho, mu.requires_grad)
            self.register_parameter(f"{name}_mu", mu)
            self.register_parameter(f"{name}_rho", None if mu is None else scales[mu])
        self._hold(prior, {name: mu for name, mu in means.items() if mu is not None})
        self._drawn = None

    @classmethod
    def _unfit(cls, layer: object) -> str | None:
        """Why no such layer can be made of another one, or None."""
        if isinstance(layer, cls._of) and parametrize.is_parametrized(layer):
            return "its weights are computed of others: remove weight norm or the like first"
        kind = f"torch.nn.{cls._of.__name__}"
        if type(layer) is not cls._of:
            if isinstance(layer, nn.Module):
                return f"it must be a {kind} itself, got a {type(layer).__name__}"
            return f"it must be a {kind}, got {described(layer)}"
        assert isinstance(layer, nn.Module)
        names = cls._names_in(layer)
        if [*layer._parameters] != names:
            return (
                f"its parameters are {', '.join(layer._parameters)} and not {', '.join(names)}: "
                "weight norm, pruning and the like must be removed first"
            )
        for name, p in layer._parameters.items():
            if p is not None and p.dtype not in DTYPES:
                return f"its {name} must be of a floating dtype, got {described(p)}"
        return None

    @staticmethod
    def _names_in(layer: nn.Module) -> list[str]:
        """What the parameters of PyTorch's layer are called."""
        return ["weight", "bias"]

    def reset_parameters(self) -> None:
        """Means as PyTorch's layers start, scales at ``rho_init``."""
        layer = self._of.__new__(self._of)
        vars(layer).update(vars(self))
        vars(layer)["_parameters"] = {n: getattr(self, f"{n}_mu") for n in self._weights}
        layer.reset_parameters()  # type: ignore[operator]
        for name in self._weights:
            rho = self._parameters_of(name)[1]
            if rho is not None:
                nn.init.constant_(rho, self.rho_init)

    def kl(self) -> Tensor:
        """The KL of all weights to their prior, by the parameters as they are: one number.

        Where the layer draws, the one that the last forward pass computed as it drew the weights,
        while parameters and prior are unchanged and no backward pass has been made through it. It
        then shares that pass's graph: call ``backward()`` on the sum of loss and KL, or the loss's
        first and then ``kl()``. Otherwise, and in compiled code and graphs of ``torch.fx``, it is
        computed now, with a graph of its own; to a mixture, where it is an estimate, from weights
        drawn now. A change that autograd does not count, such as ``p.data.fill_()``, is not seen.
        """
        return total(self._kls(self._weights))

    def _kls(self, names: Iterable[str]) -> list[Tensor]:
        """The KL of weights of these names, in parts."""
        drawn = self._drawn
        if drawn is not None and self.draws and self._holds(drawn):
            return [kl for name in names for kl in drawn.kls[name]]
        return [kl for name in names for kl in self._kls_now(*self._parameters_of(name))]

    def _kls_now(self, mu: Any, rho: Any) -> list[Tensor]:
        """Those of one weight, computed now."""
        mixture = self.mixture is not None
        kl = sampled_kl if mixture else gaussian_kl
        if not is_sharded(mu):
            return [kl(mu, rho, *flat(numbers)) for mu, rho, numbers in self._parts(mu, rho)]
        if self._rows_differ:  # and which of them a shard has, only DTensor knows
            parts = self._parts(whole(mu), whole(rho))
            return [kl(mu, rho, *map(whole, flat(numbers))) for mu, rho, numbers in parts]
        return [kl_of_shards(kl, mu, rho, flat(self._numbers()), draws=mixture)]

    def _now(self, name: str) -> Tensor | None:
        """One weight as a forward pass would take it, its KL not kept."""
        mu, rho = self._parameters_of(name)
        if mu is None or not self.draws:
            return mu
        return self._joined([self._sampled(*part)[0] for part in self._parts(mu, rho)])

    def _draw(self) -> list[Any]:
        """The weights of a forward pass, in order: drawn, and their KL kept; or the means.

        None stands for a weight that the layer does not have.
        """
        if not self.draws:
            return [getattr(self, mu) for mu, _ in self._weights.values()]
        self._drawn = None
        weights: list[Any] = []
        kls: dict[str, list[Tensor]] = {}
        parameters: list[Tensor] = []
        for name in self._weights:
            mu, rho = self._parameters_of(name)
            drawn = [self._sampled(*part) for part in self._parts(mu, rho)]
            kls[name] = [kl for _, kl in drawn]
            weights.append(self._joined([w for w, _ in drawn]) if drawn else None)
            if drawn:
                parameters += mu, rho
        self._remember(kls, parameters, weights[0])
        return weights

    def _remember(
        self, kls: dict[str, list[Tensor]], parameters: list[Tensor], drawn: object
    ) -> None:
        """Keep the KLs that came with a forward pass, of these parameters."""
        # A compiler or a transform can't see whether one still holds, and a compiled graph would
        # keep all of its region's tensors.
        if eager() and isinstance(drawn, Tensor) and _any_requires_grad(kls):
            state = _state([*parameters, *self._prior_numbers()])
            self._drawn = _Drawn(kls, state, threading.get_ident())

    def _parameters_of(self, name: str) -> tuple[Any, Any]:
        """Mean and scale of a weight, or two Nones."""
        mu, rho = self._weights[name]
        return getattr(self, mu), getattr(self, rho)

    def _identity(self, name: str) -> tuple[int, int | str]:
        """The same for weights of two layers whose means and scales are the same parameters."""
        mu, rho = (self._parameters.get(part) for part in self._weights[name])
        return (id(self), name) if mu is None or rho is None else (id(mu), id(rho))

    def _sampled(self, mu: Tensor, rho: Tensor, prior: Numbers) -> tuple[Tensor, Tensor]:
        mean, std, mixture = prior
        return functional.sample_weight(mu, rho, mean, std, mixture=mixture, key=self._key(mu))

    def _key(self, like: Tensor) -> Tensor | None:
        """That of a draw by this rank; None, where the generator's serves all ranks."""
        return key_of_rank(like) if self.noise == "rank" else None

    @property
    def _rows_differ(self) -> bool:
        """Whether some rows of a weight have no KL."""
        return False

    def _parts(self, mu: Any, rho: Any) -> list[Part]:
        """What is drawn for a weight, none where the layer has no such weight."""
        return [] if mu is None else [(mu, rho, self._numbers())]

    def _joined(self, drawn: list[Tensor]) -> Tensor:
        """The weight of what was drawn for each of its parts."""
        return drawn[0]

    def _prior_numbers(self) -> list[Any]:
        mean, std, mixture = self._numbers()
        return [mean, std, *(mixture or ())]

    def _holds(self, drawn: _Drawn) -> bool:
        """Whether a KL is that of the parameters now, and a backward pass can go through it."""
        parameters = [p for name in self._weights for p in self._parameters_of(name)]
        if not eager() or not isinstance(parameters[0], Tensor):  # a symbolic value of torch.fx
            return False
        here = drawn.thread == threading.get_ident()
        parameters = [p for p in parameters if p is not None] + self._prior_numbers()
        same = here and drawn.state == _state(parameters)
        return same and all(_unspent(kl) for kls in drawn.kls.values() for kl in kls)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        # Other dtypes and devices come without a new version.
        self._drawn = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        *args: Any,
    ) -> None:
        """Also from PyTorch's layer: its weights are the means, and all else stays as it is."""
        self._drawn = None  # parameters that a graph holds can't be swapped for others
        of_torch = [
            prefix + name
            for name in self._weights
            if prefix + name in state_dict and f"{prefix}{name}_mu" not in state_dict
        ]
        state_dict = {f"{k}_mu" if k in of_torch else k: v for k, v in state_dict.items()}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, *args
        )
        kept = {f"{key}_rho" for key in of_torch}
        if of_torch:
            kept |= {prefix + name for name in self._held}
        missing_keys[:] = [key for key in missing_keys if key not in kept]


class WeightAndBias(MeanField):
    """A layer of one weight and perhaps one bias."""

    weight_mu: nn.Parameter
    weight_rho: nn.Parameter
    bias_mu: nn.Parameter | None
    bias_rho: nn.Parameter | None

    @property
    def weight(self) -> Tensor:
        """The weight that a forward pass would take: the mean, or drawn anew at each access."""
        weight = self._now("weight")
        assert weight is not None
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The bias, likewise."""
        return self._now("bias")


def has_bias(layer: WeightAndBias) -> bool:
    """What the layer's argument ``bias`` was."""
    return layer.bias_mu is not None


def _sizes_of(layer: nn.Module) -> dict[str, Any]:
    """The attributes of a layer of PyTorch's that are no module's own, but for its weights."""
    usual = vars(nn.Module())
    return {
        name: value
        for name, value in vars(layer).items()
        if name not in usual and name not in _LISTS_OF_WEIGHTS
    }


# Of recurrent layers, beside their parameters.
_LISTS_OF_WEIGHTS = ("_flat_weights", "_flat_weight_refs", "_flat_weights_names", "_all_weights")


def _state(numbers: Iterable[Tensor | float]) -> list[object]:
    """What tells parameters and numbers from other ones, and from themselves before a change."""
    return [
        (id(n), n._version, n.requires_grad, n.data_ptr()) if isinstance(n, Tensor) else n
        for n in numbers
    ]


def _any_requires_grad(kls: dict[str, list[Tensor]]) -> bool:
    return any(kl.requires_grad for parts in kls.values() for kl in parts)


def _unspent(kl: Tensor) -> bool:
    """Whether no backward pass has freed what this KL's would need."""
    if kl.grad_fn is None:
        return True
    spent = extension.spent(kl)
    if spent is not None:
        return not spent
    try:
        # Not unpacked: under a checkpoint that would run the forward pass again.
        kl.grad_fn._raw_saved_tensors  # type: ignore[attr-defined]  # noqa: B018
    except (AttributeError, RuntimeError):
        return False
    return True
