"""Small calls with dims, of densities at given points, and of divergences."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

import fused_reparam as fr
from bench.calls import Call, divergence
from bench.check import Outputs
from bench.likelihoods import (
    DF,
    HALF_LOG_2PI,
    bernoulli,
    discretized_logistic,
    laplace,
    negative_binomial,
    student_t,
)

UNIMIX = 0.01
more_zeros_log_prob = fr.zero_inflated_negative_binomial_log_prob


def log_normal(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """The Gaussian's log-density, as it is written by hand."""
    return -0.5 * ((x - mean) * torch.exp(-log_std)) ** 2 - log_std - HALF_LOG_2PI


def log_slope(x: Tensor) -> Tensor:
    """log(1 - tanh(x)^2), right where tanh rounds to 1."""
    return 2 * (math.log(2) - x - F.softplus(-2 * x))


def of_action(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    held = action.clamp(-1 + 1e-6, 1 - 1e-6)
    return (log_normal(torch.atanh(held), mean, log_std) - torch.log1p(-held * held)).sum(-1)


def fixed_action(eps: Tensor, mean: Tensor, log_std: Tensor) -> Outputs:
    x = (mean + torch.exp(log_std) * eps).detach()
    return torch.tanh(x), (log_normal(x, mean, log_std) - log_slope(x)).sum(-1)


def with_pre_tanh(eps: Tensor, mean: Tensor, log_std: Tensor) -> Outputs:
    x = mean + torch.exp(log_std) * eps
    log_prob = (-0.5 * eps**2 - log_std - HALF_LOG_2PI - log_slope(x)).sum(-1)
    return torch.tanh(x), log_prob, x


def softplus_and_offset(eps: Tensor, mean: Tensor, rho: Tensor) -> Outputs:
    std = F.softplus(rho) + 1e-4
    kl = 0.5 * (mean * mean + std * std - 1) - torch.log(std)
    return mean + std * eps, kl.sum() / len(mean)


def mixed(logits: Tensor) -> Tensor:
    probabilities = (1 - UNIMIX) * logits.softmax(-1) + UNIMIX / logits.shape[-1]
    return torch.log(probabilities)


def categories(_: None, logits: Tensor, prior: Tensor) -> Outputs:
    log_p, log_q = mixed(logits), mixed(prior)
    return ((log_p.exp() * (log_p - log_q)).sum(-1),)


def bits(_: None, logits: Tensor, prior: Tensor) -> Outputs:
    p = torch.sigmoid(logits)
    one = p * (F.logsigmoid(logits) - F.logsigmoid(prior))
    return ((one + (1 - p) * (F.logsigmoid(-logits) - F.logsigmoid(-prior))).sum(-1),)


def relaxed_bits(y: Tensor, logits: Tensor) -> Tensor:
    d = logits - 0.7 * torch.logit(y)
    return (math.log(0.7) + d - 2 * F.softplus(d) - torch.log(y) - torch.log1p(-y)).sum(-1)


def continuous_bits(x: Tensor, logits: Tensor) -> Tensor:
    """With the normalizer's series where logits are near 0, as Loaiza-Ganem and Cunningham do."""
    near = logits.abs() < 0.1
    safe = torch.where(near, 1.0, logits)
    normalizer = torch.log(torch.expm1(safe) / safe) - F.softplus(safe)
    series = 0.5 * logits + logits**2 / 24 - logits**4 / 2880 - F.softplus(logits)
    return (bernoulli(x, logits) - torch.where(near, series, normalizer)).sum(-1)


def more_zeros(x: Tensor, mu: Tensor, theta: Tensor, logits: Tensor) -> Tensor:
    value = negative_binomial(x, mu, theta)
    of_zero = F.softplus(value - logits) - F.softplus(-logits)
    return torch.where(x == 0, of_zero, value - F.softplus(logits))


def relaxed_categories(y: Tensor, logits: Tensor) -> Tensor:
    count, score = y.shape[-1], logits - 0.7 * torch.log(y)
    shares = score - score.logsumexp(-1, keepdim=True) - torch.log(y)
    return shares.sum(-1) + math.lgamma(count) + (count - 1) * math.log(0.7)


def density_calls(rows: int, cols: int) -> list[Call]:
    """With inputs that are always the same."""
    generator = torch.Generator().manual_seed(22)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).requires_grad_()

    two = mu, log_std = normal(rows, cols), normal(rows, cols, scale=0.1)
    three = normal(8, rows // 8, cols), normal(8, rows // 8, cols, scale=0.1)
    given = normal(rows, cols)
    z, mean = normal(16, 1, cols, scale=0.5), normal(1, rows // 16, cols, scale=0.5)
    pairs = z, mean, normal(rows // 16, cols, scale=0.1)
    halves, row = normal(rows, 2 * cols, scale=0.5), normal(cols, scale=0.1)
    action = torch.tanh(normal(rows, cols)).detach()
    logits = normal(rows, cols), normal(rows, cols)
    share, shares = (
        torch.sigmoid(normal(rows, cols)).detach(),
        normal(rows, cols).softmax(-1).detach(),
    )
    means = tuple(normal(*n).detach().exp().requires_grad_() for n in ((rows, cols), (cols,)))
    pixels = (127.5 * share).round() / 63.75 - 1
    counts = (3.0 * normal(rows, cols).detach().abs()).floor()
    classes = torch.arange(rows) % cols

    def kl(dims: int) -> Call:
        return Call(
            f"kl, dims={dims}", three,
            lambda m, s: (fr.gaussian_kl(m, log_std=s, dims=dims),),
            lambda _, m, s: (divergence(m, s, torch.exp(s), ()).sum(dims),), None,
        )  # fmt: skip

    def latent(dims: int) -> Call:
        def formula(eps: Tensor, m: Tensor, s: Tensor) -> Outputs:
            std = torch.exp(s)
            return m + std * eps, divergence(m, s, std, ()).sum(dims)

        ours = lambda m, s: fr.gaussian_latent(m, log_std=s, dims=dims)  # noqa: E731
        return Call(f"latent, dims={dims}", three, ours, formula)

    def parts(m: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = m.chunk(2, 1)
        return mean, scale

    def clipped(eps: Tensor, m: Tensor) -> Outputs:
        mean, scale = parts(m)
        return (mean + torch.exp(0.5 * scale) * eps,)

    return [
        *(latent(dims) for dims in (-1, 1)), *(kl(dims) for dims in (-1, 1)),
        Call("log_prob", (given, *two), lambda z, m, s: (fr.gaussian_log_prob(z, m, log_std=s),),
             lambda _, z, m, s: (log_normal(z, m, s),), None),
        Call("log_prob of fixed points, last dim", two,
             lambda m, s: (fr.gaussian_log_prob(action, m, log_std=s, dims=-1),),
             lambda _, m, s: (log_normal(action.to(m.dtype), m, s).sum(-1),), None),
        Call("log_prob of all pairs", pairs,
             lambda z, m, s: (fr.gaussian_log_prob(z, m, log_std=s, dims=-1),),
             lambda _, z, m, s: (log_normal(z, m, s).sum(-1),), None),
        Call("tanh_normal_log_prob", two,
             lambda m, s: (fr.tanh_normal_log_prob(action, m, log_std=s),),
             lambda _, m, s: (of_action(action.to(m.dtype), m, s),), None),
        Call("tanh_normal_sample", (mu, row), lambda m, s: fr.tanh_normal_sample(m, log_std=s),
             fixed_action, gradient="last"),
        Call("tanh_normal with x", (mu, row),
             lambda m, s: fr.tanh_normal_rsample(m, log_std=s, return_pre_tanh=True),
             with_pre_tanh),
        Call("rsample of moments", (halves,),
             lambda m: (fr.gaussian_rsample_from_moments(m),), clipped, like=mu),
        Call("mu a number", (log_std,), lambda s: (fr.gaussian_rsample(0.5, log_std=s),),
             lambda eps, s: (0.5 + torch.exp(s) * eps,)),
        Call("rho with min_std", two, lambda m, r: fr.gaussian_latent(m, rho=r, min_std=1e-4),
             softplus_and_offset),
        Call("rho of moments with min_std", (halves,),
             lambda m: fr.gaussian_latent_from_moments(m, scale="rho", min_std=1e-4),
             lambda eps, m: softplus_and_offset(eps, *parts(m)), like=mu),
        Call("categorical_kl", logits, lambda p, q: (fr.categorical_kl(p, q, UNIMIX, dims=()),),
             categories, None),
        Call("bernoulli_kl", logits, lambda p, q: (fr.bernoulli_kl(p, q, dims=-1),), bits, None),
        Call("relaxed_bernoulli_log_prob", logits[:1],
             lambda x: (fr.relaxed_bernoulli_log_prob(share, x, 0.7, dims=-1),),
             lambda _, x: (relaxed_bits(share.to(x.dtype), x),), None),
        Call("bernoulli_log_prob", logits[:1],
             lambda x: (fr.bernoulli_log_prob(share, x, dims=-1),),
             lambda _, x: (bernoulli(share.to(x.dtype), x).sum(-1),), None),
        Call("continuous Bernoulli's log_prob", logits[:1],
             lambda x: (fr.bernoulli_log_prob(share, x, continuous=True, dims=-1),),
             lambda _, x: (continuous_bits(share.to(x.dtype), x),), None),
        Call("negative_binomial_log_prob", means,
             lambda m, t: (fr.negative_binomial_log_prob(counts, m, t, dims=-1),),
             lambda _, m, t: (negative_binomial(counts.to(m.dtype), m, t).sum(-1),), None),
        Call("zero_inflated_negative_binomial_log_prob", (*means, *logits[:1]),
             lambda m, t, x: (more_zeros_log_prob(counts, m, t, x, dims=-1),),
             lambda _, m, t, x: (more_zeros(counts.to(m.dtype), m, t, x).sum(-1),), None),
        Call("laplace_log_prob", two,
             lambda m, s: (fr.laplace_log_prob(given.detach(), m, s.exp(), dims=-1),),
             lambda _, m, s: (laplace(given.detach().to(m.dtype), m, s.exp()).sum(-1),), None),
        Call("student_t_log_prob", two,
             lambda m, s: (fr.student_t_log_prob(given.detach(), DF, m, s.exp(), dims=-1),),
             lambda _, m, s: (student_t(given.detach().to(m.dtype), m, s.exp()).sum(-1),),
             None),
        Call("discretized_logistic_log_prob", two,
             lambda m, s: (fr.discretized_logistic_log_prob(pixels, m, s.exp(), dims=-1),),
             lambda _, m, s: (discretized_logistic(pixels.to(m.dtype), m, s.exp()).sum(-1),), None),
        Call("categorical_log_prob", logits[:1],
             lambda x: (fr.categorical_log_prob(classes, x),),
             lambda _, x: (-F.cross_entropy(x, classes, reduction="none"),), None),
        Call("gumbel_softmax_log_prob", logits[:1],
             lambda x: (fr.gumbel_softmax_log_prob(shares, x, 0.7),),
             lambda _, x: (relaxed_categories(shares.to(x.dtype), x),), None),
    ]  # fmt: skip
