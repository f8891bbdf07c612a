"""Small calls through classes: those of `fused_reparam.distributions`, and PyTorch's own."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch import distributions as theirs
from torch.distributions import kl_divergence

from bench.calls import Call, gauss
from bench.check import Outputs
from fused_reparam import distributions as ours


def distribution_calls(mean: Tensor, log_std: Tensor, scale: Tensor, row: Tensor) -> list[Call]:
    """A distribution is made, drawn from and differentiated, as a step of training does.

    Args:
        mean, log_std, scale: of one shape, the last positive.
        row: of one row, positive.
    """
    standard = ours.Normal(0.0, 1.0), theirs.Normal(0.0, 1.0)

    def with_kl(m: Tensor, s: Tensor) -> Outputs:
        q = theirs.Normal(m, torch.exp(s), validate_args=False)
        return q.rsample(), kl_divergence(q, standard[1])

    def with_log_prob(m: Tensor, s: Tensor) -> Outputs:
        q = theirs.Normal(m, s, validate_args=False)
        z = q.rsample()
        return z, q.log_prob(z)

    def density(eps: Tensor, m: Tensor, s: Tensor) -> Outputs:
        return m + s * eps, -0.5 * eps * eps - torch.log(s) - 0.5 * math.log(2 * math.pi)

    return [
        *(Call(f"Normal{words}, z.sum()", (mean, *given),
               lambda m, s=0.5: (ours.Normal(m, s, validate_args=False).rsample(),),
               lambda eps, m, s=0.5: (m + s * eps,), gradient="sum",
               eager=lambda m, s=0.5: (theirs.Normal(m, s, validate_args=False).rsample(),))
          for words, given in (
              ("", (scale,)), (", scale of one row", (row,)), (", scale a number", ()),
          )),
        Call("Normal with its KL, log_std", (mean, log_std),
             lambda m, s: ours.Normal(m, log_std=s, validate_args=False).rsample_and_kl(
                 standard[0]),
             gauss(lambda kl: kl), eager=with_kl),
        Call("Normal with its log_prob", (mean, scale),
             lambda m, s: ours.Normal(m, s, validate_args=False).rsample_and_log_prob(),
             density, eager=with_log_prob),
        Call("Gumbel, z.sum()", (mean, scale),
             lambda m, s: (ours.Gumbel(m, s, validate_args=False).rsample(),),
             lambda eps, m, s: (m + s * eps,), "gumbel", "sum",
             eager=lambda m, s: (theirs.Gumbel(m, s, validate_args=False).rsample(),)),
    ]  # fmt: skip
