"""The categories from checked arguments to their op: what ``categorical`` calls."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.dtypes import compute_dtype
from ..core.modes import eager
from ..families.categorical import ONE_HOT
from ..ops import softmax
from ..ops.layout import memory_order, shifted_order
from ..rng import keys
from .arguments import given_noise
from .elementwise import as_shaped, flat
from .sources import Drawing, Sources, check_items, drawn_noise, key_of, made_in_op

_DRAWING = Drawing("gumbel", "gumbel_of_exponential")


def draw(
    logits: Tensor,
    mode: int,
    tau: float,
    unimix: float,
    dim: int,
    reduction: str | None,
    sources: Sources,
) -> tuple[Tensor, Tensor]:
    """y and the KL, which has no elements where it is not wanted."""
    front, scores, key, noise = sources.sample_shape, logits, None, None
    if made_in_op(sources):
        key = key_of(sources, logits)
    else:
        scores, noise = _with_noise(logits, mode, unimix, dim, sources)
    if not front and scores is logits:
        return softmax.gumbel_softmax(logits, key, noise, mode, tau, unimix, dim, reduction)
    # The KL is that of the logits, of however many samples.
    kl = logits.new_empty(0)
    if reduction is not None:
        kl = softmax.divergence(logits, dim, reduction)
    samples, order = math.prod(front) if front else 0, memory_order(logits)
    if samples:
        scores, order = scores.expand(samples, *logits.shape), shifted_order(order, 1)
    y, _ = softmax.gumbel_softmax(
        scores, key, noise, mode, tau, unimix, dim + (samples > 0), order=order
    )
    y = y.to(logits.dtype)
    return as_shaped(y, front) if len(front) > 1 or (front and not samples) else y, kl


def _with_noise(
    logits: Tensor, mode: int, unimix: float, dim: int, sources: Sources
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


def _choices(logits: Tensor, unimix: float, dim: int, sources: Sources) -> Tensor:
    """Noise of 0 for the class that ``OneHotCategorical`` would draw, -inf for all others."""
    front, generator = sources.sample_shape, sources.generator
    logits = logits.movedim(dim, -1)
    shares = torch.softmax(logits - logits.logsumexp(-1, keepdim=True), -1)
    if unimix:
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
    if not samples:
        return shares.new_empty((*front, *shares.shape[:-1]), dtype=torch.int64)
    rows = shares.reshape(-1, shares.shape[-1]).to(keys.drawn_on(shares.device, generator))
    found = torch.multinomial(rows, samples, True, generator=generator).to(shares.device)
    return found.T.reshape(*front, *shares.shape[:-1])
