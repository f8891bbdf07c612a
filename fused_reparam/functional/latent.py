"""The Gaussian latent from checked arguments to its op: what ``gaussian`` calls."""

from __future__ import annotations

from torch import Tensor

from ..core.scales import SCALE_KINDS
from . import elementwise
from .divergence import Divergence
from .sources import Sources

Bounds = tuple[float, float]


def latent(
    mu: Tensor | float,
    scale: Tensor | float | None,
    kind: int,
    bounds: Bounds,
    wanted: Divergence,
    sources: Sources,
    return_eps: bool,
    split: int = -1,
) -> tuple[Tensor, ...]:
    """z, the KL where one is wanted, and the noise where that is asked for.

    Where ``split`` is a dim, mu holds means and scales along it, and scale is None.
    """
    prior = wanted.prior
    if scale is None:
        named = ("moments", mu), *prior.parameters
    else:
        named = ("mu", mu), (SCALE_KINDS[kind], scale), *prior.parameters
    z, terms, eps = elementwise.sample(
        wanted.family, named, sources, kind, prior.kind, (*bounds, *wanted.constants), wanted.inner,
        split, return_eps,
    )  # fmt: skip
    if not terms:
        return (z,) if eps is None else (z, eps)
    kl = terms[0]
    if not wanted.standard:
        kl = wanted.finish(kl, lambda: z.shape[len(sources.sample_shape) :])
    return (z, kl) if eps is None else (z, kl, eps)


def kl(
    mu: Tensor | float, scale: Tensor | float, kind: int, bounds: Bounds, wanted: Divergence
) -> Tensor:
    """The KL without a sample."""
    prior = wanted.prior
    assert wanted.inner is not None
    shape, (found,) = elementwise.terms_alone(
        wanted.family, (("mu", mu), (SCALE_KINDS[kind], scale), *prior.parameters),
        kind, prior.kind, (*bounds, *wanted.constants), wanted.inner,
    )  # fmt: skip
    return found if wanted.standard else wanted.finish(found, shape)
