"""Running a kernel: the lanes of many programs at a time, and the order in which they proceed."""

import numpy as np

from .accesses import GlobalAccesses, SharedAccesses
from .memory import Shared, memory_of
from .module import Kernel
from .types import I64, U32, WARP, Fault
from .warps import Warps

_LANES_AT_A_TIME = 8192


class Execution(GlobalAccesses, SharedAccesses, Warps):
    """Some of a launch's programs, executed together.

    Code that `emitter` generates calls its methods. An argument `a` says which lanes are active:
    their indices, or None for all. Registers that live beyond a basic block are arrays over all
    lanes.
    """

    def __init__(self, kernel, first, programs, block, shared, parameters, regions, statistics):
        self.kernel, self.block = kernel, block
        self.count = programs * block
        self.lane = np.arange(self.count, dtype=I64)
        self.tid = (self.lane % block).astype(U32)
        self.program = self.lane // block
        self.ctaid = (self.program + first).astype(U32)
        self.identity = self.lane + first * block  # of the thread in the launch
        self.parameters, self.regions = parameters, regions
        self.statistics = statistics
        self.memory = Shared(programs, shared)
        # How many barriers each program, and how many `bar.warp.sync` each warp, has passed.
        self.epoch = np.zeros(programs, I64)
        self.warp_epoch = np.zeros(self.count // WARP, I64)
        self.live = np.full(programs, block, I64)  # threads that have not returned

    # What generated code calls.

    def of(self, values, a):
        return values if a is None else values[a]

    def full(self, a, value):
        return np.full(self.count if a is None else a.size, value)

    def parameter(self, index, offset, dtype, a):
        size = np.dtype(dtype).itemsize
        raw = self.parameters[index][offset : offset + size]
        if len(raw) != size:
            raise Fault(f"ld.param reads {size} bytes at {offset} of parameter {index}")
        return self.full(a, np.frombuffer(raw, dtype)[0])

    # The scheduler: lanes that part at a branch are stepped by lowest block first, and so mostly
    # meet again where their ways join. An instruction of warps holds lanes until all of their warp
    # are there, and a barrier until all of their program are.

    def go(self):
        registers: list = [None] * len(self.kernel.slots)
        ready: dict[int, list] = {0: [None]}
        waiting: dict[int, list] = {}
        while ready or waiting:
            if not ready:
                raise Fault("programs wait at barriers that some of their threads never meet")
            at, a = self._next(ready)
            block = self.kernel.blocks[at]
            self.statistics.steps += block.length
            taken = block.function(self, registers, a)
            if block.end == "barrier":
                self._barrier(at, a, ready, waiting)
            elif block.end == "return":
                self._leave(at, a, taken, ready)
            elif block.end == "jump":
                self._add(ready, block.target, a)
            elif block.end == "branch":
                if taken.all():
                    self._add(ready, block.target, a)
                elif not taken.any():
                    self._add(ready, at + 1, a)
                else:
                    lanes = self.of(self.lane, a)
                    self._add(ready, block.target, lanes[taken])
                    self._add(ready, at + 1, lanes[~taken])
            else:
                self._add(ready, at + 1, a)

    def _next(self, ready):
        """(block, lanes) to execute."""
        for at in sorted(ready):
            a = self._together(ready.pop(at))
            if a is None or not self.kernel.blocks[at].warps:
                return at, a
            whole = np.bincount(a // WARP, minlength=self.warp_epoch.size)[a // WARP] == WARP
            self._add(ready, at, a[~whole])
            if whole.any():
                return at, a[whole]
        raise Fault("an instruction of whole warps is met by parts of them")

    def _together(self, parts):
        if len(parts) == 1:
            return parts[0]
        if any(p is None for p in parts):
            raise AssertionError("lanes are at a place twice")
        lanes = np.sort(np.concatenate(parts))
        return None if lanes.size == self.count else lanes

    def _add(self, ready, at, lanes):
        if lanes is None or lanes.size:
            ready.setdefault(at, []).append(lanes)

    def _leave(self, at, a, taken, ready):
        lanes = self.of(self.lane, a)
        gone = lanes if taken is None else lanes[taken]
        np.subtract.at(self.live, self.program[gone], 1)
        if taken is not None:
            self._add(ready, at + 1, lanes[~taken])

    def _barrier(self, at, a, ready, waiting):
        lanes = self._together([*waiting.pop(at, []), a])
        if lanes is None:
            lanes = self.lane
        here = np.bincount(self.program[lanes], minlength=self.epoch.size)
        if (self.live != self.block)[here > 0].any():
            raise Fault("a barrier after some threads of the program have returned")
        done = here == self.block
        self.epoch[done] += 1
        go = done[self.program[lanes]]
        self._add(ready, at + 1, None if go.all() and go.size == self.count else lanes[go])
        if not go.all():
            waiting[at] = [lanes[~go]]


class Statistics:
    """What was executed."""

    def __init__(self):
        self.launches = 0
        self.steps = 0  # instructions, each of all active lanes at once


def run(
    kernel: Kernel, grid: int, block: int, shared: int, parameters, tensors,
    statistics: Statistics, programs=None,
) -> None:  # fmt: skip
    """Execute a launch.

    parameters: the bytes of each; tensors: torch tensors, the memory that may be touched;
    programs: which of them to execute, None for all.
    """
    if block != kernel.threads:
        raise Fault(f"{block} threads where .reqntid is {kernel.threads}")
    regions = memory_of(tensors)
    statistics.launches += 1
    most = max(1, _LANES_AT_A_TIME // block)
    chosen = ((first, min(most, grid - first)) for first in range(0, grid, most))
    if programs is not None:
        chosen = ((one, 1) for one in programs)
    with np.errstate(all="ignore"):
        for first, count in chosen:
            Execution(
                kernel, first, count, block, shared, parameters, regions, statistics
            ).go()  # fmt: skip
