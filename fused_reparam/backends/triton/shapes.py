"""Tile shapes: how many 128-bit vectors a program takes, and with how many warps."""

from __future__ import annotations

import os
from typing import NamedTuple


class Shape(NamedTuple):
    """A tile: `groups` vectors of 128 bits, made by `warps` warps."""

    groups: int
    warps: int


SMALL = Shape(256, 4)
SINGLE = (SMALL, Shape(1024, 8), Shape(4096, 16))  # one program for everything: no second launch
SEGMENT = (SMALL, Shape(1024, 8))
LARGE = {2: Shape(256, 4), 4: Shape(512, 4), 8: Shape(512, 4)}  # by elements in a vector
MANY_GROUPS = 1 << 18  # from here on there are programs enough to fill a GPU with LARGE tiles


def large_shape(vector: int) -> Shape:
    """The shape for big tensors; FUSED_REPARAM_TRITON_SHAPE="groups,warps" tries another."""
    override = os.environ.get("FUSED_REPARAM_TRITON_SHAPE")
    if override:
        groups, warps = map(int, override.split(","))
        return Shape(groups, warps)
    return LARGE[vector]


def flat_shape(n: int, vector: int, single: bool) -> Shape:
    """`single`: a sum over everything is wanted, which one program can finish by itself."""
    groups = -(-n // vector)
    if single:
        for shape in SINGLE:
            if groups <= shape.groups:
                return shape
    return SMALL if groups < MANY_GROUPS else large_shape(vector)
