"""Small calls: the processor time of ours over that of the same formula in eager PyTorch.

Forward and backward at 128x20 and 256x6, one thread, in interleaved rounds. What a user
calls is seldom the fastest case: a scale of one row, a prior, `z.sum()`. A row here is one such
call, and a new one is a row more in `calls`. The gate of `check` holds for it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fused_reparam as fr
from bench.check import Outputs
from bench.noise import DRAWS, degrees
from bench.ops import OPS, PRIOR_STD, tanh_normal, weight
from bench.weights import to_mixture, to_tensors
from fused_reparam.families import FAMILIES
from fused_reparam.functional.loc_scale import BASES

# What a call may take of eager's time: the plain latent, every other one, and a compiled one of
# the compiled formula's time.
BASIC, MOST, COMPILED = 0.33, 0.6, 1.0
SHAPES = ((128, 20), (256, 6))


@dataclass(frozen=True)
class Call:
    """`ours(*inputs)`, and `formula(noise, *inputs)`, which returns as many tensors."""

    name: str
    inputs: tuple[Tensor, ...]
    ours: Callable[..., Outputs]
    formula: Callable[..., Outputs]
    base: str | None = "normal"
    """The noise; None for a call that draws none."""
    gradient: str = "dense"
    """How gradients arrive: "dense"; "like", in the output's memory format; "transposed"; "sum", a
    number expanded, as of z.sum(); "expanded", a row; "first" or "last", at that output alone; or
    "none", in inference mode."""
    like: Tensor | None = None
    """A tensor of the noise's shape and memory format; the first input when None."""
    most: float = MOST
    eager: Callable[..., Outputs] | None = None
    """What eager PyTorch computes, where it is not the formula with noise of its own."""

    @property
    def noise(self) -> Tensor:
        """A tensor of the noise's shape and memory order."""
        return (self.inputs[0] if self.like is None else self.like).detach()

    @property
    def theirs(self) -> Callable[..., Outputs]:
        """What PyTorch's users write: the formula with noise of its own."""
        formula, noise = self.formula, self.noise
        if self.eager is not None or self.base is None:
            return self.eager or (lambda *inputs: formula(None, *inputs))
        draw = DRAWS[self.base]
        return lambda *inputs: formula(draw(noise), *inputs)

    @property
    def incoming(self) -> Callable[[Outputs], list[Tensor | None]] | None:
        return None if self.gradient == "none" else partial(gradients, self.gradient)


def divergence(mean: Tensor, log_std: Tensor, std: Tensor, prior: Sequence[Tensor]) -> Tensor:
    """The KL of each element, to N(0, 1) or to a prior's mean and log standard deviation."""
    if not prior:
        return 0.5 * (mean * mean + std * std - 1) - log_std
    other, log_other = prior
    distance = (mean - other) * torch.exp(-log_other)
    log_ratio = log_std - log_other
    return 0.5 * (distance * distance + torch.exp(2 * log_ratio) - 1) - log_ratio


Reduce = Callable[[Tensor], Tensor]
REDUCTIONS: dict[str, Reduce] = {
    "batchmean": lambda kl: kl.sum() / len(kl), "sum": torch.sum, "mean": torch.mean,
    "sample": lambda kl: kl.sum(1), "none": lambda kl: kl,
}  # fmt: skip
batchmean = REDUCTIONS["batchmean"]


def gauss(reduce: Reduce = batchmean, prior: Sequence[Tensor] = ()) -> Callable[..., Outputs]:
    """z and the KL, as libraries write them; a prior that is learned comes with the inputs."""

    def formula(eps: Tensor, mean: Tensor, log_std: Tensor, *learned: Tensor) -> Outputs:
        std = torch.exp(log_std)
        return mean + std * eps, reduce(divergence(mean, log_std, std, learned or prior))

    return formula


def kl_alone(reduce: Reduce) -> Callable[..., Outputs]:
    def formula(_: None, mean: Tensor, log_std: Tensor, *learned: Tensor) -> Outputs:
        return (reduce(divergence(mean, log_std, torch.exp(log_std), learned)),)

    return formula


