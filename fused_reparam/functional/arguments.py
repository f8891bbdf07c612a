"""Checks of what a user gives: each says what was given and what was expected."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..backends.cpu import extension
from ..core.dtypes import DTYPES, compute_dtype
from ..core.mistakes import described, not_a_tensor, suggestion
from ..core.reductions import REDUCTIONS
from ..core.scalars import integer, is_number, real
from ..core.scales import LOG_STD, LOGVAR, SCALE_KINDS
from ..core.storage import check_given
from ..ops.elementwise_spec import broadcasts_to
from ..ops.sharded import beside as beside_shards
from .tensor_numbers import beside, changing, in_graph

_RNGS = ("philox", "torch")
_TINY = torch.finfo(torch.float32).tiny
_NARROW = (torch.float16, torch.bfloat16)


def moments_dim(moments: Tensor, dim: int) -> int:
    """The dim along which moments are halved, counted from the front, once they are checked."""
    check_tensor("moments", moments)
    dim = integer("dim", dim)
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
    check_choice("scale", scale, SCALE_KINDS)
    return SCALE_KINDS.index(scale)


def layer_scale(layer: str, scale: str) -> str:
    """The scale keyword of a layer, to which other libraries' layers would give their sizes."""
    if is_number(scale):
        raise TypeError(
            f"{layer} takes no sizes: it has no parameters. Its first argument, scale, must be one "
            f"of {', '.join(SCALE_KINDS)}, got {described(scale)}"
        )
    check_choice("scale", scale, SCALE_KINDS)
    return scale


