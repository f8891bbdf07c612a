"""The categories from checked arguments to their op: what ``categorical`` calls."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.dtypes import compute_dtype
from ..core.modes import eager
from ..core.storage import check_given
from ..families.categorical import HARD, ONE_HOT, bounded
from ..families.family import bounded_quotient
from ..ops import softmax
from ..ops.layout import memory_order, shifted_order
from ..rng import keys
from .arguments import given_noise
from .elementwise import as_shaped, flat, sample
from .sources import (
    Drawing,
    Sources,
    check_items,
    check_not_sharded,
    drawn_noise,
    key_of,
    made_in_op,
)

_DRAWING = Drawing("gumbel", "gumbel_of_exponential")


def draw(
    logits: Tensor,
    mode: int,
    tau: float,
    unimix: float,
    dim: int,
    reduction: str | None,
    sources: Sources,
    control: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y and the KL, which has no elements where it is not wanted.

    ``control``: a tensor in place of tau, or of ONE_HOT's unimix: without dims, or with all the
    logits have.
    """
    front, scores, key, noise = sources.sample_shape, logits, None, None
    if control is not None and control.dim() and control.shape[dim] > 1:
        return _of_each_class(logits, mode, control, dim, reduction, sources)
    if made_in_op(sources):
        key = key_of(sources, logits)
    else:
        shares = unimix if control is None or mode != ONE_HOT else control
        scores, noise = _with_noise(logits, mode, shares, dim, sources)
    if not front and scores is logits:
        return softmax.gumbel_softmax(
            logits, key, noise, mode, tau, unimix, dim, reduction, control=control
        )
    # The KL is that of the logits, of however many samples.
    kl = logits.new_empty(0)
    if reduction is not None:
        kl = softmax.divergence(logits, dim, reduction)
    samples, order = math.prod(front) if front else 0, memory_order(logits)
    if samples:
        scores, order = scores.expand(samples, *logits.shape), shifted_order(order, 1)
        if control is not None and control.dim():
            control = control.unsqueeze(0)
    y, _ = softmax.gumbel_softmax(
        scores, key, noise, mode, tau, unimix, dim + (samples > 0), None, order, control
    )
    y = y.to(logits.dtype)
    return as_shaped(y, front) if len(front) > 1 or (front and not samples) else y, kl


def _of_each_class(
    logits: Tensor, mode: int, tau: Tensor, dim: int, reduction: str | None, sources: Sources
) -> tuple[Tensor, Tensor]:
    """A temperature for each class, in PyTorch's operators: the soft values are no softmax of one
    temperature, of which the op's backward pass is.
    """
    check_given("logits", logits)
    front = len(sources.sample_shape)
    if sources.rng == "torch":
        shape = torch.Size((*sources.sample_shape, *logits.shape))
        noise = drawn_noise(sources, logits, _DRAWING, shape, memory_order(logits))
    else:
        zeros = torch.zeros_like(logits, dtype=tau.dtype)
        noise = sample("gumbel", (("logits", zeros), ("scale", 1.0)), sources)[0]
    score = logits.to(tau.dtype) + noise.to(tau.dtype)
    # In units of the least temperature nothing overflows before the largest score is off. A class
    # that is never drawn has no quotient, whose gradient would be of an infinity.
    tau, at = torch.as_tensor(bounded(tau)), front + dim
    least, never = tau.detach().amin(dim, keepdim=True), score == -math.inf
    score = (score.masked_fill(never, 0.0) * (least / tau)).masked_fill(never, -math.inf)
    score = score - score.detach().amax(at, keepdim=True)
    soft = torch.softmax(bounded_quotient(score, least, 1e4), at)
    y = soft
    if mode == HARD:
        index = soft.detach().argmax(front + dim, keepdim=True)
        y = torch.zeros_like(soft).scatter_(front + dim, index, 1.0) + (soft - soft.detach())
    kl = logits.new_empty(0)
    if reduction is not None:
        kl = softmax.divergence(logits, dim, reduction)
    return y.to(logits.dtype), kl


def _with_noise(
    logits: Tensor, mode: int, unimix: float | Tensor, dim: int, sources: Sources
) -> tuple[Tensor, Tensor]:
    """What the op takes for logits, and the noise."""
    front = sources.sample_shape
    if isinstance(sources.generator, tuple) and dim == 0:
        raise ValueError(
            "a list of generators has one for each item of dim 0, which holds the classes of "
            f"logits {tuple(logits.shape)}"
        )
    if sources.rng == "torch" and mode == ONE_HOT:
        return logits, flat(_choices(logits.detach(), unimix, dim, sources), front)
    shape = torch.Size((*front, *logits.shape))
    if sources.eps is None:
        order: list[int] = []  # PyTorch draws in the usual one
        if sources.like_loc or type(sources.generator) is tuple:
            order = shifted_order(memory_order(logits), len(front))
        noise = flat(drawn_noise(sources, logits, _DRAWING, shape, order), front)
        return logits.to(noise.dtype), noise
    noise = flat(given_noise(sources.eps, logits, shape), front)
    if mode == ONE_HOT or (eager() and not noise.requires_grad):
        return logits, noise.detach()
    # The op gives its noise no gradient. That of the logits is the same, where the noise is added
    # to them; the largest is taken off first, so that noise counts among the largest logits.
    x = logits.to(compute_dtype(logits.dtype))
    scores = (x - x.detach().amax(dim, keepdim=True)) + noise.to(x.dtype)
    return scores, torch.zeros_like(scores)


def _choices(logits: Tensor, unimix: float | Tensor, dim: int, sources: Sources) -> Tensor:
    """Noise of 0 for the class that ``OneHotCategorical`` would draw, -inf for all others."""
    front, generator = sources.sample_shape, sources.generator
    check_not_sharded(logits, generator)
    logits = logits.movedim(dim, -1)
    shares = torch.softmax(logits - logits.logsumexp(-1, keepdim=True), -1)
    if isinstance(unimix, Tensor):
        unimix = unimix.detach()
        unimix = unimix.movedim(dim, -1) if unimix.dim() else unimix
    if isinstance(unimix, Tensor) or unimix > 0.0:
        shares = (1.0 - unimix) * shares + unimix / shares.shape[-1]
    if isinstance(generator, tuple):
        check_items(generator, shares.shape)
        items = zip(shares.split(1), generator, strict=True)
        classes = torch.cat([_drawn_classes(one, front, g) for one, g in items], len(front))
    else:
        classes = _drawn_classes(shares, front, generator)
    is_drawn = classes.unsqueeze(-1) == torch.arange(shares.shape[-1], device=shares.device)
    noise = torch.where(is_drawn, 0.0, -math.inf).to(logits.dtype)
    return noise.movedim(-1, len(front) + dim)


def _drawn_classes(
    shares: Tensor, front: tuple[int, ...], generator: torch.Generator | None
) -> Tensor:
    """The class of each variable, of shares along the last dim, as ``Categorical`` draws it."""
    keys.check_traceable(generator)
    samples = math.prod(front)
    if not samples or shares.is_meta:
        return shares.new_empty((*front, *shares.shape[:-1]), dtype=torch.int64)
    rows = shares.reshape(-1, shares.shape[-1]).to(keys.drawn_on(shares.device, generator))
    found = torch.multinomial(rows, samples, True, generator=generator).to(shares.device)
    return found.T.reshape((*front, *shares.shape[:-1]))
