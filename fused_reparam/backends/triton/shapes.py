"""Tile shapes: how many 128-bit vectors a program takes, and with how many warps.

Large tensors get the shape with the fewest instructions per element that still leaves enough
programs on a multiprocessor; `python -m tests.helpers.aot --sweep` lists the candidates and how
they were judged. They come from machine code, not from measurements.
"""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

import torch


class Shape(NamedTuple):
    """A tile: `groups` vectors of 128 bits, made by `warps` warps."""

    groups: int
    warps: int


SMALL = Shape(256, 4)
SINGLE = (SMALL, Shape(1024, 8), Shape(4096, 16))  # one program for everything: no second launch
SEGMENT = (SMALL, Shape(1024, 8))
MANY_GROUPS = 1 << 20  # two rounds of programs with a large shape on 132 multiprocessors, 8 on each

# By elements in a vector (2: float64, 4: float32, 8: 16-bit types): four vectors for a thread, and
# for float64, whose registers are twice as many, two.
DEFAULT = {2: Shape(256, 4), 4: Shape(512, 4), 8: Shape(512, 4)}
# For architectures where they differ.
OVERRIDES = {"gfx942": dict.fromkeys(DEFAULT, Shape(1024, 4))}  # 64 threads in a warp
_VARIABLE = "FUSED_REPARAM_TRITON_SHAPE"


@functools.cache
def architecture(device: torch.device | None) -> str:
    """As compilers name it: sm_90, gfx942; empty for no GPU."""
    if device is None or device.type != "cuda":
        return ""
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def large_shape(vector: int, arch: str) -> Shape:
    """The shape for big tensors; FUSED_REPARAM_TRITON_SHAPE="groups,warps" tries another."""
    asked = os.environ.get(_VARIABLE)
    return _parse(asked) if asked else OVERRIDES.get(arch, DEFAULT)[vector]


def sparse_shape(vector: int, arch: str) -> Shape:
    """For kernels that need many registers: a thread has eight elements (float64: four)."""
    return Shape(256, 8) if vector == 8 and not arch.startswith("gfx") else SMALL


def _parse(asked: str) -> Shape:
    """Triton takes powers of two; a warp has 32 or 64 threads, a program at most 1024."""
    numbers = asked.split(",")
    if len(numbers) == 2 and all(n.strip().isdecimal() for n in numbers):
        shape = Shape(*map(int, numbers))
        powers = all(n > 0 and n & (n - 1) == 0 for n in shape)
        if powers and shape.warps <= 32 and shape.groups >= 32 * shape.warps:
            return shape
    raise ValueError(
        f'the environment variable {_VARIABLE} must be "groups,warps", two powers of two with at '
        f"most 32 warps and at least 32 groups for each warp (such as 512,4), got {asked!r}"
    )


def flat_shape(n: int, vector: int, single: bool, device: torch.device | None = None) -> Shape:
    """`single`: a sum over everything is wanted, which one program can finish by itself."""
    groups = -(-n // vector)
    if single:
        for shape in SINGLE:
            if groups <= shape.groups:
                return shape
    return SMALL if groups < MANY_GROUPS else large_shape(vector, architecture(device))