def check_choice(name: str, word: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless an option is one of its words."""
    if not isinstance(word, str) or word not in choices:
        said = repr(word) if isinstance(word, str) and len(word) < 40 else described(word)
        raise ValueError(
            f"{name} must be one of {', '.join(choices)}, got {said}{suggestion(word, choices)}"
        )


def check_reduction(reduction: str) -> None:
    if type(reduction) is not str or reduction not in REDUCTIONS:
        check_choice("reduction", reduction, REDUCTIONS)


def check_rng(rng: str) -> None:
    if type(rng) is not str or rng not in _RNGS:
        check_choice("rng", rng, _RNGS)


def one_scale(
    name: str,
    loc: Tensor | float,
    logvar: Tensor | float | None,
    log_std: Tensor | float | None,
    std: Tensor | float | None,
    var: Tensor | float | None,
    rho: Tensor | float | None,
) -> tuple[int, Tensor | float]:
    """Position and value of the one scale keyword that was given beside a location."""
    if logvar is not None and log_std is std is var is rho is None:  # most often so
        return LOGVAR, logvar
    scales = (logvar, log_std, std, var, rho)
    found: tuple[int, Tensor | float] | None = None
    for kind, scale in enumerate(scales):
        if scale is not None:
            if found is not None:
                break
            found = kind, scale
    else:
        if found is not None:
            return found
    if found is None and isinstance(loc, (tuple, list)):
        check_tensor(name, loc)  # type: ignore[arg-type]  # it may hold the scale as well, and this says so
    given = [name for name, s in zip(SCALE_KINDS, scales, strict=True) if s is not None]
    raise ValueError(
        f"give exactly one of {', '.join(SCALE_KINDS)}; got "
        + (" and ".join(given) if given else "none")
    )


def parameters(*named: tuple[str, Tensor | float]) -> list[Tensor]:
    """Named parameters, checked, of one dtype. One at least is a tensor; a number becomes 0-d.

    Of a small call such checks take a good part of the time. So the usual parameters are seen at
    one glance. What was freed behind its back the op itself refuses.
    """
    glance = _usual if is_compiling() else extension.parameters or _usual
    found = glance(named)
    return _promoted(named) if found is None else found


def _usual(named: tuple[tuple[str, Tensor | float], ...]) -> list[Tensor] | None:
    """The same, where each has the first tensor's dtype and device, and broadcasts to its shape.

    ``kernels/torch/parameters.h`` is this in C++.
    """
    loc = named[0][1]
    if not isinstance(loc, Tensor) and len(named) > 1:
        loc = named[1][1]
    if not isinstance(loc, Tensor) or loc.dtype not in DTYPES:
        return None
    if loc.is_nested or loc.layout is not torch.strided:
        return None
    dtype, device, shape, dims = loc.dtype, loc.device, loc.shape, loc.dim()
    found = []
    for name, t in named:
        if not isinstance(t, Tensor):
            t = beside_shards(_as_tensor(name, t, loc), loc)
        elif t is not loc and not (
            t.dtype is dtype
            and not t.is_nested
            and t.layout is torch.strided
            and t.device == device
            and ((t.dim() == dims and t.shape == shape) or broadcasts_to(shape, t))
        ):
            return None
        found.append(t)
    return found


def widened(*named: tuple[str, Tensor | float]) -> list[Tensor]:
    """The same in the dtype of the arithmetic: a number is not rounded to 16 bits.

    For PyTorch's own operators, which read memory that a tensor no longer has: it is looked for.
    """
    found = []
    for name, value in named:
        if isinstance(value, Tensor):
            check_tensor(name, value)
            check_given(name, value)
            if value.dtype in _NARROW:
                value = value.to(compute_dtype(value.dtype))
        found.append((name, value))
    return parameters(*found)


def _promoted(named: Sequence[tuple[str, Tensor | float]]) -> list[Tensor]:
    """The same, whatever the parameters are."""
    name, loc = named[0]
    if not isinstance(loc, Tensor) and is_number(loc):
        loc = _beside(named)
    check_tensor(name, loc)  # type: ignore[arg-type]
    assert isinstance(loc, Tensor)
    check_given(name, loc)
    found = [loc]
    for i, (name, value) in enumerate(named[1:], 1):
        t = _as_tensor(name, value, loc)
        for (before, _), other in zip(named[:i], found, strict=True):
            check_together(before, other, name, t)
        found.append(t)
    if any(t.dtype != loc.dtype for t in found):
        # 0-d tensors decide the dtype only among themselves.
        deciding = [t.dtype for t in found if t.dim()] or [t.dtype for t in found]
        dtype = functools.reduce(torch.promote_types, deciding)
        return [t.to(dtype) for t in found]
    return found


def _beside(named: Sequence[tuple[str, Tensor | float]]) -> Tensor:
    """The first of the parameters, a number, as a 0-d tensor like the first tensor of them."""
    name, number = named[0]
    like = next(((n, t) for n, t in named if isinstance(t, Tensor)), None)
    if like is None:
        for other in named:
            if not is_number(other[1]):
                check_tensor(*other)  # type: ignore[arg-type]
        numbers = " and ".join(n for n, _ in named)
        raise TypeError(
            f"{name} must be a floating tensor, got {described(number)}: of {numbers} one at least "
            f"must say shape and dtype, as {name}=torch.full((4, 3), {number}) would"
        )
    check_tensor(*like)
    return beside_shards(_as_tensor(name, number, like[1]), like[1])


def _as_tensor(name: str, value: Tensor | float, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        check_tensor(name, value)
        check_given(name, value)
        here = value.device == like.device or value.dim() or not value.is_cpu
        return value if here else beside(name, value, like, like.dtype)
    if changing(value):
        return in_graph(name, value, like, like.dtype)
    if not is_number(value):
        raise TypeError(f"{name} must be a floating tensor or a number, got {not_a_tensor(value)}")
    return torch.scalar_tensor(real(name, value), dtype=like.dtype, device=like.device)


def check_together(a: str, s: Tensor, b: str, t: Tensor) -> None:
    if s.device != t.device:
        raise ValueError(
            f"{a} and {b} must be on one device, got {a} on {s.device} and {b} on {t.device}"
        )
    # The number of dims first, here and wherever shapes are compared: Python compares the sizes
    # before it, and a graph would then be one for batches other than the other's first size.
    if (s.dim() != t.dim() or s.shape != t.shape) and not _broadcastable(s.shape, t.shape):
        raise ValueError(
            f"{a} and {b} must have shapes that broadcast, got {a} {tuple(s.shape)} and {b} "
            f"{tuple(t.shape)}"
        )


def _broadcastable(a: Sequence[int], b: Sequence[int]) -> bool:
    return all(m == n or m == 1 or n == 1 for m, n in zip(reversed(a), reversed(b), strict=False))


def check_tensor(name: str, t: Tensor) -> None:
    """Raise TypeError unless ``t`` is a dense tensor of the four dtypes."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a floating tensor, got {not_a_tensor(t)}")
    if t.is_nested:
        raise TypeError(
            f"{name} must be a dense (strided) tensor, got {described(t)}: pad it, or call "
            "once for each part"
        )
    if t.dtype not in DTYPES:
        raise TypeError(
            f"{name} must be float32, float64, float16 or bfloat16, got {t.dtype} of shape "
            f"{tuple(t.shape)}"
        )
    if t.layout != torch.strided:
        raise TypeError(
            f"{name} must be a dense (strided) tensor, got layout {t.layout} of shape "
            f"{tuple(t.shape)}"
        )


