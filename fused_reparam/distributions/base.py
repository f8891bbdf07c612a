"""What all distributions of the package share: they are PyTorch's, but for how they are computed.

A class inherits from ``Fused`` and from its counterpart of ``torch.distributions``, says in its
constructor what its parameters are, and defines ``_draw`` and ``_log_prob``. Moments, support,
constraints, quantiles and whatever else is not defined here are the counterpart's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, TypedDict, Unpack

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    TransformedDistribution,
    constraints,
    kl_divergence,
)
from torch.distributions.utils import broadcast_all, lazy_property
from torch.types import _size

from ..core.mistakes import described
from ..core.modes import eager
from ..core.noise_options import Generators, NoiseOptions
from ..families import FAMILIES
from ..functional import elementwise
from ..functional.sources import Sources, sources_of
from ..ops.elementwise_spec import broadcasts_to
from .given import derived, keeps, of_one_dtype, one_shape, widest

Parameter = Tensor | float
NO_DIMS = torch.Size()
FRESH = sources_of(None, None, {})


class Source(TypedDict, total=False):
    """Where the noise of a sample comes from; see :func:`fused_reparam.gaussian_latent`."""

    key: Tensor | None
    rng: str
    eps: Tensor | None


class Noise(Source, total=False):
    """The same, or from a generator."""

    generator: Generators | None


class SomeNoise(Noise, total=False):
    """The same of several samples."""

    sample_shape: _size


class Fused(Distribution):
    """The base of every distribution here."""

    has_rsample = True
    _counterpart: ClassVar[Any]
    _constructor: ClassVar[type]
    _names: tuple[str, ...]
    """The parameters that this one was made of."""
    _narrow: Mapping[str, tuple[Parameter, Tensor | None]] = {}
    """Those that are numbers or have less than the batch shape; and with it, once asked for."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.startswith(__package__):
            # A subclass elsewhere with a constructor of its own has to define ``expand``.
            cls._constructor = cls
            of_torch = [c for c in cls.__mro__ if c.__module__.startswith("torch.")]
            cls._counterpart = of_torch[0]

    def _made_of(
        self, names: tuple[str, ...], values: tuple[Parameter, ...], validate_args: bool | None
    ) -> None:
        """What a constructor does with its parameters, which broadcast against each other."""
        self._names = names
        shape = one_shape(values)
        if shape is None:
            shape = self._of_several_shapes(names, values)
        else:
            for name, value in zip(names, values, strict=True):
                setattr(self, name, value)
        if self._validate_args if validate_args is None else validate_args:
            self._check_parameters()
        self._batch_shape, self._event_shape = shape, NO_DIMS
        if validate_args is not None:
            self._validate_args = validate_args

    def _of_several_shapes(
        self, names: tuple[str, ...], values: tuple[Parameter, ...]
    ) -> torch.Size:
        values = of_one_dtype(values)
        like = widest(values)
        if like is None:
            values = broadcast_all(*values)  # which also says what is wrong
            like = values[0]
        shape = like.shape
        narrow: dict[str, tuple[Parameter, Tensor | None]] = {}
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, Tensor):
                narrow[name] = value, None
            elif value.dim() == len(shape) and value.shape == shape:
                setattr(self, name, value)
            elif broadcasts_to(shape, value):
                narrow[name] = value, None
            else:  # each widens the other
                for name, value in zip(names, broadcast_all(*values), strict=True):
                    setattr(self, name, value)
                return value.shape
        self._narrow, self._batch_shape = narrow, shape
        return shape

    def _check_parameters(self) -> None:
        """Raise ValueError unless the parameters meet their constraints.

        As PyTorch does, but that what is broadcast is looked at once.
        """
        for name, constraint in self.arg_constraints.items():
            if name not in self._names or constraints.is_dependent(constraint):
                continue
            value = self._parameter(name)
            valid = constraint.check(value)
            if valid is True or (valid is not False and torch._is_all_true(valid)):
                continue
            raise ValueError(
                f"Expected parameter {name} of {type(self).__name__} to satisfy the constraint "
                f"{constraint!r}, but found invalid values, {described(value)}:\n{value}"
            )

    def _parameter(self, name: str) -> Parameter:
        """A parameter as it was given: the ops broadcast it at less cost, and its gradient."""
        held = self.__dict__.get(name)
        if name not in self._narrow:
            return getattr(self, name) if held is None else held  # type: ignore[no-any-return]
        value, whole = self._narrow[name]
        return value if held is whole else held  # type: ignore[return-value]

    def _whole(self, name: str) -> Tensor:
        """The same as a tensor of the batch shape, as PyTorch's own has it."""
        value, _ = self._narrow[name]
        if not isinstance(value, Tensor):
            like = self._like()
            value = torch.full((), value, dtype=like.dtype, device=like.device)
        with torch.enable_grad():
            whole = value.expand(self._batch_shape)
        if keeps(whole):
            self._narrow[name] = self._narrow[name][0], whole  # type: ignore[index]
            setattr(self, name, whole)
        return whole

    def _like(self) -> Tensor:
        """The first parameter that is a tensor."""
        return next(t for t in map(self._parameter, self._names) if isinstance(t, Tensor))

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_narrow", ()):
            return self._whole(name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __repr__(self) -> str:
        for name in self._names:
            getattr(self, name)
        return super().__repr__()

    def expand(self, batch_shape: _size, _instance: Any = None) -> Self:
        new = self._get_checked_instance(self._constructor, _instance)
        batch_shape = torch.Size(batch_shape)
        new._names = self._names
        for name in self._names:
            setattr(new, name, getattr(self, name).expand(batch_shape + self._event_shape))
        self._expand_others(new)
        Distribution.__init__(new, batch_shape, self._event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _expand_others(self, new: Any) -> None:
        """Give an expanded copy what is not among the parameters that are expanded."""
        if "arg_constraints" in self.__dict__:
            new.arg_constraints = self.arg_constraints

    def __getstate__(self) -> dict[str, Any]:
        """Without what is derived of the parameters, which no copy can have of a graph."""
        state = dict(self.__dict__)
        for name in self.__dict__:
            is_derived = isinstance(getattr(type(self), name, None), lazy_property)
            if is_derived and name not in self._names:
                del state[name]
        if self._narrow:
            state["_narrow"] = given = {}
            for name in self._narrow:
                value = self._parameter(name)
                given[name] = value, None
                state.pop(name, None)
        return state

    def sample(self, sample_shape: _size = NO_DIMS, **noise: Unpack[Noise]) -> Tensor:
        """Draw without a gradient; the options are those of ``rsample``."""
        with torch.no_grad():
            return self.rsample(sample_shape, **noise)

    def rsample(self, sample_shape: _size = NO_DIMS, **noise: Unpack[Noise]) -> Tensor:
        """Draw by reparameterization.

        Beside PyTorch's ``sample_shape`` it takes ``key``, ``generator``, ``rng`` and ``eps`` of
        :func:`fused_reparam.gaussian_latent`, which say where the noise comes from.
        """
        return self._draw(noise if sample_shape == () else with_shape(sample_shape, noise))  # type: ignore[arg-type]

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._log_prob(value)

    def rsample_and_log_prob(
        self, sample_shape: _size = NO_DIMS, **noise: Unpack[Noise]
    ) -> tuple[Tensor, Tensor]:
        """A sample, and its log-density where it fell, whose gradient also goes through it."""
        return self._draw_and_log_prob(with_shape(sample_shape, noise))

    def rsample_and_kl(
        self, prior: Distribution, sample_shape: _size = NO_DIMS, **noise: Unpack[Noise]
    ) -> tuple[Tensor, Tensor]:
        """A sample, and the divergence of this distribution to another, one of each element.

        Args:
            prior: any distribution that ``torch.distributions.kl_divergence`` takes beside this.
            sample_shape, noise: as of ``rsample``. The divergence has no dims of samples.

        Returns:
            ``(z, kl)``: z as of ``rsample``, kl of the batch shape and the parameters' dtype.
        """
        options = with_shape(sample_shape, noise)
        if isinstance(prior, self._counterpart) and _fits(prior.batch_shape, self._batch_shape):
            found = self._draw_and_kl(prior, options)
            if found is not None:
                z, kl = found
                return z, kl.to(z.dtype)
        return self._draw(options), kl_divergence(self, prior)

    def _draw(self, noise: SomeNoise) -> Tensor:
        raise NotImplementedError

    def _log_prob(self, value: Tensor) -> Tensor:
        """The log-density where nothing is left to check."""
        raise NotImplementedError

    def _draw_and_log_prob(self, noise: SomeNoise) -> tuple[Tensor, Tensor]:
        z = self._draw(noise)
        return z, self._log_prob(z)

    def _draw_and_kl(self, prior: Any, noise: SomeNoise) -> tuple[Tensor, Tensor] | None:  # noqa: ARG002
        """The same in one pass, to a prior of the same kind, or None where there is no such."""
        return None


class Transformed(Fused):
    """Of a counterpart that is a base distribution and transforms of it.

    These are made when somebody asks for them: neither a sample nor a log-density needs them.
    """

    @derived
    def _original(self) -> TransformedDistribution:
        return self._counterpart(**self._arguments(), validate_args=False)  # type: ignore[no-any-return]

    def _arguments(self) -> dict[str, Any]:
        """What the counterpart is made of."""
        return {name: getattr(self, name) for name in self._names}

    @derived
    def base_dist(self) -> Any:
        return self._original.base_dist

    @derived
    def transforms(self) -> Any:
        return self._original.transforms


class OfFamily(Fused):
    """Of a family with a row that names its parameters, and those of a prior."""

    _family: ClassVar[str]

    def _named(self) -> tuple[elementwise.Named, ...]:
        return family_parameters(self._family, self)

    def _draw(self, noise: SomeNoise) -> Tensor:
        return elementwise.rsample(self._family, self._named(), *_split(noise))

    def _draw_and_kl(self, prior: Any, noise: SomeNoise) -> tuple[Tensor, Tensor] | None:
        if not FAMILIES[self._family].prior:
            return None
        to = [number_of(value) for _, value in family_parameters(self._family, prior)]
        if not alike(to, self._like()):
            return None
        return elementwise.latent(self._family, self._named(), tuple(to), "none", *_split(noise))


def family_parameters(family: str, distribution: Any) -> tuple[elementwise.Named, ...]:
    """The parameters of a family, by their names, from a distribution that has them."""
    names = FAMILIES[family].names.replace("+", "").split()
    if isinstance(distribution, Fused):
        return tuple([(name, distribution._parameter(name)) for name in names])
    return tuple([(name, getattr(distribution, name)) for name in names])


def number_of(value: Parameter) -> Parameter:
    """A number, where a tensor holds no more than that and nobody has to wait for it."""
    if (
        not isinstance(value, Tensor)
        or value.dim()
        or not value.is_cpu
        or value.requires_grad
        or not eager()
    ):
        return value
    return value.item()


def alike(values: Sequence[Any], like: Tensor) -> bool:
    """Whether values leave the dtype as it is that they come beside."""
    return all(v.dtype == like.dtype or not v.dim() for v in values if isinstance(v, Tensor))


def points(value: Any, like: Tensor) -> Tensor:
    """Where a density is asked for: a floating tensor, whatever PyTorch's own would take."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else value.to(like.dtype)
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def in_dtype_of(found: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """In the dtype that PyTorch's operators would give of two tensors."""
    dtype = one.dtype
    if other.dtype != dtype:
        if bool(one.dim()) == bool(other.dim()):
            dtype = torch.promote_types(dtype, other.dtype)
        elif other.dim():
            dtype = other.dtype
    return found.to(dtype)


def with_shape(sample_shape: _size, noise: Noise) -> SomeNoise:
    if sample_shape == ():
        return noise  # type: ignore[return-value]
    return {**noise, "sample_shape": sample_shape}


def sources(noise: SomeNoise) -> Sources:
    """The same, checked."""
    return sources_of(*_split(noise)) if noise else FRESH


def _split(
    noise: SomeNoise,
) -> tuple[Tensor | None, Generators | None, NoiseOptions]:
    """The key, the generator and the other options, as functions of families take them."""
    if not noise:
        return None, None, {}
    others = {name: value for name, value in noise.items() if name not in ("key", "generator")}
    return noise.get("key"), noise.get("generator"), others  # type: ignore[return-value]


def _fits(prior: torch.Size, batch: torch.Size) -> bool:
    """Whether a prior's parameters leave the shape of a sample as it is."""
    if not len(prior):
        return True
    behind = batch[len(batch) - len(prior) :]
    return len(prior) <= len(batch) and all(n in (1, m) for n, m in zip(prior, behind, strict=True))
