"""A check of every backend at hand against the reference, for a user's own machine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import functional, nn, noise
from .backends import dispatch
from .core.scales import SCALE_KINDS, STD, VAR
from .families import FAMILIES
from .functional import loc_scale
from .rng.bases import BASES

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Differences allowed between two backends, relative to the number itself or to 1, whichever is
# larger. Noise agrees to 4e-6; a 16-bit result may fall on either side of a rounding.
_TOLERANCE = {
    torch.float32: 1e-5,
    torch.float64: 1e-12,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}
Case = tuple[str, torch.dtype, Callable[[], Sequence[Tensor]]]


class _Call(NamedTuple):
    """A function or a layer, and what it is given besides its parameters and a key."""

    function: Callable[..., Any]
    names: str  # of the parameters, normal numbers; with a "+" those that must be positive
    options: dict[str, Any]

    def __call__(self, *params: Tensor, key: Tensor) -> Sequence[Tensor]:
        names = self.names.replace("+", "").split()
        given: dict[str, Any] = dict(zip(names, params, strict=True))
        learned = [name for name in names if name.startswith("prior_")]
        if learned:
            mean, scale = (given.pop(name) for name in learned)
            given["prior"] = mean, {learned[1].removeprefix("prior_"): scale}
        if _draws(self.function):
            given["key"] = key
        found = self.function(**given, **self.options)
        return (found,) if isinstance(found, Tensor) else found  # type: ignore[no-any-return]


def _draws(function: Callable[..., Any]) -> bool:
    """Whether a layer or a function takes a key."""
    return isinstance(function, torch.nn.Module) or "key" in inspect.signature(function).parameters


def _call(function: Callable[..., Any], names: str, **options: Any) -> _Call:
    return _Call(function, names, options)


def _inside(loc: Tensor, scale: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """A uniform inside the standard one, of which the KL is finite."""
    return functional.loc_scale_latent(
        0.1 * loc, 0.1 * scale, "uniform", reduction="sample", key=key
    )


def _relaxed(function: Callable[..., Any], squash: Callable[[Tensor], Tensor]) -> Any:
    """The log-density of relaxed samples, which are made of any numbers."""

    def call(y: Tensor, logits: Tensor) -> Tensor:
        return function(squash(y), logits, tau=0.7)  # type: ignore[no-any-return]

    return call


def _of_classes(logits: Tensor) -> Tensor:
    """The log-likelihood of a class for each row, another one for the next."""
    index = torch.arange(logits.shape[0], device=logits.device) % logits.shape[1]
    return functional.categorical_log_prob(index, logits)


def _elbo(x: Tensor, mu: Tensor, rho: Tensor, key: Tensor) -> tuple[Tensor, ...]:
    """Of a decoder that changes nothing."""
    objective = nn.FusedELBO("gaussian", nn.FusedGaussianLatent("rho", "sample"), std=0.5)
    return tuple(objective(x, lambda z: z, mu, rho, key=key))


def _positive(kind: str) -> str:
    return "+" if kind in (SCALE_KINDS[STD], SCALE_KINDS[VAR]) else ""


def _milder(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of parameters that are positive or of either sign, in a range in which nothing
    leaves 16 bits.
    """

    def call(*, key: Tensor, **given: Any) -> Any:
        moved = {
            name: (2.0 + t if bool((t > 0).all()) else 0.3 * t) if isinstance(t, Tensor) else t
            for name, t in given.items()
        }
        return function(**moved, key=key)

    return call


def _of_rows() -> Iterator[tuple[str, _Call]]:
    """The functions that every family with a ``law`` has."""
    for name, row in FAMILIES.items():
        if row.law is not None:
            sample = getattr(functional, f"{name}_rsample")
            yield f"{name}_rsample", _call(_milder(sample), row.names)
        if row.law is not None and row.terms:
            latent, prior = getattr(functional, f"{name}_latent"), row.some_prior()
            yield f"{name}_latent", _call(_milder(latent), row.names, **prior, **_SAMPLE)


