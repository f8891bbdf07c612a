"""``torch.distributions``, where pyro, scvi-tools, GPyTorch, torchrl and others draw their samples.

The classes stay what they are: their ``rsample`` is served by an op (and with it ``sample``, where
that is ``rsample`` without a gradient), and so are the log-density of a normal, the KL of two
normals, and ``torch.nn.functional.gumbel_softmax``. Who has imported that by its name before has
the old one.

``Uniform`` is left alone: as ``loc + scale * eps`` its samples may round beyond its bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor
from torch.distributions import Normal
from torch.distributions.utils import clamp_probs

from .. import functional as fused
from .protocol import Place, Report, Target, apply
from .servable import as_it_was, one_number, unserved

_MODULE = "torch.distributions"
_NO_SHAPE = Size()


def patch(rng: str = "philox") -> Report:
    """Let the ops serve ``torch.distributions`` and ``torch.nn.functional.gumbel_softmax``.

    ``rng``, and what is returned: see :func:`fused_reparam.integrations.patch`.
    """
    return apply("torch_distributions", "torch", targets(rng), {"rng": rng})


def targets(rng: str) -> list[Target]:
    """What is replaced. Integrations of what is built on these classes replace the same."""
    noise = {} if rng == "philox" else {"rng": rng}
    return [
        *(_target(sampler, noise) for sampler in SAMPLERS),
        Target(f"{_MODULE}.normal", "Normal.log_prob", "self, value", LOG_PROB, _log_prob),
        _KLOfNormals(f"{_MODULE}.kl", "_kl_normal_normal", "p, q", KL, _kl_of_normals),
        Target(
            f"{_MODULE}.one_hot_categorical", "OneHotCategoricalStraightThrough.rsample",
            "self, sample_shape", STRAIGHT_THROUGH, _straight_through(noise),
        ),
        Target(
            "torch.nn.functional", "gumbel_softmax", "logits, tau, hard, eps, dim",
            GUMBEL_SOFTMAX, _gumbel_softmax(noise),
        ),
    ]  # fmt: skip


class Sampler(NamedTuple):
    """A class whose ``rsample`` a function serves."""

    module: str
    name: str
    parameters: str
    """The attributes that hold them, in the order in which the function takes them."""
    function: Callable[..., Tensor | str]
    known: str
    more: tuple[str, ...] = ()
    """What else of the module it is read from, beside ``rsample`` and the constructor."""
    transforms: int = 0
    """How many transforms its constructor makes: a sample of more is another."""


def _target(sampler: Sampler, noise: dict[str, str]) -> Target:
    names, function, transforms = sampler.parameters.split(), sampler.function, sampler.transforms

    def rsample(self: Any, sample_shape: Size = _NO_SHAPE) -> Tensor | str:
        if transforms and len(self.transforms) != transforms:
            return "transforms of its own"
        parameters = [getattr(self, name) for name in names]
        why = unserved(*parameters)
        if why is not None:
            return why
        if parameters[0].shape != self._batch_shape + self._event_shape:
            return "parameters that are not of the distribution's shape"
        if len(sample_shape):
            return function(*parameters, sample_shape=Size(sample_shape), **noise)
        return function(*parameters, **noise)

    return Target(
        f"{_MODULE}.{sampler.module}", f"{sampler.name}.rsample", "self, sample_shape",
        sampler.known, rsample,
        (f"{sampler.name}.__init__", *sampler.more),
    )  # fmt: skip


def _of_base(base: str) -> Callable[..., Tensor]:
    def rsample(loc: Tensor, scale: Tensor, **noise: Any) -> Tensor:
        return fused.loc_scale_rsample(loc, scale, base, **noise)

    return rsample


def _student_t(loc: Tensor, scale: Tensor, df: Tensor, **noise: Any) -> Tensor:
    return fused.loc_scale_rsample(loc, scale, "student_t", df=df, **noise)


def _log_normal(loc: Tensor, scale: Tensor, **noise: Any) -> Tensor:
    return fused.log_normal_rsample(loc, std=scale, **noise)


def _relaxed_bernoulli(logits: Tensor, temperature: Any, **noise: Any) -> Tensor | str:
    tau = one_number(temperature, logits)
    if tau is None:
        return "a temperature for each element"
    z = fused.relaxed_bernoulli(logits, tau, **noise)
    limits = torch.finfo(z.dtype)
    return z.clamp(limits.tiny, 1.0 - limits.eps)  # within the open interval, as it was


def relaxed_categories(
    logits: Tensor, temperature: Any, hard: bool = False, **noise: Any
) -> Tensor | str:
    """The relaxed sample, or the one-hot one with its gradient."""
    tau = one_number(temperature, logits)
    if tau is None:
        return "a temperature for each element"
    if noise.pop("rng", "philox") == "torch":  # drawn otherwise than by F.gumbel_softmax
        shape = (*noise.get("sample_shape", ()), *logits.shape)
        u = clamp_probs(torch.rand(shape, dtype=logits.dtype, device=logits.device))
        noise["eps"] = -(-u.log()).log()
    y = fused.gumbel_softmax(logits, tau, hard, **noise)
    # torchrl writes the one-hot sample over the relaxed one, of which the gradient is made.
    return y.clone() if y.requires_grad and not hard else y


def _straight_through(noise: dict[str, Any]) -> Callable[..., Tensor | str]:
    def rsample(self: Any, sample_shape: Size = _NO_SHAPE) -> Tensor | str:
        categories = self._categorical
        logits = categories.logits
        if logits is not categories._param:
            return "given by probs, of which logits keep no 0"
        why = unserved(logits)
        if why is not None:
            return why
        if len(sample_shape):
            return fused.one_hot_categorical(logits, sample_shape=sample_shape, **noise)
        return fused.one_hot_categorical(logits, **noise)

    return rsample


def _log_prob(self: Any, value: Any) -> Tensor | str:
    loc, scale = self.loc, self.scale
    why = unserved(value, loc, scale)
    if why is not None:
        return why
    if self._validate_args:
        self._validate_sample(value)
    return as_it_was(fused.gaussian_log_prob(value, loc, std=scale), loc)


def _kl_of_normals(p: Any, q: Any) -> Tensor | str:
    loc, scale = p.loc, p.scale
    why = unserved(loc, scale, q.loc, q.scale)
    if why is not None:
        return why
    return as_it_was(fused.gaussian_kl(loc, std=scale, prior=q, reduction="none"), loc)


class _KLOfNormals(Target):
    """In the registry, where ``kl_divergence`` finds it."""

    def place(self) -> Place:
        self.find(self.attribute)
        return _Registered(Normal, Normal)


class _Registered:
    """Where ``kl_divergence`` finds its function for two classes."""

    def __init__(self, left: type, right: type) -> None:
        self.classes = left, right

    def get(self) -> Any:
        return torch.distributions.kl._KL_REGISTRY[self.classes]

    function = get

    def put(self, value: Any) -> None:
        found = torch.distributions.kl._KL_MEMOIZE
        for classes, remembered in found.items():
            if remembered is self.get():
                found[classes] = value
        # A compiler can look it up there, and nowhere else.
        found[self.classes] = torch.distributions.kl._KL_REGISTRY[self.classes] = value


def _gumbel_softmax(noise: dict[str, Any]) -> Callable[..., Tensor | str]:
    def gumbel_softmax(
        logits: Any, tau: Any = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
    ) -> Tensor | str:
        why = unserved(logits)
        if why is not None:
            return why
        number = one_number(tau, logits)
        if number is None:
            return "a tau for each element, or not positive"
        if eps != 1e-10:
            return "eps, of which the original warns"
        if not -logits.dim() <= dim < logits.dim():
            return "a dim that the logits lack"
        if not logits.shape[dim]:
            return "no classes"
        return fused.gumbel_softmax(logits, number, bool(hard), dim, **noise)

    return gumbel_softmax


# The same in PyTorch 2.11, 2.13 and 2.14.
LOG_PROB = "6061faaadfd9"
KL = "a6630403791c"
STRAIGHT_THROUGH = "2d01d57e3102"
GUMBEL_SOFTMAX = "8f7884e65069"
SAMPLERS = (
    Sampler("normal", "Normal", "loc scale", fused.loc_scale_rsample, "c6629799564f"),
    Sampler("laplace", "Laplace", "loc scale", _of_base("laplace"), "72622bea4883"),
    Sampler("cauchy", "Cauchy", "loc scale", _of_base("cauchy"), "d16691f3d62a"),
    Sampler("exponential", "Exponential", "rate", fused.exponential_rsample, "1e1d3c8a8506"),
    Sampler("studentT", "StudentT", "loc scale df", _student_t, "1b05ec45005e"),
    Sampler("gumbel", "Gumbel", "loc scale", _of_base("gumbel"), "7bf7ee775913", transforms=4),
    Sampler("log_normal", "LogNormal", "loc scale", _log_normal, "0ac97c09ada0", transforms=1),
    Sampler(
        "weibull", "Weibull", "scale concentration",
        fused.weibull_rsample, "31c207e71851", transforms=2,
    ),
    Sampler("pareto", "Pareto", "scale alpha", fused.pareto_rsample, "c3f3bd02a01a", transforms=2),
    Sampler(
        "half_normal", "HalfNormal", "scale",
        fused.half_normal_rsample, "06b68cd46808", transforms=1,
    ),
    Sampler(
        "half_cauchy", "HalfCauchy", "scale",
        fused.half_cauchy_rsample, "d3ef048a4240", transforms=1,
    ),
    Sampler(
        "kumaraswamy", "Kumaraswamy", "concentration1 concentration0",
        fused.kumaraswamy_rsample, "62a01d4743ae", transforms=3,
    ),
    Sampler(
        "relaxed_bernoulli", "RelaxedBernoulli", "logits temperature", _relaxed_bernoulli,
        "42f7f5254b22", ("LogitRelaxedBernoulli.rsample",), transforms=1,
    ),
    Sampler(
        "relaxed_categorical", "RelaxedOneHotCategorical", "logits temperature",
        relaxed_categories, "eddac6a9d208", ("ExpRelaxedCategorical.rsample",), transforms=1,
    ),
)  # fmt: skip
