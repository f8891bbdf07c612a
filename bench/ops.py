"""The ops that the bench knows: inputs, formula, ours and bytes of each. A new op is one row more.

An op's formula is what eager PyTorch computes, with the noise as its first argument; it is timed
with noise that PyTorch draws, and the tests show that ours is the formula of the noise of the key
that ours drew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributions as D

import fused_reparam as fr
from bench import likelihoods
from bench.likelihoods import HALF_LOG_2PI
from bench.noise import DRAWS, degrees
from fused_reparam.families import FAMILIES, Family
from fused_reparam.functional.loc_scale import BASES

Shape = tuple[int, ...]
Tensors = tuple[Tensor, ...]
Compute = Callable[..., Tensors]
Normals = Callable[[int], list[Tensor]]
"""Makes so many tensors of the latent's shape, of normal numbers that are always the same."""

FORWARD, BACKWARD, BOTH = WORKS = ("forward", "backward", "forward+backward")
SAMPLES = 8
TAU, TAU_BERNOULLI, UNIMIX, PRIOR_STD = 0.8, 0.9, 0.01, 0.1


@dataclass(frozen=True)
class Op:
    name: str
    inputs: Callable[[Normals], Tensors]
    """From normal numbers: as a model in training gives them."""
    formula: Compute
    """Of noise and inputs; its first output is the sample, if it has one."""
    ours: Compute
    moves: tuple[int, ...] = (3, 5)
    """Tensors of the latent's size that must be read or written: forward, then backward."""
    noise: tuple[int, ...] = (1, 1)
    """How often each of the two must make the noise when none is kept."""
    base: str | None = "normal"
    """The noise; None for an op that draws none."""
    like: Callable[..., Tensor] = lambda first, *_: first
    """Of the inputs, a tensor of the noise's shape."""
    eager: Compute | None = None
    """What eager PyTorch computes, where it is not the formula with noise of its own."""
    rival: Callable[..., Tensors] | None = None
    """The same through torch.distributions: of `validate_args` and the inputs."""
    sizes: tuple[str, ...] = ("128x20", "1M")
    """Those to measure where the user names none, the smallest first."""
    dtypes: tuple[str, ...] = ("float32",)
    asked: tuple[tuple[str, *tuple[float, ...]], ...] = (("1M",),)
    """Sizes at which a CPU must keep no more than `keeps`, and there be so many times as fast as
    eager and as torch.compile, where that is said."""
    data: int = 0
    """How many of the first inputs are data, which ask for no gradient."""
    keeps: int = 0
    """Tensors of the latent's size that the backward pass needs beside a key."""

    @property
    def works(self) -> tuple[str, ...]:
        return WORKS if len(self.moves) > 1 else WORKS[:1]

    def _of(self, work: str, parts: tuple[int, ...]) -> int:
        return sum(parts) if work == BOTH else parts[work == BACKWARD]

    def moved(self, work: str) -> int:
        """Tensors of the latent's size that `work` has to read or write."""
        return self._of(work, self.moves)

    def noise_passes(self, work: str) -> int:
        return self._of(work, self.noise)

    @property
    def textbook(self) -> Compute:
        """The op in eager PyTorch."""
        if self.eager is not None or self.base is None:
            return self.eager or (lambda *inputs: self.formula(None, *inputs))
        draw, like, formula = DRAWS[self.base], self.like, self.formula
        return lambda *inputs: formula(draw(like(*inputs)), *inputs)


# --- inputs ---------------------------------------------------------------------------------------


def scaled(*changes: tuple[float, float]) -> Callable[[Normals], Tensors]:
    """A tensor for each (scale, shift) of normal numbers."""

    def inputs(normals: Normals) -> Tensors:
        made = normals(len(changes))
        for tensor, (scale, shift) in zip(made, changes, strict=True):
            tensor.mul_(scale).add_(shift)
        return tuple(made)

    return inputs


PAIR = ((1.0, 0.0), (0.5, -0.5))
"""mu and logvar, as an encoder early in training gives them."""


# --- formulas -------------------------------------------------------------------------------------