def sample_alone(eps: Tensor, mean: Tensor, log_std: Tensor) -> Outputs:
    return (mean + torch.exp(log_std) * eps,)


def softmax(dim: int, hard: bool = False) -> Callable[..., Outputs]:
    """As torch.nn.functional.gumbel_softmax."""

    def formula(gumbels: Tensor, logits: Tensor) -> Outputs:
        soft = ((logits + gumbels) / 0.7).softmax(dim)
        if not hard:
            return (soft,)
        index = soft.max(dim, keepdim=True)[1]
        one_hot = torch.zeros_like(logits).scatter_(dim, index, 1.0)
        return (one_hot - soft.detach() + soft,)

    return formula


def latent(**options: Any) -> Callable[..., Outputs]:
    return lambda mean, log_std: fr.gaussian_latent(mean, log_std=log_std, **options)


def rsample(mean: Tensor, log_std: Tensor) -> Outputs:
    return (fr.gaussian_rsample(mean, log_std=log_std),)


def kl_of(reduction: str) -> Callable[..., Outputs]:
    def ours(mean: Tensor, log_std: Tensor, *prior: Tensor) -> Outputs:
        other = (prior[0], {"log_std": prior[1]}) if prior else None
        return (fr.gaussian_kl(mean, log_std=log_std, prior=other, reduction=reduction),)

    return ours


def located(base: str, number: float = 0.0) -> Callable[..., Outputs]:
    """With a scale that is a number, where one is given."""
    df = degrees(base)
    if number:
        return lambda loc: (fr.loc_scale_rsample(loc, number, base, df=df),)
    return lambda loc, scale: (fr.loc_scale_rsample(loc, scale, base, df=df),)


def categories(dim: int = -1, hard: bool = False) -> Callable[..., Outputs]:
    return lambda logits: (fr.gumbel_softmax(logits, 0.7, hard=hard, dim=dim),)


