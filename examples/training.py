"""How the examples train: a step of Adam, an epoch of them, and variants side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from report import bars
from torch import Tensor, nn

BATCH = 128
Run = TypeVar("Run")


class Descent:
    """One step of Adam at each call, on the loss of what it is called with.

    The rate falls to 0 by a cosine, in as many calls of `slower` as were announced.
    """

    def __init__(
        self, model: nn.Module, loss: Callable[..., Tensor], rate: float, slower: int = 1
    ) -> None:
        self.loss = loss
        self.optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        self.slower = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, slower).step

    def __call__(self, *given: object) -> Tensor:
        loss = self.loss(*given)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def epoch(
    step: Descent, images: Tensor, generator: torch.Generator, *settings: object
) -> list[float]:
    """The loss of a step on each batch of the images, shuffled by the generator."""
    order = torch.randperm(len(images), generator=generator)
    losses = [step(images[batch], *settings).item() for batch in order.split(BATCH)]
    step.slower()
    return losses


def side_by_side(
    names: Iterable[str],
    seeds: int,
    epochs: int,
    train: Callable[[str, int, Callable[[], object]], Run],
) -> dict[str, list[Run]]:
    """`train(name, seed, epoch_done)` for each variant and seed, with a bar for each variant."""
    runs: dict[str, list[Run]] = {name: [] for name in names}
    with bars() as shown:
        tasks = {name: shown.add_task(name, total=seeds * epochs) for name in runs}
        for seed in range(seeds):
            for name, of in runs.items():
                of.append(train(name, seed, lambda task=tasks[name]: shown.advance(task)))
    return runs