def sample(eps: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """As in pytorch/examples/vae."""
    return mu + eps * torch.exp(0.5 * logvar)


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """As in pytorch/examples/vae, averaged over the batch."""
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / mu.shape[0]


def latent(eps: Tensor, mu: Tensor, logvar: Tensor) -> Tensors:
    return sample(eps, mu, logvar), kl(mu, logvar)


def halves(moments: Tensor) -> tuple[Tensor, Tensor]:
    mu, logvar = moments.chunk(2, 1)
    return mu, logvar


def latent_prior(
    eps: Tensor, mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor
) -> Tensors:
    """As in ladder VAEs, averaged over the batch."""
    terms = logvar.exp() + (mu - prior_mu).pow(2)
    value = 0.5 * torch.sum(prior_logvar - logvar - 1 + terms * torch.exp(-prior_logvar))
    return sample(eps, mu, logvar), value / mu.shape[0]


def log_prob(eps: Tensor, mu: Tensor, logvar: Tensor) -> Tensors:
    """A sample with its log-densities, as importance-weighted bounds take them."""
    z = sample(eps, mu, logvar)
    log_q = (-0.5 * eps**2 - 0.5 * logvar - HALF_LOG_2PI).flatten(1).sum(1)
    return z, log_q, (-0.5 * z**2 - HALF_LOG_2PI).flatten(1).sum(1)


def tanh_normal(eps: Tensor, mean: Tensor, log_std: Tensor) -> Tensors:
    """As soft actor-critic is written, in the form that is right where tanh saturates."""
    x = mean + torch.exp(log_std) * eps
    log_slope = 2 * (math.log(2) - x - F.softplus(-2 * x))
    return torch.tanh(x), (-0.5 * eps**2 - log_std - HALF_LOG_2PI - log_slope).sum(-1)


def weight(eps: Tensor, mu: Tensor, rho: Tensor) -> Tensors:
    """As Bayes by backprop is written: Blundell and others, 2015, with the closed KL."""
    sigma = F.softplus(rho)
    ratio = (sigma**2 + mu**2) / (2 * PRIOR_STD**2)
    return mu + sigma * eps, (math.log(PRIOR_STD) - torch.log(sigma) + ratio - 0.5).sum()


def soft(gumbels: Tensor, logits: Tensor) -> Tensor:
    """As torch.nn.functional.gumbel_softmax, the classes in dim 1."""
    return ((logits + gumbels) / TAU).softmax(1)


def categorical_kl(logits: Tensor) -> Tensor:
    """To equal shares, averaged over the batch."""
    log_p = F.log_softmax(logits, 1)
    return (log_p.exp() * (log_p + math.log(logits.shape[1]))).sum() / logits.shape[0]


def mixed(logits: Tensor, dim: int) -> Tensor:
    """Shares with a part of equal chances: Hafner and others, "Mastering diverse domains"."""
    return (1 - UNIMIX) * torch.softmax(logits, dim) + UNIMIX / logits.shape[dim]


def straight_through(shares: Tensor, chosen: Tensor, dim: int) -> Tensor:
    one_hot = torch.zeros_like(shares).scatter_(dim, chosen, 1.0)
    return one_hot + (shares - shares.detach())


def one_hot(gumbels: Tensor, logits: Tensor) -> Tensors:
    shares = mixed(logits, 1)
    chosen = (shares.log() + gumbels).argmax(1, keepdim=True)
    return (straight_through(shares, chosen, 1),)


def multinomial(logits: Tensor) -> Tensors:
    """As PyTorch's users draw classes."""
    shares = mixed(logits.movedim(1, -1), -1)
    chosen = torch.multinomial(shares.detach().flatten(0, -2), 1).view(*shares.shape[:-1], 1)
    return (straight_through(shares, chosen, -1).movedim(-1, 1),)


def latent_of(validate: bool, mu: Tensor, scale: Tensor, weight: bool = False) -> Tensors:
    """Through torch.distributions; `weight`: as a layer's weights, the KL that of one of them."""
    sigma = F.softplus(scale) if weight else torch.exp(0.5 * scale)
    q = D.Normal(mu, sigma, validate_args=validate)
    prior = D.Normal(mu.new_zeros(()), mu.new_ones(()), validate_args=validate)
    divergence = D.kl_divergence(q, prior)
    return q.rsample(), divergence.mean() if weight else divergence.sum() / mu.shape[0]


# --- the table ------------------------------------------------------------------------------------

LARGE: tuple[str, ...] = ("128x20", "1M", "16M")
BOTH_DTYPES = ("float32", "bfloat16")


def of_row(name: str, row: Family, **more: Any) -> Op:
    """The sample of a family as its row has it: against its distribution, where that says one.

    Args:
        more: what the row doesn't know, or where it is not what PyTorch's users write.
    """
    names = row.names.split()
    count = len(names)

    def inputs(normals: Normals) -> Tensors:
        made = zip(names, normals(count), strict=True)
        return tuple(t.mul_(0.3).exp_() if n.endswith("+") else t.mul_(0.3) for n, t in made)

    def eager(*parameters: Tensor) -> Tensors:
        named = zip((n.rstrip("+") for n in names), parameters, strict=True)
        return (row.law(**dict(named)).rsample(),)

    def formula(noise: Tensor, *parameters: Tensor) -> Tensors:
        return row.formula(parameters, noise, 0, 0, row.prior_constants(**row.some_prior()))[:1]

    facts = {
        "inputs": inputs,
        "formula": formula,
        "ours": lambda *parameters: (getattr(fr, name)(*parameters),),
        # The gradient of a location is that of z.
        "moves": (count + 1, 2 * count + (-1 if row.linear else 1)),
        "base": row.base,
        "eager": eager if row.law else None,
    }
    return Op(name, **facts | more)


def located(base: str) -> Op:
    return of_row(
        f"loc_scale_{base}", FAMILIES[base],
        formula=lambda eps, loc, scale: (loc + scale * eps,),
        ours=lambda loc, scale: (fr.loc_scale_rsample(loc, scale, base, df=degrees(base)),),
    )  # fmt: skip


def of_values(
    name: str,
    inputs: Callable[[Normals], Tensors],
    ours: Callable[..., Tensor] | None = None,
    **more: Any,
) -> Op:
    """The log-likelihood of values, summed over the last dim."""
    log_prob, each = getattr(fr, f"{name}_log_prob"), getattr(likelihoods, name)
    facts: dict[str, Any] = {"moves": (3, 5), "sizes": ("128x784", "1M")}
    return Op(
        f"{name}_log_prob", inputs, lambda _, *tensors: (each(*tensors).sum(-1),),
        lambda *tensors: ((ours or log_prob)(*tensors, dims=-1),),
        noise=(0, 0), base=None, data=1, **facts | more,
    )  # fmt: skip


_ROWS = (
    Op(
        "gaussian_latent", scaled(*PAIR), latent, fr.gaussian_latent, rival=latent_of,
        sizes=("128x20", "16k", "128k", "1M", "16M"), dtypes=BOTH_DTYPES, asked=(),
    ),
    Op(
        "gaussian_rsample", scaled(*PAIR),
        lambda eps, mu, logvar: (sample(eps, mu, logvar),),
        lambda mu, logvar: (fr.gaussian_rsample(mu, logvar),),
        moves=(3, 3), sizes=LARGE, dtypes=BOTH_DTYPES,
    ),
    Op(
        "gaussian_kl", scaled(*PAIR),
        lambda _, mu, logvar: (kl(mu, logvar),),
        lambda mu, logvar: (fr.gaussian_kl(mu, logvar),),
        moves=(2, 4), noise=(0, 0), base=None, sizes=LARGE, dtypes=BOTH_DTYPES,
    ),
    # Of images' pixels, and of the logits that a decoder gives for them.
    of_values("bernoulli", likelihoods.pixels, moves=(2, 3), dtypes=BOTH_DTYPES),
    # Of the genes of cells: counts, means and an inverse dispersion for each of them.
    of_values("negative_binomial", likelihoods.counts, sizes=("128x2000", "1M")),
    # Of images' pixels, with a location and a scale for each of them.
    of_values(
        "gaussian", likelihoods.located,
        lambda x, mu, std, dims: fr.gaussian_log_prob(x, mu, std=std, dims=dims),
    ),
    of_values("laplace", likelihoods.located),
    of_values(
        "student_t", likelihoods.located,
        lambda x, *location, dims: fr.student_t_log_prob(
            x, likelihoods.DF, *location, dims=dims
        ),
    ),
    of_values("discretized_logistic", likelihoods.on_a_grid),
    Op(
        "gaussian_latent_from_moments",
        lambda normals: (torch.cat(scaled(*PAIR)(normals), 1),),
        lambda eps, moments: latent(eps, *halves(moments)),
        fr.gaussian_latent_from_moments,
        like=lambda moments: halves(moments)[0],
        rival=lambda validate, moments: latent_of(validate, *halves(moments)),
        sizes=LARGE, dtypes=BOTH_DTYPES,
    ),
    Op(
        # One element, expanded: it tells shape, dtype and device and takes no memory.
        "normal", lambda normals: (normals(0)[0],),
        lambda noise, _: (noise,),
        lambda like: (
            fr.noise.normal(fr.noise.draw_key(like.device), like.shape, dtype=like.dtype),
        ),
        moves=(1,), noise=(1,), sizes=LARGE, dtypes=BOTH_DTYPES, asked=(),
    ),
    Op(
        "gaussian_latent_prior", scaled(*PAIR, *PAIR), latent_prior,
        lambda mu, logvar, *p: fr.gaussian_latent(mu, logvar, prior=(p[0], {"logvar": p[1]})),
        moves=(5, 9),
    ),
    Op(
        "gaussian_latent_samples", scaled(*PAIR), latent,
        lambda mu, logvar: fr.gaussian_latent(mu, logvar, num_samples=SAMPLES),
        moves=(2 + SAMPLES, 4 + SAMPLES), noise=(SAMPLES, SAMPLES),
        like=lambda mu, _: mu.expand(SAMPLES, *mu.shape), sizes=("128x20", "8x128x1024"),
        asked=(("8x128x1024", 6, 18),),
    ),
    Op("gaussian_rsample_log_prob", scaled(*PAIR), log_prob, fr.gaussian_rsample_log_prob),
    Op(
        # Weights near 0.1 and standard deviations near 0.05, as in a layer's training.
        "sample_weight", scaled((0.1, 0.0), (0.5, -3.0)), weight,
        lambda mu, rho: fr.sample_weight(mu, rho, prior_std=PRIOR_STD), sizes=("128k", "1e7"),
        asked=(("1e7", 16, 13),),
    ),
    Op(
        "gumbel_softmax", scaled((1.0, 0.0)), lambda noise, logits: (soft(noise, logits),),
        lambda logits: (fr.gumbel_softmax(logits, TAU, dim=1),),
        moves=(2, 3), noise=(1, 0), base="gumbel",
        # A matrix of rows, and the codes of 4 images of 16 x 16, classes not last in memory.
        sizes=("128x20", "4096x1024", "4x8192x16x16"),
        asked=(("4x8192x16x16", 8, 3.5), ("4096x1024", 6, 2)), keeps=1,
    ),
    Op(
        "categorical_latent", scaled((1.0, 0.0)),
        lambda noise, logits: (soft(noise, logits), categorical_kl(logits)),
        lambda logits: fr.categorical_latent(logits, TAU, dim=1),
        moves=(2, 4), noise=(1, 0), base="gumbel", sizes=("128x20", "4x8192x16x16"),
        asked=(("4x8192x16x16",),), keeps=1,
    ),
    Op(
        "one_hot_categorical", scaled((1.0, 0.0)), one_hot,
        lambda logits: (fr.one_hot_categorical(logits, UNIMIX, dim=1),),
        moves=(2, 3), noise=(1, 0), base="gumbel", eager=multinomial,
        # A world model's 1024 states of 32 categories of 32 classes.
        sizes=("128x20", "32768x32"), asked=(("32768x32",),),
    ),
    Op(
        # As a policy in training gives them.
        "tanh_normal_rsample", scaled((0.3, 0.0), (0.3, -1.0)), tanh_normal,
        lambda mean, log_std: fr.tanh_normal_rsample(mean, log_std=log_std),
        sizes=("256x6", "65536x6"), asked=(("256x6", 3, 3),),
    ),
    *(located(base) for base in BASES if base != "normal"),
    of_row(
        "relaxed_bernoulli", FAMILIES["relaxed_bernoulli"],
        formula=lambda noise, logits: (torch.sigmoid((logits + noise) / TAU_BERNOULLI),),
        ours=lambda logits: (fr.relaxed_bernoulli(logits, TAU_BERNOULLI),),
    ),
    Op(
        "log_normal_rsample", scaled(*PAIR),
        lambda eps, mu, logvar: (torch.exp(sample(eps, mu, logvar)),),
        lambda mu, logvar: (fr.log_normal_rsample(mu, logvar=logvar),),
    ),
    *(of_row(f"{name}_rsample", row) for name, row in FAMILIES.items() if row.law),
)  # fmt: skip
OPS: dict[str, Op] = {op.name: op for op in _ROWS}