def calls(rows: int = 128, cols: int = 20) -> list[Call]:
    """Every call that must not be slow, with inputs that are always the same.

    Args:
        rows, cols: a batch, divisible by 16, and what one of it has.
    """
    from bench.density_calls import density_calls
    from bench.distribution_calls import distribution_calls

    generator = torch.Generator().manual_seed(20)

    def normal(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator) + shift).requires_grad_()

    def channels_last(scale: float) -> Tensor:
        made = normal(2, 8, rows // 8, cols // 2, scale=scale).detach()
        return made.to(memory_format=torch.channels_last).requires_grad_()

    two = mu, log_std = normal(rows, cols), normal(rows, cols, scale=0.1)
    row, one_row = normal(cols, scale=0.1), normal(cols, scale=0.1, shift=1.0)
    prior = normal(cols, scale=0.1), normal(cols, scale=0.1)
    turned = normal(cols, rows), normal(cols, rows, scale=0.1)
    wide = normal(rows, 2 * cols), normal(rows, 2 * cols, scale=0.1)
    halves, last = (normal(rows, 2 * cols, scale=0.5),
                    normal(8, rows // 8, 2 * cols, scale=0.5))  # fmt: skip
    action = mu, normal(cols, scale=0.1, shift=-0.5)
    logits, logits1 = normal(rows, cols), normal(16, cols, rows // 16)
    inner, whole = slice(3, cols + 3), torch.empty(8, rows // 8, cols)
    half, given = torch.tensor(math.log(0.5)), torch.randn(rows, cols, generator=generator)
    numbers = torch.tensor(0.5), torch.tensor(math.log(2.0))
    mu_alone, log_std_alone = mu.detach(), log_std.detach()

    from bench.number_calls import number_calls  # which takes a good deal from here

    def op(name: str) -> Call:
        """An op of the bench."""
        found = OPS[name]
        made = found.inputs(lambda count: [normal(rows, cols).detach() for _ in range(count)])
        inputs = tuple(one.requires_grad_(i >= found.data) for i, one in enumerate(made))
        return Call(name, inputs, found.ours, found.formula, found.base, eager=found.eager)

    return [
        Call("two tensors", two, latent(), gauss(), most=BASIC),
        Call("log_std of one row", (mu, row), latent(), gauss()),
        Call("std a number", (mu,), lambda m: fr.gaussian_latent(m, std=0.5),
             lambda eps, m: gauss()(eps, m, half)),
        *(Call(f"moments, {words}", (both,),
               lambda m, dim=dim: fr.gaussian_latent_from_moments(m, dim, scale="log_std"),
               lambda eps, m, dim=dim: gauss()(eps, *m.chunk(2, dim)), like=like)
          for words, both, dim, like in (("dim 1", halves, 1, mu), ("last dim", last, -1, whole))),
        Call("channels_last", (channels_last(1.0), channels_last(0.1)), latent(), gauss(),
             gradient="like"),
        Call("transposed", turned, lambda m, s: fr.gaussian_latent(m.t(), log_std=s.t()),
             lambda eps, m, s: gauss()(eps, m.t(), s.t()), gradient="like", like=turned[0].t()),
        Call("sliced", wide, lambda m, s: latent()(m[:, inner], s[:, inner]),
             lambda eps, m, s: gauss()(eps, m[:, inner], s[:, inner]), like=mu),
        *(Call(f"reduction {name}", two, latent(reduction=name), gauss(REDUCTIONS[name]))
          for name in ("sum", "mean", "sample", "none")),
        Call("free bits per sample", two, latent(free_bits=2.0),
             gauss(lambda kl: kl.sum(1).clamp_min(2.0).mean())),
        Call("free bits per element", two, latent(free_bits=0.1, free_bits_per="element"),
             gauss(lambda kl: batchmean(kl.clamp_min(0.1)))),
        Call("prior of numbers", two, latent(prior=(0.5, 2.0)), gauss(prior=numbers)),
        Call("prior of tensors", (*two, *prior),
             lambda m, s, *p: fr.gaussian_latent(m, log_std=s, prior=(p[0], {"log_std": p[1]})),
             gauss()),
        *(Call(f"num_samples {count}", two, latent(num_samples=count), gauss(),
               like=torch.empty(count, rows, cols)) for count in (1, 4)),
        Call("return_eps", two,
             lambda m, s: fr.gaussian_latent(m, log_std=s, return_eps=True)[:2], gauss()),
        Call("eps given", two, latent(eps=given), lambda _, m, s: gauss()(given, m, s), None),
        Call("z.sum()", two, latent(), gauss(), gradient="sum"),
        Call("expanded gradient", two, latent(), gauss(), gradient="expanded"),
        Call("transposed gradient", two, latent(), gauss(), gradient="transposed"),
        Call("no gradient of the KL", two, latent(), gauss(), gradient="first"),
        Call("no gradient of z", two, latent(), gauss(), gradient="last"),
        Call("only mu requires grad", (mu,), lambda m: latent()(m, log_std_alone),
             lambda eps, m: gauss()(eps, m, log_std_alone)),
        Call("only log_std requires grad", (log_std,), lambda s: latent()(mu_alone, s),
             lambda eps, s: gauss()(eps, mu_alone, s)),
        Call("inference mode", two, latent(), gauss(), gradient="none"),
        Call("rsample", two, rsample, sample_alone),
        Call("rsample, z.sum()", two, rsample, sample_alone, gradient="sum"),
        *(Call(f"kl, {name}{words}", inputs, kl_of(name), kl_alone(reduce), None)
          for words, inputs in (("", two), (", prior of tensors", (*two, *prior)))
          for name, reduce in REDUCTIONS.items()),
        Call("tanh_normal, log_std of one row", action,
             lambda m, s: fr.tanh_normal_rsample(m, log_std=s), tanh_normal),
        *(Call(f"{base}, scale a number", (mu,), located(base, 0.5),
               lambda eps, m: (m + 0.5 * eps,), base) for base in BASES),
        *(Call(f"{base}, scale of one row", (mu, one_row), located(base),
               lambda eps, m, s: (m + s * eps,), base) for base in BASES),
        *map(op, ("gaussian_rsample_log_prob", "sample_weight", "relaxed_bernoulli")),
        *(op(f"{name}_rsample") for name, row in FAMILIES.items() if row.law),
        *(Call(f"gumbel {'hard' if hard else 'soft'}{words}", (inputs,), categories(dim, hard),
               softmax(dim, hard), "gumbel")
          for words, inputs, dim in (("", logits, -1), (", dim 1", logits1, 1))
          for hard in (False, True)),
        Call("gumbel, y.sum()", (logits,), categories(), softmax(-1), "gumbel", "sum"),
        *calls_from_elsewhere(two, one_row, logits, given),
        *density_calls(rows, cols),
        *number_calls(two, action, one_row, logits),
        *calls_of_weights(
            (normal(rows, cols, scale=0.1), normal(rows, cols, scale=0.1, shift=-3.0)),
            (row, one_row), torch.tensor(0.5, requires_grad=True), given,
        ),
        *distribution_calls(*two, normal(rows, cols, scale=0.1, shift=1.0), one_row),
    ]  # fmt: skip


def calls_of_weights(
    weights: tuple[Tensor, Tensor], prior: tuple[Tensor, Tensor], share: Tensor, given: Tensor
) -> list[Call]:
    """Weights of Bayesian networks, to other priors than one of two numbers.

    Args:
        weights: means, and scales before softplus.
        prior: means and scales of one row.
        share: of a mixture, 0-d.
        given: noise of the means' shape.
    """
    return [
        Call("sample_weight, eps given", weights,
             lambda m, s: fr.sample_weight(m, s, prior_std=PRIOR_STD, eps=given),
             lambda _, m, s: weight(given, m, s), None),
        Call("sample_weight, prior of tensors", (*weights, *prior), fr.sample_weight, to_tensors),
        *(Call(f"sample_weight, mixture with share {part}", weights,
               lambda m, s, mixture=(part, 1.0, 0.1): fr.sample_weight(m, s, mixture=mixture),
               to_mixture(part, 1.0, 0.1)) for part in (0.5, 1.0)),
        Call("sample_weight, mixture around tensors", (*weights, prior[0]),
             lambda m, s, p: fr.sample_weight(m, s, p, mixture=(0.5, 1.0, 0.1)),
             to_mixture(0.5, 1.0, 0.1)),
        Call("sample_weight, mixture of tensors", (*weights, share),
             lambda m, s, p: fr.sample_weight(m, s, mixture=(p, 1.0, 0.1)),
             lambda eps, m, s, p: to_mixture(p, 1.0, 0.1)(eps, m, s)),
    ]  # fmt: skip


def calls_from_elsewhere(
    two: tuple[Tensor, Tensor], scale: Tensor, logits: Tensor, given: Tensor
) -> list[Call]:
    """Samples in other shapes, and noise that no key of the call's own makes.

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


def gradients(kind: str, outputs: Outputs) -> list[Tensor | None]:
    """What arrives at the outputs; the same numbers for the same shapes."""
    generator = torch.Generator().manual_seed(21)

    def arriving(index: int, output: Tensor) -> Tensor | None:
        shape = output.shape
        if (kind == "first" and index > 0) or (kind == "last" and index == 0):
            return None
        if kind == "sum" or output.ndim == 0:
            return torch.ones(()).expand(shape)
        if kind == "expanded":
            return torch.randn(shape[-1], generator=generator).expand(shape)
        made = torch.randn(shape[::-1] if kind == "transposed" else shape, generator=generator)
        if kind == "transposed":
            return made.permute(*reversed(range(made.ndim)))
        return torch.empty_like(output).copy_(made) if kind == "like" else made

    return [arriving(index, output) for index, output in enumerate(outputs)]
