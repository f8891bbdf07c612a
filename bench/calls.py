"""Small calls: the processor time of ours over that of the same formula in eager PyTorch.

Forward and backward at 128x20 and 256x6, one thread, in interleaved rounds. What a user
calls is seldom the fastest case: a scale of one row, a prior, `z.sum()`. A row here is one such
call. Its formula gets the noise as its first argument, so that a call is timed only after its
outputs and gradients were found to be the formula's with the noise of the key that it drew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fused_reparam as fr
from bench.draws import DF, DRAWS, of_key
from bench.ops import PRIOR_STD, log_prob, tanh_normal, weight
from bench.results import CALLS
from bench.timing import Spread

# What a call may take of eager's time: the plain latent, every other one, and a compiled one of
# the compiled formula's time.
PLAIN, MOST, COMPILED = 0.33, 0.6, 1.0
SHAPES = ((128, 20), (256, 6))
# Relative errors allowed in float32 beside the formula in float64; noise itself may be off by 4e-6.
TOLERANCE = 4e-5
BASES = ("normal", "laplace", "logistic", "gumbel", "uniform", "cauchy", "student_t")
Outputs = Sequence[Tensor]


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


def against_prior(mean: Tensor, log_std: Tensor, other: Tensor, log_other: Tensor) -> Outputs:
    return fr.gaussian_latent(mean, log_std=log_std, prior=(other, {"log_std": log_other}))


def moments(dim: int) -> Callable[..., Outputs]:
    return lambda both: fr.gaussian_latent_from_moments(both, dim, scale="log_std")


def located(base: str, number: float = 0.0) -> Callable[..., Outputs]:
    """With a scale that is a number, where one is given."""
    df = DF if base == "student_t" else None
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
    return [
        Call("two tensors", two, latent(), gauss(), most=PLAIN),
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
        Call("prior of tensors", (*two, *prior), against_prior, gauss()),
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
    ]  # fmt: skip


# --- what is done with a call ---------------------------------------------------------------------


def gradients(outputs: Outputs, kind: str) -> list[Tensor]:
    """What arrives at the outputs; the same numbers for the same shapes."""
    generator = torch.Generator().manual_seed(21)

    def arriving(output: Tensor) -> Tensor:
        shape = output.shape
        if kind == "sum" or output.ndim == 0:
            return torch.ones(()).expand(shape)
        if kind == "expanded":
            return torch.randn(shape[-1], generator=generator).expand(shape)
        made = torch.randn(shape[::-1] if kind == "transposed" else shape, generator=generator)
        if kind == "transposed":
            return made.permute(*reversed(range(made.ndim)))
        return torch.empty_like(output).copy_(made) if kind == "like" else made

    return [arriving(output) for output in outputs]


def asked(outputs: Outputs, kind: str) -> Outputs:
    """The outputs that gradients arrive at."""
    return {"first": outputs[:1], "last": outputs[1:]}.get(kind, outputs)


def eager(call: Call) -> Callable[..., Outputs]:
    """The formula with noise of its own, as PyTorch's users write it."""
    like = (call.inputs[0] if call.like is None else call.like).detach()
    if call.base is None:
        return lambda *inputs: call.formula(None, *inputs)
    draw = DRAWS[call.base]
    return lambda *inputs: call.formula(draw(like), *inputs)


def prepared(call: Call, compute: Callable[..., Outputs]) -> Callable[[], object]:
    """What is timed: forward and backward, or forward in inference mode."""
    inputs = call.inputs
    if call.gradient == "none":

        def forward() -> None:
            with torch.inference_mode():
                compute(*inputs)

        return forward
    incoming = gradients(asked(compute(*inputs), call.gradient), call.gradient)
    if call.gradient in ("first", "last"):
        return lambda: torch.autograd.grad(
            asked(compute(*inputs), call.gradient), inputs, incoming, allow_unused=True
        )
    return lambda: torch.autograd.grad(compute(*inputs), inputs, incoming)


