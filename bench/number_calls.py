"""Small calls whose temperatures, bounds, degrees of freedom or priors are tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import fused_reparam as fr
from bench.calls import Call, batchmean, gauss, latent
from bench.check import Outputs
from bench.density_calls import of_action
from bench.noise import degrees
from bench.ops import tanh_normal


def within(found: Outputs, ends: Tensor) -> Outputs:
    """An action from -1 to 1, and its log-density, as one from -ends to ends."""
    action, log_prob = found
    return ends * action, log_prob - torch.log(ends).sum()


def student_t(loc: Tensor, scale: Tensor, df: Tensor) -> Outputs:
    """Of ``torch.distributions``, which has a gradient of df too."""
    return (torch.distributions.StudentT(df, loc, scale, validate_args=False).rsample(),)


def of_uniforms(log_u: Tensor, loc: Tensor, scale: Tensor, df: Tensor) -> Outputs:
    """Of -ln u of two uniform numbers for each element."""
    growth = torch.expm1(log_u[..., 0] * (2.0 / df))
    cosine = torch.cos((2.0 * math.pi) * torch.exp(-log_u[..., 1]))
    return (loc + scale * torch.sqrt(df * growth) * cosine,)


def number_calls(
    two: tuple[Tensor, Tensor], action: tuple[Tensor, Tensor], scale: Tensor, logits: Tensor
) -> list[Call]:
    """Rows of the table.

    Args:
        two: means and logarithms of scales; action: the same of one row of scales.
        scale: one row of positive scales.
        logits: as the means.
    """
    tau, df, bits = torch.tensor(0.7), torch.tensor(degrees("student_t")), torch.tensor(2.0)
    learned = torch.tensor(0.7).requires_grad_()
    each = (0.7 + 0.1 * two[0][:, :1].detach().tanh()).requires_grad_()
    rates = (1.0 + 0.1 * two[0].detach().tanh()).requires_grad_()
    freedom = (4.0 + two[0][:, :1].detach().tanh()).requires_grad_()
    ends = 1.0 + action[1].detach().abs()
    edge, taken = ends.clone().requires_grad_(), ends * torch.tanh(two[1].detach())
    return [
        Call("gumbel, tau a tensor", (logits,),
             lambda x: (fr.gumbel_softmax(x, tau),),
             lambda noise, x: (((x + noise) / tau).softmax(-1),), "gumbel"),
        Call("gumbel, tau learned", (logits, learned), lambda x, t: (fr.gumbel_softmax(x, t),),
             lambda noise, x, t: (((x + noise) / t).softmax(-1),), "gumbel"),
        Call("gumbel, tau of each learned", (logits, each),
             lambda x, t: (fr.gumbel_softmax(x, t),),
             lambda noise, x, t: (((x + noise) / t).softmax(-1),), "gumbel"),
        Call("relaxed_bernoulli, tau learned", (logits, learned),
             lambda x, t: (fr.relaxed_bernoulli(x, t),),
             lambda noise, x, t: (torch.sigmoid((x + noise) / t),), "logistic"),
        Call("student_t, df a tensor", (two[0], scale),
             lambda m, s: (fr.loc_scale_rsample(m, s, "student_t", df=df),),
             lambda eps, m, s: (m + s * eps,), "student_t"),
        Call("student_t, df learned of each", (two[0], scale, freedom),
             lambda m, s, d: (fr.loc_scale_rsample(m, s, "student_t", df=d),),
             of_uniforms, "exponential", like=torch.empty(*two[0].shape, 2), eager=student_t),
        Call("tanh_normal, bounds of each action", action,
             lambda m, s: fr.tanh_normal_rsample(m, log_std=s, low=-ends, high=ends),
             lambda eps, m, s: within(tanh_normal(eps, m, s), ends)),
        Call("tanh_normal, learned bounds", (*action, edge),
             lambda m, s, e: fr.tanh_normal_rsample(m, log_std=s, low=-e, high=e),
             lambda eps, m, s, e: within(tanh_normal(eps, m, s), e)),
        Call("tanh_normal_log_prob, bounds of each action", two,
             lambda m, s: (fr.tanh_normal_log_prob(taken, m, log_std=s, low=-ends, high=ends),),
             lambda _, m, s: (of_action(taken / ends, m, s) - torch.log(ends).sum(),), None),
        Call("prior of numbers and a tensor", two, latent(prior=(0.5, torch.tensor(2.0))),
             gauss(prior=(torch.tensor(0.5), torch.tensor(math.log(2.0))))),
        Call("free bits a tensor per sample", two, latent(free_bits=bits),
             gauss(lambda kl: torch.maximum(kl.sum(1), bits).mean())),
        Call("free bits a tensor per element", two, latent(free_bits=0.05 * bits,
             free_bits_per="element"),
             gauss(lambda kl: batchmean(torch.maximum(kl, 0.05 * bits)))),
        Call("exponential, prior learned", (rates, learned),
             lambda r, p: fr.exponential_latent(r, prior_rate=p),
             lambda eps, r, p: (eps / r, batchmean(p / r - 1 - torch.log(p / r))), "exponential"),
    ]  # fmt: skip
