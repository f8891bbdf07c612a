"""A draw of any element-wise family in plain PyTorch, and what every backend is promised.

The op layer allocates all outputs, arranges memory and guarantees:

* ``family`` is a name of ``families.FAMILIES``; ``kind, prior_kind, constants`` as it takes them.
* There is at least one element and at least one sample. ``params, eps, z, grad_z, grads`` share
  one dtype (float32, float16, bfloat16 or float64) and one device; those not wanted are None.
* n is the number of elements of a parameter. ``dense=True``: each parameter and each of ``grads``
  is n consecutive elements in one common memory order. ``dense=False``: each is a 2-D tensor of one
  shape (R, C) with any non-negative strides, element ``i`` is ``[i // C, i % C]``; outputs never
  overlap.
* ``z``, ``eps`` and ``grad_z`` hold ``samples * n`` elements, sample k's element i at ``k n + i``.
  They are consecutive, but for ``eps`` and ``grad_z`` where ``samples == 1`` and ``dense`` is
  false: they are then 2-D as the parameters are. ``z`` is always consecutive.
* ``key`` is a contiguous uint64 or int64 tensor of shape (2,) on the device or on the CPU; ``eps``,
  base noise, replaces it where given (beside a key it is a key's; without one the caller's, and
  loc + sigma eps is rounded twice, as PyTorch does). Element ``k n + i`` of z takes element
  ``k n + i`` of the base noise's stream. A backend that has ``DERIVES_KEYS`` also takes a
  ``noise.HostKey``, and in ``elementwise_forward`` a ``noise.GraphKey``: it derives that key, uses
  it and writes it to ``bits``.
* ``terms`` and ``grad_terms``: as many as the family has, or none where none are wanted; each
  float32 (float64 for float64), consecutive in index order, of S elements:
  ``term[s] = factor * sum of the element terms s N / S .. (s + 1) N / S - 1``, where N is n, or
  ``samples * n`` if the family is sampled. S divides n; if sampled, ``S = samples * (a divisor of
  n)``.
* ``memo``: a dict in which a backend may keep what it finds out, the same one in each call that
  differs in nothing but the tensors' memory and the key; or None.

Arithmetic is float32 (float64 for float64), rounded once when a result is stored. Sums are made in
a fixed order. z within the base noise's error (normal: 4e-6; the others: 1e-6 relative to the
noise, 4e-6 absolute), the rest within a few roundings of the terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...families import FAMILIES, Family, is_standard, stream_of
from ...rng.bases import BASES
from ...rng.keys import on_device
from . import gaussian
from .memory import elements, flat, store
from .recording import recording


def base_noise(base: str, number: float, key: Tensor, out: Tensor) -> None:
    """Fill ``out`` (dense) with base noise in memory order; see ``BASES``."""
    compute = torch.float64 if out.dtype == torch.float64 else torch.float32
    key = on_device(key, out.device)
    flat(out).copy_(BASES[base](key, out.numel(), compute, number))


def elementwise_forward(
    family: str,
    kind: int,
    prior_kind: int,
    constants: Sequence[float],
    params: Sequence[Tensor],
    key: Tensor | None,
    eps: Tensor | None,
    samples: int,
    factor: float,
    dense: bool,
    z: Tensor | None,
    terms: Sequence[Tensor],
    memo: object = None,
) -> None:
    """The family's formula, its terms summed and scaled. ``z`` may be None."""
    if is_standard(family, constants, samples):
        (loc, scale), (low, high) = params, constants[:2]
        kl = terms[0] if terms else None
        gaussian.forward(loc, scale, key, eps, kind, low, high, factor, dense, z, kl)
        return
    p = [elements(t, dense) for t in params]
    noise_used = _noise(family, constants, key, eps, samples, p[0], dense)
    drawn, found = FAMILIES[family].formula(p, noise_used, kind, prior_kind, constants)
    if z is not None:
        store(z, drawn.reshape(-1), dense=True)
    for out, term in zip(terms, found, strict=False):
        flat(out).copy_(factor * term.reshape(out.numel(), -1).sum(1))