def problem(call: Call, ours: Callable[..., Outputs]) -> str | None:
    """What is wrong with a call's outputs and gradients; None where they are the formula's."""
    torch.manual_seed(22)
    key = fr.noise.draw_key("cpu")
    torch.manual_seed(22)
    got = ours(*call.inputs)
    like = call.inputs[0] if call.like is None else call.like
    inputs = [tensor.detach().double().requires_grad_() for tensor in call.inputs]
    noise = None
    if call.base is not None:
        memory = torch.empty_like(got[0]) if tuple(like.shape) == tuple(got[0].shape) else like
        noise = of_key(call.base, key, 0, memory.numel(), memory.dtype, memory.device)
        noise = noise.as_strided(memory.shape, memory.stride())
    want = call.formula(noise, *inputs)
    pairs = list(zip([f"output {i}" for i in range(len(want))], got, want, strict=True))
    if call.gradient != "none":
        incoming = gradients(asked(got, call.gradient), call.gradient)
        both = [
            torch.autograd.grad(asked(outputs, call.gradient), leaves, grads, allow_unused=True)
            for outputs, leaves, grads in (
                (got, call.inputs, incoming),
                (want, inputs, [grad.double() for grad in incoming]),
            )
        ]
        pairs += zip([f"gradient {i}" for i in range(len(inputs))], *both, strict=True)
    for name, one, other in pairs:
        if (one is None) != (other is None):
            return f"{name}: got {one}, expected {other}"
        if one is None:
            continue
        if one.shape != other.shape:
            return f"{name}: shape {tuple(one.shape)}, expected {tuple(other.shape)}"
        # Sums are of terms that may cancel: an error counts beside the largest number.
        off = ((one.double() - other).abs() / other.abs().clamp_min(1.0)).max().item()
        if not off <= TOLERANCE:
            return f"{name}: off by {off:.2g}, allowed {TOLERANCE:.2g}"
    return None


def seconds(run: Callable[[], object], count: int) -> float:
    start = time.thread_time_ns()
    for _ in range(count):
        run()
    return (time.thread_time_ns() - start) / count / 1e9


def measured(call: Call, compiled: bool, rounds: int, count: int) -> dict[str, Any]:
    """A row: medians of both times, and the ratio of each round with its quartiles."""
    ours, theirs = call.ours, eager(call)
    most = call.most
    if compiled:
        torch.compiler.reset()
        ours, theirs = (torch.compile(one, dynamic=False) for one in (ours, theirs))
        most = COMPILED
    row: dict[str, Any] = {"most": most}
    try:
        wrong = problem(call, ours)
        if wrong:
            return row | {"status": "failed", "reason": wrong}
        pair = prepared(call, ours), prepared(call, theirs)
    except Exception as error:
        return row | {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:300]}
    for run in pair:
        seconds(run, count)
    # Which of them comes first changes from round to round.
    samples = []
    for turn in range(rounds):
        order = pair if turn % 2 else pair[::-1]
        found = [seconds(run, count) for run in order]
        samples.append(found if turn % 2 else found[::-1])
    ratio = Spread.of([own / other for own, other in samples])
    ours_s, formula_s = (Spread.of(times) for times in zip(*samples, strict=True))
    return row | {
        "status": "ok",
        "ratio": ratio.median,
        "low_ratio": ratio.low,
        "high_ratio": ratio.high,
        "median_s": ours_s.median,
        "low_s": ours_s.low,
        "high_s": ours_s.high,
        "formula_s": formula_s.median,
    }


def rows(
    compiled: bool, quick: bool, tick: Callable[[str, float], object] = lambda *_: None
) -> Iterator[dict[str, Any]]:
    """A row for each call, on one thread whatever this process has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    variant = fr.current_backend("cpu") + (", compiled" if compiled else "")
    rounds, count = (5, 20) if quick else (21, 40)
    try:
        every = [(shape, call) for shape in SHAPES for call in calls(*shape)]
        for index, (shape, call) in enumerate(every):
            size = "x".join(map(str, shape))
            tick(f"{size} {call.name}", index / len(every))
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
            } | measured(call, compiled, rounds, count)
    finally:
        torch.set_num_threads(threads)


def tables(found: Sequence[dict[str, Any]]) -> str:
    """For each variant and size its calls, the worst first, in 80 columns; `!` flags the slow."""
    kinds = dict.fromkeys((row["variant"], row["size"]) for row in found)
    return "\n\n".join(
        _table([row for row in found if (row["variant"], row["size"]) == kind]) for kind in kinds
    )


def _table(found: Sequence[dict[str, Any]]) -> str:
    head = (
        f"{found[0]['size']}: ours ({found[0]['variant']}) and the formula in PyTorch, one thread"
    )
    lines = [head, f"  {'call':31s} {'ours':>9s} {'formula':>9s} {'ours / formula':>17s}  at most"]
    timed = [row for row in found if row["status"] == "ok"]
    for row in sorted(timed, key=lambda row: -row["ratio"]):
        flag = "!" if row["ratio"] > row["most"] else " "
        spread = f"{row['ratio']:.2f} ({row['low_ratio']:.2f}-{row['high_ratio']:.2f})"
        ours, theirs = (f"{1e6 * row[name]:.1f} us" for name in ("median_s", "formula_s"))
        times = f"{ours:>9s} {theirs:>9s} {spread:>17s}"
        lines.append(f"{flag} {row['work']:31s} {times}  {row['most']:g}")
    failed = [row for row in found if row["status"] != "ok"]
    lines += [f"NOT TIMED: {row['work']}: {row['reason']}" for row in failed]
    kept = sum(row["ratio"] <= row["most"] for row in timed)
    return "\n".join([*lines, f"{kept} of {len(found)} calls within their bound"])
