"""The backend's draws of element-wise families: from tensors to the launches of a variant."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ...families import FAMILIES, base_number, is_standard
from ...rng import keys as rng_keys
from ...rng.bases import WORDS
from ...rng.stream import LANES
from ..reference.memory import elements, flat, store
from .gaussian import (
    Forward,
    Launch,
    Rows,
    _key,
    _layout,
    _rows,
    _tried,
    finish_of,
    forward_launch,
    gaussian_backward,
    gaussian_forward,
    gkl_mode,
    kl_mode,
)
from .kernels import bases, scale
from .kernels.constants import Constants
from .kernels.elementwise_backward import elementwise_backward_kernel
from .kernels.elementwise_forward import elementwise_forward_kernel
from .kernels.families import FORMULAS, functions
from .launch import LaunchConfiguration, Variant, launch_configuration, math_form
from .shapes import SINGLE, architecture, sparse_shape

_INF = float("inf")
Scalars = tuple[float, ...]


@functools.lru_cache(maxsize=1024)
def kernel_constants(family: str, constants: Scalars) -> tuple[Scalars, Constants]:
    """(low, high, n2 .. n6) as kernels take them, and what else follows from the constants."""
    about = FAMILIES[family]
    bounds, rest = (constants[:2], constants[2:]) if about.scaled else ((-_INF, _INF), constants)
    made = FORMULAS.get(f"{family}_constants")
    if made is not None:
        found = made(*constants)
    elif about.base_number is not None:
        found = Constants(bases.constants(about.base, base_number(family, constants)))
    else:
        found = Constants(rest)
    return (*bounds, *found.n, *[0.0] * (5 - len(found.n))), found


def _constexprs(
    family: str, kind: int, prior_kind: int, scalars: Scalars, made: Constants, terms: bool
) -> tuple[int | bool, ...]:
    """The compile-time part of a family: BASE .. SAMPLED. `terms`: whether there are any."""
    about = FAMILIES[family]
    return (
        bases.base_index(about),
        kind if about.scaled or about.hard else scale.STD.value,
        prior_kind if about.parameters == 4 else int(made.far),
        scalars[0] != -_INF or scalars[1] != _INF,
        terms and made.floor != -_INF,
        terms and about.sampled,
    )


def _configuration(
    n: int,
    samples: int,
    segments: int,
    parameters: int,
    constexprs: tuple[Any, ...],
    vector: int,
    device: torch.device,
) -> LaunchConfiguration:
    """A loop over samples, a prior's parameters and families that take parameters as they are need
    registers, and 64 elements for a thread, which the one program for everything may have, are too
    many for any family.
    """
    single = segments == 1 and SINGLE[-2].groups < -(-n // vector) <= SINGLE[-1].groups
    unprepared = constexprs[0] is None
    sparse = samples > 1 or parameters > 2 or unprepared or single
    only = sparse_shape(vector, architecture(device)) if sparse else None
    return launch_configuration(n, segments or n, vector, device, only)


def _sampling(
    samples: int, n: int, config: LaunchConfiguration, vector: int
) -> tuple[bool, bool, int]:
    """ONE_SAMPLE, ALIGNED, GROUPS."""
    return samples == 1, samples == 1 or n % vector == 0, config.segment_groups


@functools.lru_cache(maxsize=1024)
def _forward(
    device: torch.device,
    dtype: torch.dtype,
    n: int,
    samples: int,
    segments: int,
    parameters: int,
    constexprs: tuple[Any, ...],
    mode: int,
    given: tuple[bool, ...],
    rows: Rows,
    _: str | None,
) -> Forward:
    """`segments`: of one sample's terms, 0 for no terms; `given`: which pointers are not None."""
    vector = 16 // dtype.itemsize
    config = _configuration(n, samples, segments, parameters, constexprs, vector, device)
    place = _layout(rows, 5, config, vector)
    term, slots = kl_mode(n, segments, config, vector)
    partial = config.programs * slots
    every = (
        *constexprs, term, mode, *_sampling(samples, n, config, vector), place.layout, place.unit,
        place.long_rows, place.wide_index, config.tail, config.shape.groups, vector,
        math_form(device, vector),
    )  # fmt: skip
    copies = samples if constexprs[-1] else 1
    return Forward(
        Variant(elementwise_forward_kernel, device, config.programs, every, config.shape.warps),
        (n, n // (segments or n), place.columns, samples, partial or segments, *place.strides),
        partial * copies,
        finish_of(device, segments, copies, slots, config, vector),
    )


def elementwise_forward(
    family, kind, prior_kind, constants, params, key, eps, samples, factor, dense, z, terms,
    memo=None,
) -> None:  # fmt: skip
    mode, bits, state, seed, offset = _key(key)
    found = None if memo is None else memo.get(mode)
    if found is None:
        n = params[0].numel()
        if _ranges(samples, n) > 1:
            _forward_in_ranges(
                family, kind, prior_kind, constants, params, key, eps, samples, factor, dense, z,
                terms,
            )  # fmt: skip
            return
        if is_standard(family, constants, samples):
            found = gaussian_forward(mode, params, eps, kind, constants, factor, dense, z, terms)
        else:
            found = _forward_launch(
                mode, family, kind, prior_kind, constants, params, eps, samples, factor, dense, z,
                terms,
            )  # fmt: skip
        if memo is not None:
            memo[mode] = found
    variant, head, tail, absent, no_terms, partial, finish, finish_scalars = found
    targets = terms if finish is None else [v.new_empty(partial) for v in terms]
    variant.launch(
        (*params, *absent, bits, *state, eps, z, *targets, *no_terms),
        (*head, seed, offset, *tail),
    )
    if finish is not None:
        for target, term in zip(targets, terms, strict=True):
            finish.launch((target, term), finish_scalars)


def _forward_launch(
    mode, family, kind, prior_kind, constants, params, eps, samples, factor, dense, z, terms
) -> Launch:
    first, n = params[0], params[0].numel()
    scalars, made = kernel_constants(family, tuple(constants))
    segments = terms[0].numel() if terms else 0
    if FAMILIES[family].sampled:
        segments //= samples
    absent = (None,) * (4 - len(params))
    found = _forward(
        first.device, first.dtype, n, samples, segments, len(params),
        functions(family, kind)
        + _constexprs(family, kind, prior_kind, scalars, made, bool(terms)),
        mode,
        (eps is not None, z is not None),
        _rows(dense, (*params, *absent, eps if samples == 1 else None)), _tried(n),
    )  # fmt: skip
    return forward_launch(found, scalars, absent, terms, 2, segments, factor)


@functools.lru_cache(maxsize=1024)
def _backward(
    device: torch.device,
    dtype: torch.dtype,
    n: int,
    samples: int,
    segments: int,
    parameters: int,
    constexprs: tuple[Any, ...],
    mode: int,
    given: tuple[bool, ...],
    rows: Rows,
    _: str | None,
) -> tuple[Variant, tuple[int, ...]]:
    """As `_forward`; `segments`: 0 where no term has a gradient."""
    vector = 16 // dtype.itemsize
    config = _configuration(n, samples, segments, parameters, constexprs, vector, device)
    place = _layout(rows, 10, config, vector)
    every = (
        *constexprs, gkl_mode(n, segments, config), mode, *_sampling(samples, n, config, vector),
        place.layout, place.unit, place.long_rows, place.wide_index, config.tail,
        config.shape.groups, vector, math_form(device, vector),
    )  # fmt: skip
    variant = Variant(
        elementwise_backward_kernel, device, config.programs, every, config.shape.warps
    )
    return variant, (n, n // (segments or n), place.columns, samples, segments, *place.strides)


def elementwise_backward(
    family, kind, prior_kind, constants, grad_z, grad_terms, params, key, eps, samples, factor,
    dense, grads, memo=None,
) -> None:  # fmt: skip
    mode, bits, _, seed, offset = _key(key)
    found = None if memo is None else memo.get(mode)
    if found is None:
        n = params[0].numel()
        if _ranges(samples, n) > 1:
            _backward_in_ranges(
                family, kind, prior_kind, constants, grad_z, grad_terms, params, key, eps, samples,
                factor, dense, grads,
            )  # fmt: skip
            return
        if is_standard(family, constants, samples):
            found = gaussian_backward(
                mode, grad_z, grad_terms, params, eps, kind, constants, factor, dense, grads
            )
        else:
            found = _backward_launch(
                mode, family, kind, prior_kind, constants, grad_z, grad_terms, params, eps, samples,
                factor, dense, grads,
            )  # fmt: skip
        if memo is not None:
            memo[mode] = found
    variant, head, tail, absent, no_terms, *_ = found
    variant.launch(
        (grad_z, *grad_terms, *no_terms, *params, *absent, bits, eps, *grads, *absent),
        (*head, seed, offset, *tail),
    )


def _backward_launch(
    mode, family, kind, prior_kind, constants, grad_z, grad_terms, params, eps, samples, factor,
    dense, grads,
) -> Launch:  # fmt: skip
    first, n = params[0], params[0].numel()
    scalars, made = kernel_constants(family, tuple(constants))
    some = next((g for g in grad_terms if g is not None), None)
    segments = 0 if some is None else some.numel()
    if FAMILIES[family].sampled:
        segments //= samples
    absent, no_terms = (None,) * (4 - len(params)), (None,) * (2 - len(grad_terms))
    alone = samples == 1
    variant, head = _backward(
        first.device, first.dtype, n, samples, segments, len(params),
        functions(family, kind, backward=True)
        + _constexprs(family, kind, prior_kind, scalars, made, some is not None), mode,
        tuple(t is not None for t in (grad_z, *grad_terms, *no_terms, eps, *grads, *absent)),
        _rows(
            dense,
            (*params, *absent, *((eps, grad_z) if alone else (None, None)), *grads, *absent),
        ),
        _tried(n),
    )  # fmt: skip
    return Launch(variant, head, (*scalars, factor), absent, no_terms)


# Many samples of few elements. A program works on a tile of the elements for all samples, one after
# the other, which leaves a GPU empty where there are few tiles. So R consecutive samples are taken
# for one sample of R times the elements, whose parameters are rows with a stride of 0.


def _ranges(samples: int, n: int) -> int:
    """R, a multiple of 4 so that each part begins with a block of the stream; 1: leave it."""
    if samples < 64 or n > 1 << 15:
        return 1
    each = max(samples // ((1 << 17) // n), 16)
    return samples // each // 4 * 4


def _parts(family: str, samples: int, n: int) -> list[tuple[int, int, int, int]]:
    """(R, samples of R times the elements, first sample, first block) of both parts."""
    ranges = _ranges(samples, n)
    main = samples // ranges
    words = WORDS[FAMILIES[family].base]
    done = ranges * main
    rest = [(1, samples - done, done, words * done * n)] if done < samples else []
    return [(ranges, main, 0, 0), *rest]


def _part_of(t: Any, first: int, count: int, samples: int, rows: int) -> Any:
    """Samples first .. first + count of consecutive ones, in rows."""
    if t is None:
        return None
    each = t.numel() // samples
    part = flat(t)[first * each : (first + count) * each]
    return part.view(rows, -1)


def _key_at(key: Any, words: int, dtype: torch.dtype) -> Any:
    """The key of a later part of the stream."""
    if key is None or words == 0:
        return key
    if isinstance(key, rng_keys.HostKey):
        key = key.bits()
    elif isinstance(key, rng_keys.GraphKey):
        key = key.bits  # the first part's kernel has written it
    return rng_keys.advance(key, words // LANES.get(dtype, 4))


def _forward_in_ranges(
    family, kind, prior_kind, constants, params, key, eps, samples, factor, dense, z, terms
) -> None:  # fmt: skip
    n = params[0].numel()
    sampled = FAMILIES[family].sampled
    if terms and not sampled:
        elementwise_forward(
            family, kind, prior_kind, constants, params, None, None, 1, factor, dense, None, terms
        )
    if z is None and not (sampled and terms):
        return
    columns = [_columns(p, dense) for p in params]
    for ranges, count, first, words in _parts(family, samples, n):
        all_of = (first, ranges * count, samples, ranges)
        elementwise_forward(
            family, kind, prior_kind, constants, [c.expand(ranges, n) for c in columns],
            _key_at(key, words, params[0].dtype), _part_of(eps, *all_of), count, factor, False,
            _part_of(z, *all_of),
            [_part_of(v, *all_of) for v in terms] if sampled else [],
        )  # fmt: skip


def _columns(p: torch.Tensor, dense: bool) -> torch.Tensor:
    """A parameter as one row."""
    return (flat(p) if dense else p.reshape(-1)).view(1, -1)


def _backward_in_ranges(
    family, kind, prior_kind, constants, grad_z, grad_terms, params, key, eps, samples, factor,
    dense, grads,
) -> None:  # fmt: skip
    n = params[0].numel()
    sampled, has_terms = FAMILIES[family].sampled, any(g is not None for g in grad_terms)
    found: list[list[Any]] = []
    if has_terms and not sampled:
        found.append([None if g is None else g.new_empty(n) for g in grads])
        rows = [_columns(p, dense) for p in params]
        elementwise_backward(
            family, kind, prior_kind, constants, None, grad_terms, rows, None, None, 1, factor,
            False, [g if g is None else g.view(1, n) for g in found[-1]],
        )  # fmt: skip
    if grad_z is not None or (sampled and has_terms):
        columns = [_columns(p, dense) for p in params]
        for ranges, count, first, words in _parts(family, samples, n):
            all_of = (first, ranges * count, samples, ranges)
            found.append([None if g is None else g.new_empty(ranges, n) for g in grads])
            elementwise_backward(
                family, kind, prior_kind, constants, _part_of(grad_z, *all_of),
                [_part_of(g, *all_of) if sampled else None for g in grad_terms],
                [c.expand(ranges, n) for c in columns], _key_at(key, words, params[0].dtype),
                _part_of(eps, *all_of), count, factor, False, found[-1],
            )  # fmt: skip
    for i, grad in enumerate(grads):
        if grad is not None:
            parts = [elements(f[i], False).view(-1, n).sum(0) for f in found]
            store(grad, torch.stack(parts).sum(0), dense)