def number(name: str, value: float) -> float:
    """A finite Python number."""
    found = real(name, value)
    if not -math.inf < found < math.inf:  # a compiler can't trace math.isfinite
        raise ValueError(f"{name} must be finite, got {found}")
    return found


def positive(name: str, value: float) -> float:
    """A finite Python number above zero."""
    found = number(name, value)
    if not found > 0.0:
        raise ValueError(f"{name} must be positive, got {found}")
    return found


def deviation(name: str, value: float) -> float:
    """A standard deviation whose inverse float32 can hold."""
    found = positive(name, value)
    if found < _TINY:
        raise ValueError(f"{name} must be at least {_TINY:.3g}, got {found}")
    return found


def temperature(name: str, value: float) -> float:
    """A temperature, at least float32's smallest normal number."""
    return max(positive(name, value), _TINY)


def share(name: str, value: float) -> float:
    """A number in [0, 1)."""
    found = number(name, value)
    if not 0.0 <= found < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {found}")
    return found


def class_dim(name: str, t: Tensor, dim: int) -> int:
    """The dim of the classes, counted from the front; it has at least one."""
    check_tensor(name, t)
    dim = integer("dim", dim)
    if not -t.dim() <= dim < t.dim():
        raise ValueError(f"{name} of shape {tuple(t.shape)} have no dim {dim}")
    if not t.shape[dim]:
        raise ValueError(
            f"{name} must have at least one class along dim {dim}, got shape {tuple(t.shape)}"
        )
    return dim % t.dim()


def sample_count(num_samples: int | None) -> int:
    """The number of samples for an op; 0 where none was given."""
    if num_samples is None:
        return 0
    num_samples = integer("num_samples", num_samples)
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    if num_samples >= 1 << 63:
        raise ValueError(f"num_samples must be below 2^63, got {num_samples}")
    return num_samples


def interval(low: float, high: float) -> tuple[float, float]:
    """Two finite numbers, low < high."""
    ends = number("low", low), number("high", high)
    if not ends[0] < ends[1]:
        raise ValueError(f"low must be below high, got low {ends[0]} and high {ends[1]}")
    return ends


def clamped(
    scale: Tensor | float, clamp: tuple[float, float] | None, kind: int
) -> tuple[Tensor | float, tuple[float, float]]:
    """A scale, and the bounds that the op puts to it.

    Bounds that a compiler has found to change from call to call are put to it here.
    """
    if clamp is None:
        return scale, (-math.inf, math.inf)
    if torch.compiler.is_compiling() and isinstance(scale, Tensor) and any(map(changing, clamp)):
        _check_clamped(kind)
        low, high = (in_graph("clamp", bound, scale, scale.dtype) for bound in clamp)
        return torch.clamp(scale, low, high), (-math.inf, math.inf)
    return scale, bounds_of(clamp, kind)


def _check_clamped(kind: int) -> None:
    if kind not in (LOGVAR, LOG_STD):
        raise ValueError(f"clamp bounds logvar or log_std, the scale given is {SCALE_KINDS[kind]}")


def bounds_of(clamp: tuple[float, float] | None, kind: int) -> tuple[float, float]:
    if clamp is None:
        return -math.inf, math.inf
    _check_clamped(kind)
    try:
        low, high = (real("clamp", bound) for bound in clamp)
    except (TypeError, ValueError):
        raise ValueError(f"clamp must be two numbers (low, high), got {described(clamp)}") from None
    if not low <= high:
        raise ValueError(f"clamp must be (low, high) with low <= high, got ({low}, {high})")
    return low, high


def clamp_of(clamp: tuple[float, float] | None, scale: str) -> tuple[float, float] | None:
    """A layer's clamp: two Python numbers, or None."""
    return None if clamp is None else bounds_of(clamp, scale_kind(scale))


def given_noise(eps: Tensor, loc: Tensor, shape: torch.Size) -> Tensor:
    """Noise that was given, in the location's dtype. What was freed the op itself refuses."""
    check_tensor("eps", eps)
    if eps.shape != shape:
        raise ValueError(f"eps must have the sample's shape {tuple(shape)}, got {tuple(eps.shape)}")
    if eps.device != loc.device:
        raise ValueError(f"eps must be on the parameters' device {loc.device}, got {eps.device}")
    if eps.dtype is loc.dtype:
        return eps
    check_given("eps", eps)
    return eps.to(loc.dtype)