_SAMPLE: dict[str, Any] = {"reduction": "sample"}
_ROWS: dict[str, Any] = {"tau": 0.7, "dim": 0}
# Every public function, and every layer in eval mode, where noise is zeros and not drawn.
_CALLS: dict[str, _Call] = {
    **{
        f"gaussian_latent {kind}": _call(
            functional.gaussian_latent, f"mu {kind}{_positive(kind)}", **_SAMPLE
        )
        for kind in SCALE_KINDS
    },
    "gaussian_latent prior": _call(
        functional.gaussian_latent, "mu std+", prior=(0.5, 2.0), num_samples=2, **_SAMPLE
    ),
    "gaussian_latent learned prior": _call(
        functional.gaussian_latent, "mu rho prior_mean prior_logvar", **_SAMPLE
    ),
    "gaussian_latent learned prior, samples": _call(
        functional.gaussian_latent, "mu logvar prior_mean prior_std+", num_samples=3, free_bits=0.5,
        free_bits_per="element", beta=0.5,
    ),
    "gaussian_latent_from_moments": _call(functional.gaussian_latent_from_moments, "moments"),
    "gaussian_latent_from_moments samples": _call(
        functional.gaussian_latent_from_moments, "moments", num_samples=2, clamp=(-1.0, 1.0)
    ),
    "gaussian_rsample_from_moments": _call(
        functional.gaussian_rsample_from_moments, "moments", scale="rho", min_std=0.1
    ),
    "gaussian_log_prob": _call(functional.gaussian_log_prob, "z mu rho", dims=-1),
    "FusedELBO": _call(_elbo, "x mu rho"),
    "gaussian_rsample": _call(functional.gaussian_rsample, "mu log_std"),
    "gaussian_rsample samples": _call(functional.gaussian_rsample, "mu var+", num_samples=2),
    "gaussian_kl": _call(functional.gaussian_kl, "mu rho", **_SAMPLE),
    "gaussian_kl prior": _call(functional.gaussian_kl, "mu rho", prior=(0.5, 2.0), **_SAMPLE),
    "gaussian_kl learned prior": _call(
        functional.gaussian_kl, "mu std+ prior_mean prior_log_std", reduction="none"
    ),
    "gaussian_rsample_log_prob": _call(
        functional.gaussian_rsample_log_prob, "mu rho", num_samples=2
    ),
    "gaussian_rsample_log_prob learned prior": _call(
        functional.gaussian_rsample_log_prob, "mu rho prior_mean prior_std+"
    ),
    "sample_weight": _call(functional.sample_weight, "mu rho", prior_std=0.5, **_SAMPLE),
    # A narrower prior's gradient would magnify what noise may differ by.
    "sample_weight mixture": _call(
        functional.sample_weight, "mu rho", mixture=(0.3, 1.0, 0.5), **_SAMPLE
    ),
    "tanh_normal_rsample": _call(functional.tanh_normal_rsample, "mean log_std"),
    "tanh_normal_sample": _call(functional.tanh_normal_sample, "mean log_std"),
    "tanh_normal_log_prob": _call(
        functional.tanh_normal_log_prob, "action mean std+", low=-9.0, high=9.0
    ),
    "log_normal_rsample": _call(functional.log_normal_rsample, "loc log_std", clamp=(-1.0, 1.0)),
    "log_normal_latent": _call(functional.log_normal_latent, "loc std+", **_SAMPLE),
    **{
        f"loc_scale_latent {base}": _call(
            functional.loc_scale_latent, "loc scale+", base=base, **_SAMPLE
        )
        for base in ("normal", "laplace", "gumbel", "cauchy")
    },
    "loc_scale_latent uniform": _call(_inside, "loc scale+"),
    **{
        f"loc_scale_rsample {base}": _call(
            functional.loc_scale_rsample, "loc scale+", base=base,
            df=3.0 if base == "student_t" else None,
        )
        for base in loc_scale.BASES
    },
    **dict(_of_rows()),
    "categorical_kl": _call(
        lambda logits, q: functional.categorical_kl(logits, q, unimix=0.01), "logits q"
    ),
    "bernoulli_kl": _call(functional.bernoulli_kl, "logits", prior_probs=0.3, **_SAMPLE),
    "kumaraswamy_kl": _call(
        functional.kumaraswamy_kl, "concentration1+ concentration0+", prior_concentration0=2.0
    ),
    "relaxed_bernoulli_log_prob": _call(
        _relaxed(functional.relaxed_bernoulli_log_prob, torch.sigmoid), "y logits"
    ),
    "bernoulli_log_prob": _call(functional.bernoulli_log_prob, "x logits", dims=-1),
    "bernoulli_log_prob continuous": _call(
        functional.bernoulli_log_prob, "x logits", continuous=True
    ),
    "negative_binomial_log_prob": _call(functional.negative_binomial_log_prob, "x+ mu+ theta+"),
    "zero_inflated_negative_binomial_log_prob": _call(
        functional.zero_inflated_negative_binomial_log_prob, "x+ mu+ theta+ logits", dims=-1
    ),
    "laplace_log_prob": _call(functional.laplace_log_prob, "x loc scale+", dims=-1),
    "student_t_log_prob": _call(functional.student_t_log_prob, "x df+ loc scale+", dims=-1),
    "discretized_logistic_log_prob": _call(
        functional.discretized_logistic_log_prob, "x loc scale+", dims=-1
    ),
    "categorical_log_prob": _call(_of_classes, "logits"),
    "gumbel_softmax_log_prob": _call(
        _relaxed(functional.gumbel_softmax_log_prob, lambda y: y.softmax(-1)), "y logits"
    ),
    "one_hot_categorical": _call(functional.one_hot_categorical, "logits", unimix=0.01),
    **{
        f"{name}{' hard' if hard else ''}": _call(function, "logits", hard=hard, **options)
        for hard in (False, True)
        for name, function, options in (
            ("relaxed_bernoulli", functional.relaxed_bernoulli, {"tau": 0.7}),
            ("gumbel_softmax", functional.gumbel_softmax, {"tau": 0.7}),
            ("categorical_latent", functional.categorical_latent, {**_ROWS, "reduction": "sum"}),
        )
    },
    **{
        f"{type(layer).__name__} in eval": _call(layer.eval(), names)
        for layer, names in (
            (nn.FusedGaussianLatent("log_std", "sample"), "mu scale"),
            # Bounds that keep the log-density, a sum of many terms, away from 0.
            (nn.FusedTanhNormal("std", -4.0, 4.0), "mean scale+"),
            (nn.FusedRelaxedBernoulli(0.7), "logits"),
            (nn.FusedGumbelSoftmax(**_ROWS), "logits"),
            (nn.FusedCategoricalLatent(**_ROWS, reduction="sum"), "logits"),
            (nn.FusedOneHotCategorical(0.01), "logits"),
        )
    },
}  # fmt: skip


