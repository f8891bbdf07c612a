"""The memory that a launch may touch: the tensors that it was given, and shared memory."""

import ctypes

import numpy as np

from .types import I64, U8, UNSIGNED

_MOST_MASKED = 1 << 26  # bytes; of larger tensors the gaps between elements are not checked


class Region:
    """Host memory [low, high).

    `valid`: which of its bytes may be touched, None for all; `keep`: what must live as long.
    """

    def __init__(self, low, high, valid=None, keep=None, constant=False):
        self.low, self.high, self.valid, self.keep = low, high, valid, keep
        self.constant = constant
        self.base = low & ~15
        size = (high - self.base + 15) // 16 * 16
        raw = (ctypes.c_uint8 * size).from_address(self.base)
        flat = np.frombuffer(raw, U8)
        self.views = {n: flat.view(UNSIGNED[n]) for n in (1, 2, 4, 8)}
        self.writer = None  # of each byte, the thread that wrote it in this launch

    def writers(self):
        if self.writer is None:
            self.writer = np.full(self.high - self.base, -1, I64)
        return self.writer


def element_bytes(tensor):
    """(low, high, mask of bytes that are elements, or None for all) of a torch tensor."""
    size = tensor.element_size()
    low = tensor.data_ptr()
    if tensor.numel() == 0:
        return low, low, None
    sizes, strides = tensor.shape, tensor.stride()
    extent = (sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) + 1) * size
    distinct = 1
    for n, s in zip(sizes, strides, strict=True):
        distinct *= 1 if s == 0 else n
    if distinct * size == extent or extent > _MOST_MASKED:
        return low, low + extent, None
    at = np.zeros(1, I64)
    for n, s in zip(sizes, strides, strict=True):
        if n > 1 and s:
            at = (at[:, None] + np.arange(n) * s).reshape(-1)
    mask = np.zeros(extent, bool)
    mask.reshape(-1, size)[at] = True
    return low, low + extent, mask


def memory_of(tensors):
    """Regions of torch tensors on the CPU; those that overlap become one."""
    merged: list[list] = []  # low, high, mask, tensors
    for tensor in tensors:
        low, high, mask = element_bytes(tensor)
        if low < high:
            merged.append([low, high, mask, [tensor]])
    merged.sort(key=lambda one: one[:2])
    apart: list[list] = []
    for one in merged:
        if apart and one[0] < apart[-1][1]:
            apart[-1] = _joined(apart[-1], one)
        else:
            apart.append(one)
    return [Region(*one) for one in apart]


def _joined(first, second):
    """Two regions that overlap, the first beginning first."""
    low, high = first[0], max(first[1], second[1])
    mask = None
    if high - low <= _MOST_MASKED and not (first[2] is None and first[1] == high):
        mask = np.zeros(high - low, bool)
        for begin, end, valid, _ in (first, second):
            mask[begin - low : end - low] |= True if valid is None else valid
    return [low, high, None if mask is None or mask.all() else mask, first[3] + second[3]]


class Shared:
    """Shared memory of programs that are executed together.

    It begins as noise, and knows of each byte who wrote it and who read it, after how many
    barriers.
    """

    def __init__(self, programs, size):
        self.size = size
        self.stride = max(16, -(-size // 16) * 16)
        flat = np.full(programs * self.stride, 0xA5, U8)
        self.views = {n: flat.view(UNSIGNED[n]) for n in (1, 2, 4, 8)}
        count = flat.size
        self.wrote = np.full(count, -1, I64)  # lane
        self.wrote_at = np.full(count, -1, I64)  # barriers passed
        self.wrote_warp = np.full(count, -1, I64)
        self.read = np.full(count, -1, I64)  # lane, or -2 for several
        self.read_at = np.full(count, -1, I64)
