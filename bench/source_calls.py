"""Small calls of samples in other shapes, and of noise that no key of the call's own makes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fused_reparam as fr
from bench.calls import Call, gauss, latent, softmax
from bench.check import Outputs


def source_calls(
    two: tuple[Tensor, Tensor], scale: Tensor, logits: Tensor, given: Tensor
) -> list[Call]:
    """Rows of the table.

    Args:
        two: means and logarithms of scales.
        scale: one row of positive scales.
        logits, given: as the means; given is noise.
    """
    own, size = torch.Generator(), logits.shape
    each = [torch.Generator() for _ in range(8)]
    items = tuple(t.detach().reshape(8, -1).requires_grad_() for t in two)

    def seeded(*generators: torch.Generator) -> dict[str, Any]:
        """To draw the same numbers in ours and in the formula."""
        for seed, generator in enumerate(generators):
            generator.manual_seed(seed)
        return {"rng": "torch", "generator": list(generators)}

    def laplace(_: None, loc: Tensor, scale: Tensor) -> Outputs:
        seeded(own)
        u = torch.empty(size).uniform_(torch.finfo(torch.float32).eps - 1, 1, generator=own)
        return (loc - scale * u.sign() * torch.log1p(-u.abs()),)

    def gumbel(_: None, logits: Tensor) -> Outputs:
        seeded(own)
        return softmax(-1)(-torch.empty(size).exponential_(generator=own).log(), logits)

    def stacked(_: None, mean: Tensor, log_std: Tensor) -> Outputs:
        seeded(*each)
        rows = [torch.randn(1, *mean.shape[1:], generator=one) for one in each]
        return gauss()(torch.cat(rows), mean, log_std)

    four, located = torch.empty(2, 2, *size), (two[0], scale)
    return [
        Call("sample_shape (2, 2)", two, latent(sample_shape=(2, 2)), gauss(), like=four),
        Call("laplace, sample_shape (2, 2)", located,
             lambda m, s: (fr.loc_scale_rsample(m, s, "laplace", sample_shape=(2, 2)),),
             lambda eps, m, s: (m + s * eps,), "laplace", like=four),
        Call("gumbel soft, sample_shape (2, 2)", (logits,),
             lambda x: (fr.gumbel_softmax(x, 0.7, sample_shape=(2, 2)),), softmax(-1), "gumbel",
             like=four),
        Call("laplace, eps given", located,
             lambda m, s: (fr.loc_scale_rsample(m, s, "laplace", eps=given),),
             lambda _, m, s: (m + s * given,), None),
        Call("gumbel soft, eps given", (logits,),
             lambda x: (fr.gumbel_softmax(x, 0.7, eps=given),),
             lambda _, x: softmax(-1)(given, x), None),
        Call("laplace, rng torch", located,
             lambda m, s: (fr.loc_scale_rsample(m, s, "laplace", **seeded(own)),), laplace, None),
        Call("gumbel soft, rng torch", (logits,),
             lambda x: (fr.gumbel_softmax(x, 0.7, **seeded(own)),), gumbel, None),
        Call("a generator for each of 8", items,
             lambda m, s: fr.gaussian_latent(m, log_std=s, **seeded(*each)), stacked, None),
    ]  # fmt: skip
