"""Stand-ins for generators of CUDA, in a process that may have no GPU."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from fused_reparam import noise
from tests.helpers.triton_truth import signed

TWO64 = 1 << 64
CUDA = torch.device("cuda", 0)


class OldGenerator:
    """As much of a CUDA generator before PyTorch 2.14 as drawing a key needs."""

    device = CUDA

    def __init__(self, seed: int, offset: int = 0):
        self.seed, self.offset = seed, offset

    def initial_seed(self) -> int:
        return self.seed

    def get_offset(self) -> int:
        return self.offset

    def graphsafe_get_state(self):
        """Shares the state; the generator's own set_offset, which resets RNNs, is not here."""

        def set_offset(offset: int) -> None:
            assert offset % 4 == 0
            self.offset = offset % TWO64

        return SimpleNamespace(set_offset=set_offset)


class NewGenerator:
    """The same from PyTorch 2.14 on. `graph`: where its state lies while a graph is captured."""

    device = CUDA

    def __init__(self, seed: int, offset: int = 0):
        self.seed, self.offset, self.reserved = seed, offset, 0
        self.graph: tuple[torch.Tensor, torch.Tensor] | None = None

    def philox_state(self, increment: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.graph is not None:
            at, self.reserved = self.reserved, self.reserved + increment
            return *self.graph, torch.tensor([at])
        at, self.offset = self.offset, (self.offset + increment) % TWO64
        seed, offset = (torch.tensor([signed(v)]) for v in (self.seed, at))
        return seed, offset, torch.tensor([0])


def host_key(seed: int, offset: int) -> torch.Tensor:
    return noise.key(noise.derived_seed(seed, offset))


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
