"""Small calls: the processor time of ours over that of the same formula in eager PyTorch.

Forward and backward at 128x20 and 256x6, one thread, in interleaved rounds. What a user
calls is seldom the fastest case: a scale of one row, a prior, `z.sum()`. A row here is one such
call. Its formula gets the noise as its first argument, and the gate of `check` holds for it too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fused_reparam as fr
from bench import check
from bench.check import Outputs
from bench.noise import DRAWS, degrees
from bench.ops import PRIOR_STD, log_prob, tanh_normal, weight
from bench.results import CALLS
from bench.timing import Contestant, CpuClock, Effort, Spread, interleave

# What a call may take of eager's time: the plain latent, every other one, and a compiled one of
# the compiled formula's time.
BASIC, MOST, COMPILED = 0.33, 0.6, 1.0
SHAPES = ((128, 20), (256, 6))
BASES = ("normal", "laplace", "logistic", "gumbel", "uniform", "cauchy", "student_t")


@dataclass(frozen=True)
class Call:
    """`ours(*inputs)`, and `formula(noise, *inputs)`, which must return as many tensors."""

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

    @property
    def noise(self) -> Tensor:
        """A tensor of the noise's shape and memory order."""
        return (self.inputs[0] if self.like is None else self.like).detach()


def divergence(mean: Tensor, log_std: Tensor, std: Tensor, prior: Sequence[Tensor]) -> Tensor:
    """The KL of each element, to N(0, 1) or to a prior's mean and log standard deviation."""
    if not prior:
        return 0.5 * (mean * mean + std * std - 1) - log_std
    other, log_other = prior
    distance = (mean - other) * torch.exp(-log_other)
    log_ratio = log_std - log_other
    return 0.5 * (distance * distance + torch.exp(2 * log_ratio) - 1) - log_ratio


def batchmean(kl: Tensor) -> Tensor:
    return kl.sum() / len(kl)


Reduce = Callable[[Tensor], Tensor]
REDUCTIONS: dict[str, Reduce] = {
    "batchmean": batchmean,
    "sum": lambda kl: kl.sum(),
    "mean": lambda kl: kl.mean(),
    "sample": lambda kl: kl.sum(1),
    "none": lambda kl: kl,
}


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