def elementwise_backward(
    family: str,
    kind: int,
    prior_kind: int,
    constants: Sequence[float],
    grad_z: Tensor | None,
    grad_terms: Sequence[Tensor | None],
    params: Sequence[Tensor],
    key: Tensor | None,
    eps: Tensor | None,
    samples: int,
    factor: float,
    dense: bool,
    grads: Sequence[Tensor | None],
    memo: object = None,
) -> None:
    """Gradients of ``elementwise_forward`` for the parameters whose entry in ``grads`` is not None.

    ``grad_z`` and any of ``grad_terms`` may be None: no gradient came.
    """
    if is_standard(family, constants, samples):
        (loc, scale), (low, high), (grad_loc, grad_scale) = params, constants[:2], grads
        grad_kl = grad_terms[0] if grad_terms else None
        gaussian.backward(
            grad_z, grad_kl, loc, scale, key, eps, kind, low, high, factor, dense, grad_loc,
            grad_scale,
        )  # fmt: skip
        return
    p = [elements(t, dense) for t in params]
    noise_used = _noise(family, constants, key, eps, samples, p[0], dense)
    scaled = [None if g is None or factor == 0.0 else factor * g.reshape(-1, 1) for g in grad_terms]
    drawn_grad = None if grad_z is None else elements(grad_z, dense or samples > 1)
    wanted = [i for i, out in enumerate(grads) if out is not None]
    about, numbers = FAMILIES[family], (kind, prior_kind, constants)
    found = _gradients(about, p, wanted, noise_used, samples, numbers, drawn_grad, scaled)
    for i, grad in zip(wanted, found, strict=True):
        store(grads[i], grad, dense)  # type: ignore[arg-type]


def _gradients(
    about: Family,
    params: Sequence[Tensor],
    wanted: Sequence[int],
    noise_used: Tensor | None,
    samples: int,
    numbers: tuple[int, int, Sequence[float]],
    drawn_grad: Tensor | None,
    term_grads: Sequence[Tensor | None],
) -> list[Tensor]:
    """Those of the parameters at these places, by the gradients of the sample and of the terms."""
    came = [g for g in (drawn_grad, *term_grads) if g is not None]
    # Where a gradient is 0 none may meet an infinite derivative, in any sample. Without zeros all
    # are pulled in one pass; on a GPU to look for one would wait for it.
    apart = any(g.device.type != "cpu" or bool((g == 0.0).any()) for g in came)
    with recording():
        p = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(params)]
        spread = [t.expand(samples, -1) for t in p] if apart and samples > 1 else p
        drawn, terms = about.formula(spread, noise_used, *numbers)
        if spread is not p and not about.sampled and any(g is not None for g in term_grads):
            _, terms = about.formula(p, None, *numbers)
        pairs = [] if drawn_grad is None else [(drawn, drawn_grad.reshape(drawn.shape))]
        for term, grad in zip(terms, term_grads, strict=False):
            if grad is not None:
                each = grad.expand(-1, term.numel() // grad.numel())
                pairs.append((term, each.reshape(term.shape)))
        found = [torch.zeros_like(p[i]) for i in wanted]
        pairs = [(o, g) for o, g in pairs if o.requires_grad]
        for group in [[pair] for pair in pairs] if apart else [pairs] if pairs else []:
            (output, incoming), *_ = group
            leaves = p if output.dim() == 1 else spread
            pulled = torch.autograd.grad(
                [o for o, _ in group], [leaves[i] for i in wanted], [g for _, g in group],
                materialize_grads=True, retain_graph=apart,
            )  # fmt: skip
            if apart:
                pulled = tuple(torch.where(incoming == 0.0, 0.0, g) for g in pulled)
            for i, g in enumerate(pulled):
                found[i] = found[i] + (g.sum(0) if g.dim() > 1 else g)
    return found


def _noise(
    family: str,
    constants: Sequence[float],
    key: Tensor | None,
    eps: Tensor | None,
    samples: int,
    like: Tensor,
    dense: bool,
) -> Tensor | None:
    """Base noise, shape (samples, n), or (n,) for one sample; of pairs with a last dim of 2."""
    n = like.numel()
    base, number, each = stream_of(family, constants)
    if eps is not None:
        made = elements(eps, dense or samples > 1)
    elif key is not None:
        made = BASES[base](on_device(key, like.device), each * samples * n, like.dtype, number)
    else:
        return None
    shape = (samples, n) if samples > 1 else (n,)
    return made.view(shape if each == 1 else (*shape, each))
