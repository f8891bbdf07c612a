"""A check of every backend at hand against the reference, for a user's own machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from . import functional, noise
from .backends import select
from .backends.reference import SCALE_KINDS, STD, VAR
from .streams import BASES

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Differences allowed between two backends, relative to the number itself or to 1, whichever is
# larger. Noise agrees to 4e-6; a 16-bit result may fall on either side of a rounding.
_TOLERANCE = {
    torch.float32: 1e-5,
    torch.float64: 1e-12,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}
Compute = Callable[..., Sequence[Tensor]]
Case = tuple[str, torch.dtype, Callable[[], Sequence[Tensor]]]

# Of each family: what is computed of parameters that are normal numbers, and which of them must be
# positive. Not a word of these names the backends' functions, but together they call all.
_FAMILIES: dict[str, tuple[Compute, str]] = {
    "gaussian_latent prior": (
        lambda m, s, key: functional.gaussian_latent(
            m, std=s, prior=(0.5, 2.0), num_samples=2, reduction="sample", key=key
        ),
        "-+",
    ),
    "gaussian_latent learned prior": (
        lambda m, r, p, q, key: functional.gaussian_latent(
            m, rho=r, prior=(p, {"logvar": q}), reduction="sample", key=key
        ),
        "----",
    ),
    "gaussian_rsample_log_prob": (
        lambda m, r, key: functional.gaussian_rsample_log_prob(m, rho=r, num_samples=2, key=key),
        "--",
    ),
    "gaussian_rsample_log_prob learned prior": (
        lambda m, r, p, q, key: functional.gaussian_rsample_log_prob(
            m, rho=r, prior=(p, {"std": q}), key=key
        ),
        "---+",
    ),
    "sample_weight mixture": (
        lambda m, r, key: functional.sample_weight(
            # A narrower prior's gradient would magnify what noise may differ by.
            m,
            r,
            mixture=(0.3, 1.0, 0.5),
            reduction="sample",
            key=key,
        ),
        "--",
    ),
    "tanh_normal_rsample": (
        lambda m, s, key: functional.tanh_normal_rsample(m, log_std=s, key=key),
        "--",
    ),
    "log_normal_latent": (
        lambda m, s, key: functional.log_normal_latent(m, std=s, reduction="sample", key=key),
        "-+",
    ),
    **{
        f"loc_scale_latent {base}": (
            lambda m, s, key, base=base: functional.loc_scale_latent(
                m, s, base, reduction="sample", key=key
            ),
            "-+",
        )
        for base in ("laplace", "cauchy")
    },
    "loc_scale_latent uniform": (
        # Of which the KL is finite.
        lambda m, s, key: functional.loc_scale_latent(
            0.1 * m, 0.1 * s, "uniform", reduction="sample", key=key
        ),
        "-+",
    ),
    **{
        f"loc_scale_rsample {base}": (
            lambda m, s, key, base=base, df=df: (
                functional.loc_scale_rsample(m, s, base, df=df, key=key),
            ),
            "-+",
        )
        for base, df in (("logistic", None), ("gumbel", None), ("student_t", 3.0))
    },
    "relaxed_bernoulli": (
        lambda logits, key: [
            functional.relaxed_bernoulli(logits, 0.7, hard, key=key) for hard in (False, True)
        ],
        "-",
    ),
    "kumaraswamy_rsample": (
        lambda a, b, key: (functional.kumaraswamy_rsample(a, b, key=key),),
        "++",
    ),
    "categorical_latent": (
        lambda logits, key: [
            t
            for hard in (False, True)
            for t in functional.categorical_latent(logits, 0.7, hard, 0, "sum", key=key)
        ],
        "-",
    ),
    "one_hot_categorical": (
        lambda logits, key: (functional.one_hot_categorical(logits, 0.01, key=key),),
        "-",
    ),
}


def _gaussian(kind: str) -> tuple[Compute, str]:
    def compute(mu: Tensor, x: Tensor, key: Tensor) -> Sequence[Tensor]:
        return functional.gaussian_latent(mu, **{kind: x}, key=key, reduction="sample")  # type: ignore[arg-type]

    return compute, "-+" if kind in (SCALE_KINDS[STD], SCALE_KINDS[VAR]) else "--"


def _with_gradients(compute: Compute, signs: str, values: Tensor, key: Tensor) -> Sequence[Tensor]:
    """The outputs and the parameters' gradients. The parameters are parts of a larger tensor."""
    params = [
        (part if sign == "-" else part.abs() + 0.25).detach().requires_grad_()
        for part, sign in zip(values.chunk(len(signs), 1), signs, strict=True)
    ]
    outputs = compute(*params, key=key)
    # A weight of its own for each number: equal ones cancel in a softmax.
    loss = torch.stack([
        (o.double() * torch.linspace(0.5, 1.5, o.numel(), device=o.device).view(o.shape)).sum()
        for o in outputs
    ]).sum()  # fmt: skip
    return *(o.detach() for o in outputs), *torch.autograd.grad(loss, params)


def cases(device: torch.device) -> Iterator[Case]:
    """Name, dtype and computation of each check."""
    key = noise.key(2**63 + 11, 2**32 - 3, device=device)
    families = {f"gaussian_latent {kind}": _gaussian(kind) for kind in SCALE_KINDS} | _FAMILIES
    for dtype in _DTYPES:
        for base in BASES:
            yield f"noise {base} {dtype}", dtype, _noise(key, base, dtype)
        # Not a whole number of blocks, and divisible into one, two or four parts.
        values = noise.normal(noise.key(1, device=device), (61, 132), dtype=dtype)
        for name, (compute, signs) in families.items():
            yield f"{name} {dtype}", dtype, _case(compute, signs, values, key)


def _noise(key: Tensor, base: str, dtype: torch.dtype) -> Callable[[], Sequence[Tensor]]:
    def compute() -> Sequence[Tensor]:
        if base == "normal":
            return (noise.normal(key, 10_007, dtype=dtype),)
        return (torch.ops.fused_reparam.base_noise(key, [10_007], [], dtype, base, 3.0),)

    return compute


def _case(
    compute: Compute, signs: str, values: Tensor, key: Tensor
) -> Callable[[], Sequence[Tensor]]:
    return lambda: _with_gradients(compute, signs, values, key)


def largest_difference(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """The largest difference, relative to the number that it should be, or to 1 below 1."""
    return max(
        ((g.double() - w.double()).abs() / w.double().abs().clamp_min(1.0)).max().item()
        for g, w in zip(got, want, strict=True)
    )


def run(devices: Sequence[torch.device], report: Callable[[str], None] = print) -> int:
    """Check each backend on each device; 0 when all agree, 1 when one differs."""
    failures = 0
    for device in devices:
        for name in select.BACKENDS:
            if name == "reference":
                continue
            reason = select.unavailable_reason(name, device)
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
        with select.backend("reference"):
            want = compute()
        with select.backend(name):
            got = compute()
        difference = largest_difference(got, want)
        if not difference <= _TOLERANCE[dtype]:
            yield f"{case}: differs by {difference:.2g}, allowed {_TOLERANCE[dtype]:.2g}"
