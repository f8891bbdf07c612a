"""Checks of what a user gives: each says what was given and what was expected."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .backends.reference import LOG_STD, LOGVAR, SCALE_KINDS
from .ops.gaussian_call import REDUCTIONS

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_RNGS = ("philox", "torch")


def moments_dim(moments: Tensor, dim: int) -> int:
    """The dim along which moments are halved, counted from the front, once they are checked."""
    _check_tensor("moments", moments)
    if not isinstance(dim, int):
        raise TypeError(f"dim must be an integer, got {dim!r} of type {type(dim).__name__}")
    if not -moments.dim() <= dim < moments.dim():
        raise ValueError(f"moments of shape {tuple(moments.shape)} have no dim {dim}")
    if moments.shape[dim] % 2:
        raise ValueError(
            f"moments must have an even size along dim {dim} (means, then scales), got "
            f"{moments.shape[dim]}: shape {tuple(moments.shape)}"
        )
    return dim % moments.dim()


def scale_kind(scale: str) -> int:
    """Position of a scale keyword in SCALE_KINDS."""
    if scale not in SCALE_KINDS:
        raise ValueError(f"scale must be one of {', '.join(SCALE_KINDS)}, got {scale!r}")
    return SCALE_KINDS.index(scale)


def check_options(scale: str, reduction: str, clamp: tuple[float, float] | None, rng: str) -> None:
    """Raise ValueError unless a module's options are those of a call."""
    bounds_of(clamp, scale_kind(scale))
    check_reduction(reduction)
    check_sources(None, None, rng, None)


def check_sources(
    key: Tensor | None, generator: torch.Generator | None, rng: str, eps: Tensor | None
) -> None:
    """Raise ValueError unless the noise has one source."""
    if rng not in _RNGS:
        raise ValueError(f"rng must be one of {', '.join(_RNGS)}, got {rng!r}")
    if (key is not None) + (generator is not None) + (eps is not None) > 1:
        raise ValueError("give at most one of key, generator and eps: each decides the noise")
    if rng == "torch" and (key is not None or eps is not None):
        raise ValueError('rng="torch" draws from a generator and takes neither key nor eps')


def one_scale(*scales: Tensor | float | None) -> tuple[int, Tensor | float]:
    """Position and value of the one scale keyword that was given."""
    found: tuple[int, Tensor | float] | None = None
    for kind, scale in enumerate(scales):
        if scale is not None:
            if found is not None:
                break
            found = kind, scale
    else:
        if found is not None:
            return found
    given = [name for name, s in zip(SCALE_KINDS, scales, strict=True) if s is not None]
    raise ValueError(
        f"give exactly one of {', '.join(SCALE_KINDS)}; got "
        + (" and ".join(given) if given else "none")
    )


def pair(mu: Tensor, scale: Tensor | float, kind: int) -> tuple[Tensor, Tensor]:
    """Location and scale parameter, checked, of one dtype."""
    _check_tensor("mu", mu)
    name = SCALE_KINDS[kind]
    if not isinstance(scale, Tensor):
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise TypeError(
                f"{name} must be a floating tensor or a number, got {scale!r} of type "
                f"{type(scale).__name__}"
            )
        return mu, torch.full((), scale, dtype=mu.dtype, device=mu.device)
    _check_tensor(name, scale)
    if mu.device != scale.device:
        raise ValueError(
            f"mu and {name} must be on one device, got mu on {mu.device} and {name} on "
            f"{scale.device}"
        )
    if mu.shape != scale.shape and not _broadcastable(mu.shape, scale.shape):
        raise ValueError(
            f"mu and {name} must have shapes that broadcast, got mu {tuple(mu.shape)} and {name} "
            f"{tuple(scale.shape)}"
        )
    if mu.dtype != scale.dtype:
        dtype = torch.result_type(mu, scale)
        return mu.to(dtype), scale.to(dtype)
    return mu, scale


def _broadcastable(a: Sequence[int], b: Sequence[int]) -> bool:
    return all(m == n or m == 1 or n == 1 for m, n in zip(reversed(a), reversed(b), strict=False))


def _check_tensor(name: str, t: Tensor) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a floating tensor, got {t!r} of type {type(t).__name__}")
    if t.dtype not in _DTYPES:
        raise TypeError(
            f"{name} must be float32, float64, float16 or bfloat16, got {t.dtype} of shape "
            f"{tuple(t.shape)}"
        )
    if t.layout != torch.strided:
        raise TypeError(
            f"{name} must be a dense (strided) tensor, got layout {t.layout} of shape "
            f"{tuple(t.shape)}"
        )


def check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


def bounds_of(clamp: tuple[float, float] | None, kind: int) -> tuple[float, float]:
    if clamp is None:
        return -math.inf, math.inf
    if kind not in (LOGVAR, LOG_STD):
        raise ValueError(f"clamp bounds logvar or log_std, the scale given is {SCALE_KINDS[kind]}")
    try:
        low, high = (float(bound) for bound in clamp)
    except (TypeError, ValueError):
        raise ValueError(f"clamp must be two numbers (low, high), got {clamp!r}") from None
    if not low <= high:
        raise ValueError(f"clamp must be (low, high) with low <= high, got ({low}, {high})")
    return low, high


def given_noise(eps: Tensor, loc: Tensor, shape: torch.Size) -> Tensor:
    _check_tensor("eps", eps)
    if eps.shape != shape:
        raise ValueError(f"eps must have the sample's shape {tuple(shape)}, got {tuple(eps.shape)}")
    if eps.device != loc.device:
        raise ValueError(f"eps must be on mu's device {loc.device}, got {eps.device}")
    return eps.to(loc.dtype)