def _with_gradients(call: _Call, values: Tensor, key: Tensor) -> Sequence[Tensor]:
    """The outputs and the parameters' gradients. The parameters are parts of a larger tensor."""
    names = call.names.split()
    params = [
        (part.abs() + 0.25 if name.endswith("+") else part).detach().requires_grad_()
        for part, name in zip(values.chunk(len(names), 1), names, strict=True)
    ]
    outputs = call(*params, key=key)
    # A weight of its own for each number: equal ones cancel in a softmax.
    loss = torch.stack([
        (o.double() * torch.linspace(0.5, 1.5, o.numel(), device=o.device).view(o.shape)).sum()
        for o in outputs
    ]).sum()  # fmt: skip
    return *(o.detach() for o in outputs), *torch.autograd.grad(loss, params)


def cases(device: torch.device) -> Iterator[Case]:
    """Name, dtype and computation of each check."""
    key = noise.key(2**63 + 11, 2**32 - 3, device=device)
    for dtype in _DTYPES:
        for base in BASES:
            yield f"noise {base} {dtype}", dtype, _noise(key, base, dtype)
        # Not a whole number of blocks, and divisible into one, two or four parts.
        values = noise.normal(noise.key(1, device=device), (61, 132), dtype=dtype)
        for name, call in _CALLS.items():
            yield f"{name} {dtype}", dtype, _case(call, values, key)


def _noise(key: Tensor, base: str, dtype: torch.dtype) -> Callable[[], Sequence[Tensor]]:
    def compute() -> Sequence[Tensor]:
        if base == "normal":
            return (noise.normal(key, 10_007, dtype=dtype),)
        return (torch.ops.fused_reparam.base_noise(key, [10_007], [], dtype, base, 3.0),)

    return compute


def _case(call: _Call, values: Tensor, key: Tensor) -> Callable[[], Sequence[Tensor]]:
    return lambda: _with_gradients(call, values, key)


def largest_difference(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """The largest difference, relative to the number that it should be, or to 1 below 1.

    NaN where anything is no number: Python's ``max`` would lose that.
    """
    found = []
    for g, w in zip(got, want, strict=True):
        # Two infinities, where a dtype ends, are alike.
        off = torch.where(g == w, 0.0, (g.double() - w.double()).abs())
        found.append((off / w.double().abs().clamp_min(1.0)).max())
    return torch.stack(found).max().item()


def difference(
    compute: Callable[[], Sequence[Tensor]], name: str, dtype: torch.dtype
) -> str | None:
    """How the results of a backend differ from the reference's; None where the two agree."""
    with dispatch.backend("reference"):
        want = compute()
    with dispatch.backend(name):
        got = compute()
    shapes = [[tuple(one.shape) for one in side] for side in (got, want)]
    if shapes[0] != shapes[1]:
        return f"shapes {shapes[0]}, expected {shapes[1]}"
    found = largest_difference(got, want)
    if found <= _TOLERANCE[dtype]:
        return None
    return f"differs by {found:.2g}, allowed {_TOLERANCE[dtype]:.2g}"


def run(devices: Sequence[torch.device], report: Callable[[str], None] = print) -> int:
    """Check each backend on each device; 0 when all agree, 1 when one differs."""
    failures = 0
    for device in devices:
        for name in dispatch.BACKENDS:
            if name == "reference":
                continue
            reason = dispatch.unavailable_reason(name, device)
            if reason is not None:
                report(f"{name} on {device.type}: skipped, {reason}")
                continue
            failed = list(_failures(name, device))
            for line in failed:
                report(f"{name} on {device.type}: FAILED {line}")
            if not failed:
                count = sum(1 for _ in cases(device))
                report(f"{name} on {device.type}: {count} checks agree with the reference")
            failures += len(failed)
    return 1 if failures else 0


def _failures(name: str, device: torch.device) -> Iterator[str]:
    for case, dtype, compute in cases(device):
        problem = difference(compute, name, dtype)
        if problem is not None:
            yield f"{case}: {problem}"
