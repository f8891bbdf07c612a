"""The options of noise that every function which samples takes beside ``key`` and ``generator``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

SampleShape = int | Sequence[int]  # a torch.Size is such a sequence
Generators = torch.Generator | Sequence[torch.Generator]


class NoiseOptions(TypedDict, total=False):
    """How many samples, and of which noise; see ``gaussian_latent``."""

    sample_shape: SampleShape | None
    rng: str
    eps: Tensor | None


DEFAULTS: dict[str, Any] = {"sample_shape": None, "rng": "philox", "eps": None}


def misnamed(noise: NoiseOptions) -> bool:
    """Whether a function was given a keyword that is none of these."""
    return not noise.keys() <= DEFAULTS.keys()
