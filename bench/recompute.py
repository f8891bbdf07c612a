"""Bayesian layers that draw their weights again, beside the same layers that keep them.

A step is a forward and a backward pass with the KL. Time is that of one step over the other's, in
interleaved rounds; memory is counted in tensors of the weights' size, mu and rho among them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import fused_reparam as fr
from fused_reparam.nn.bayes import linear

Clock = Callable[[], float]
CLOCKS: tuple[Clock, Clock] = time.perf_counter, time.process_time


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench recompute",
        description="BayesianLinear(recompute=True) over the same layer without, as a table.",
    )
    parser.add_argument("--widths", type=int, nargs="+", default=(512, 1000, 2000, 4096))
    parser.add_argument("--batches", type=int, nargs="+", default=(32, 128, 256))
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args(words)
    # Also where the layer would keep its weights by itself.
    linear.LEAST_RECOMPUTED = 0
    print("| width | batch | threads | wall time | CPU time | tensors | kept |")
    print("|---|---|---|---|---|---|---|")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for width in options.widths:
            for batch in options.batches:
                row = measured(width, batch, options.rounds)
                print(f"| {width} | {batch} | {threads} | {row} |", flush=True)
    return 0


def measured(width: int, batch: int, rounds: int) -> str:
    layer, x = fr.BayesianLinear(width, width), torch.randn(batch, width, requires_grad=True)
    times: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    tensors = {}
    for again in times:
        layer.recompute = again
        step(layer, x)
        tensors[again] = 2 + peak(lambda: step(layer, x)) / layer.weight_mu.nbytes
    for at in range(rounds):
        for again in (True, False) if at % 2 else (False, True):
            layer.recompute = again
            begin = [clock() for clock in CLOCKS]
            step(layer, x)
            wall, processor = (clock() - b for clock, b in zip(CLOCKS, begin, strict=True))
            times[again].append((wall, processor))
    ratios = [
        statistics.median(a[i] / b[i] for a, b in zip(times[True], times[False], strict=True))
        for i in range(len(CLOCKS))
    ]
    memory = (f"{tensors[again]:.2f}" for again in (True, False))
    return " | ".join((*(f"{ratio:.2f}" for ratio in ratios), *memory))


def step(layer: fr.BayesianLinear, x: Tensor) -> None:
    loss = layer(x).square().mean() + layer.kl()
    torch.autograd.grad(loss, [x, *layer.parameters()])


def peak(call: Callable[[], None]) -> int:
    """Bytes that a call adds at most to those that are there."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    events = found.profiler.kineto_results.events()  # type: ignore[union-attr]
    most = now = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most