def moments(dim: int) -> Callable[..., Outputs]:
    return lambda both: fr.gaussian_latent_from_moments(both, dim, scale="log_std")


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
    weights = normal(rows, cols, scale=0.1), normal(rows, cols, scale=0.1, shift=-3.0)
    logits, logits1 = normal(rows, cols), normal(16, cols, rows // 16)
    inner = slice(3, cols + 3)
    half, given = torch.tensor(math.log(0.5)), torch.randn(rows, cols, generator=generator)
    numbers = torch.tensor(0.5), torch.tensor(math.log(2.0))
    mu_alone, log_std_alone = mu.detach(), log_std.detach()
    from bench.source_calls import source_calls  # which takes a good deal from here

    return [
        Call("two tensors", two, latent(), gauss(), most=BASIC),
        Call("log_std of one row", (mu, row), latent(), gauss()),
        Call("std a number", (mu,), lambda m: fr.gaussian_latent(m, std=0.5),
             lambda eps, m: gauss()(eps, m, half)),
        Call("moments, dim 1", (halves,), moments(1),
             lambda eps, m: gauss()(eps, *m.chunk(2, 1)), like=mu),
        Call("moments, last dim", (last,), moments(-1),
             lambda eps, m: gauss()(eps, *m.chunk(2, -1)), like=torch.empty(8, rows // 8, cols)),
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
        *(Call(f"kl, {name}", two, kl_of(name), kl_alone(reduce), None)
          for name, reduce in REDUCTIONS.items()),
        *(Call(f"kl, {name}, prior of tensors", (*two, *prior), kl_of(name), kl_alone(reduce), None)
          for name, reduce in REDUCTIONS.items()),
        Call("rsample_log_prob", two,
             lambda m, s: fr.gaussian_rsample_log_prob(m, logvar=s), log_prob),
        Call("tanh_normal, log_std of one row", action,
             lambda m, s: fr.tanh_normal_rsample(m, log_std=s), tanh_normal),
        Call("sample_weight", weights,
             lambda m, s: fr.sample_weight(m, s, prior_std=PRIOR_STD), weight),
        *(Call(f"{base}, scale a number", (mu,), located(base, 0.5),
               lambda eps, m: (m + 0.5 * eps,), base) for base in BASES),
        *(Call(f"{base}, scale of one row", (mu, one_row), located(base),
               lambda eps, m, s: (m + s * eps,), base) for base in BASES),
        Call("relaxed_bernoulli", (logits,), lambda x: (fr.relaxed_bernoulli(x, 0.7),),
             lambda noise, x: (torch.sigmoid((x + noise) / 0.7),), "logistic"),
        Call("gumbel soft", (logits,), categories(), softmax(-1), "gumbel"),
        Call("gumbel hard", (logits,), categories(hard=True), softmax(-1, True), "gumbel"),
        Call("gumbel soft, dim 1", (logits1,), categories(1), softmax(1), "gumbel"),
        Call("gumbel hard, dim 1", (logits1,), categories(1, True), softmax(1, True), "gumbel"),
        Call("gumbel, y.sum()", (logits,), categories(), softmax(-1), "gumbel", "sum"),
        *source_calls(two, one_row, logits, given),
    ]  # fmt: skip


# --- what is done with a call ---------------------------------------------------------------------


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


def eager(call: Call) -> Callable[..., Outputs]:
    """The formula with noise of its own, as PyTorch's users write it."""
    formula, noise = call.formula, call.noise
    if call.base is None:
        return lambda *inputs: formula(None, *inputs)
    draw = DRAWS[call.base]
    return lambda *inputs: formula(draw(noise), *inputs)


def prepared(call: Call, compute: Callable[..., Outputs]) -> Callable[[object], object]:
    """What is timed: forward and backward, or forward in inference mode."""
    inputs, grad = call.inputs, torch.autograd.grad

    def forward(_: object) -> None:
        with torch.inference_mode():
            compute(*inputs)

    if call.gradient == "none":
        return forward
    arriving = gradients(call.gradient, compute(*inputs))
    incoming = [one for one in arriving if one is not None]
    if len(incoming) == len(arriving):
        return lambda _: grad(compute(*inputs), inputs, incoming)
    index = next(i for i, one in enumerate(arriving) if one is not None)
    return lambda _: grad(compute(*inputs)[index], inputs, incoming, allow_unused=True)


def problem(call: Call, ours: Callable[..., Outputs]) -> str | None:
    """What is wrong with a call's outputs and gradients; None where they are the formula's."""
    incoming = None if call.gradient == "none" else partial(gradients, call.gradient)
    return check.problem(ours, call.formula, call.inputs, call.base, call.noise, incoming)


class ThreadClock(CpuClock):
    """Processor time of this thread, which others on the machine add little to."""

    warms_up = False

    def seconds(self, call: Callable[[Any], object], items: Sequence[Any]) -> float:
        start = time.thread_time_ns()
        for item in items:
            call(item)
        return (time.thread_time_ns() - start) / 1e9


def measured(call: Call, compiled: bool, rounds: int) -> dict[str, Any]:
    """A row: medians of both times, and the ratio of each round with its quartiles."""
    ours, theirs = call.ours, eager(call)
    row: dict[str, Any] = {"most": COMPILED if compiled else call.most}
    if compiled:
        torch.compiler.reset()
        ours, theirs = (torch.compile(one, dynamic=False) for one in (ours, theirs))
    try:
        wrong = problem(call, ours)
        if wrong:
            return row | {"status": "failed", "reason": wrong}
        pair = [Contestant("ours", prepared(call, ours)),
                Contestant("formula", prepared(call, theirs))]  # fmt: skip
    except Exception as error:
        return row | {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:300]}
    effort = Effort(sample_seconds=0.001, seconds=0.0, least_rounds=rounds, most_rounds=rounds)
    spreads = interleave(ThreadClock(), pair, effort)
    both = zip(*(one.samples for one in pair), strict=True)
    ratio = Spread.of([own / other for own, other in both])
    return row | {
        "status": "ok",
        "ratio": ratio.median,
        "low_ratio": ratio.low,
        "high_ratio": ratio.high,
        "median_s": spreads["ours"].median,
        "low_s": spreads["ours"].low,
        "high_s": spreads["ours"].high,
        "formula_s": spreads["formula"].median,
    }


def rows(
    compiled: bool, quick: bool, say: Callable[[str], object] = lambda _: None
) -> Iterator[dict[str, Any]]:
    """A row for each call, on one thread whatever this process has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    variant = fr.current_backend("cpu") + (", compiled" if compiled else "")
    try:
        for shape in SHAPES:
            every, size = calls(*shape), "x".join(map(str, shape))
            say(f"{CALLS} {size}: {len(every)} for {variant}")
            for call in every:
                yield {
                    "op": CALLS,
                    "size": size,
                    "shape": size,
                    "elements": math.prod(shape),
                    "dtype": "float32",
                    "work": call.name,
                    "variant": variant,
                    "ours": True,
                    "threads": 1,
                } | measured(call, compiled, rounds=5 if quick else 21)
    finally:
        torch.set_num_threads(threads)
