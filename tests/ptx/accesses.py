"""Loads and stores of an execution, each checked for bounds, alignment and races.

The two classes are parts of `execution.Execution`. An access has `vector` items of `item` bytes;
`p` is the instruction's predicate, an array or None, and `a` the active lanes, their indices or
None for all.
"""

import numpy as np

from .types import I64, U64, UNSIGNED, WARP, Fault


class GlobalAccesses:
    """Of tensors and of the module's constants."""

    def load(self, address, item, vector, p, a):
        """`vector` arrays; zero where p is False."""
        lanes = self.of(self.lane, a)
        if p is None:
            return self._load(address, item, vector, lanes)
        chosen = p.nonzero()[0]
        out = np.zeros((vector, p.size), UNSIGNED[item])
        if chosen.size:
            out[:, chosen] = self._load(address[chosen], item, vector, lanes[chosen])
        return out

    def _load(self, address, item, vector, lanes):
        size = item * vector
        out = np.zeros((vector, address.size), UNSIGNED[item])
        for region, which in self._places(address, size, "load"):
            offset = self._offset(region, address[which], size, "load")
            self._check_not_written(region, offset, size, lanes[which])
            words = region.views[item].reshape(-1, vector)
            out[:, which] = words[offset // size].T
        return out

    def store(self, address, values, p, a):
        address, values, lanes = self._chosen(address, values, p, a)
        if not lanes.size:
            return
        item = values[0].dtype.itemsize
        size = item * len(values)
        table = np.stack(values, 1)
        for region, which in self._places(address, size, "store"):
            if region.constant:
                raise Fault("store to constant memory")
            offset = self._offset(region, address[which], size, "store")
            words = region.views[item].reshape(-1, len(values))
            self._check_alone(region, offset, size, table[which], words, lanes[which])
            words[offset // size] = table[which]

    def _chosen(self, address, values, p, a):
        lanes = self.of(self.lane, a)
        if p is None:
            return address, values, lanes
        chosen = p.nonzero()[0]
        return address[chosen], [v[chosen] for v in values], lanes[chosen]

    def _places(self, address, size, what):
        """(region, which of the addresses) of each region that is met."""
        odd = (address & U64(size - 1)) != 0
        if odd.any():
            raise Fault(f"misaligned {what} of {size} bytes at {int(address[odd][0]):#x}")
        regions = (*self.regions, *self.kernel.constants)
        low, high = int(address.min()), int(address.max()) + size
        for region in regions:
            if region.low <= low and high <= region.high:
                yield region, slice(None)
                return
        left = np.ones(address.size, bool)
        for region in regions:
            inside = (address >= U64(region.low)) & (address + U64(size) <= U64(region.high)) & left
            if inside.any():
                left &= ~inside
                yield region, inside.nonzero()[0]
        if left.any():
            known = ", ".join(f"[{r.low:#x}, {r.high:#x})" for r in self.regions)
            raise Fault(f"{what} of {size} bytes at {int(address[left][0]):#x} outside of {known}")

    def _offset(self, region, address, size, what):
        """From the region's base, where every byte of the access is an element's."""
        offset = address.astype(I64) - region.base
        if region.valid is not None:
            first = offset + region.base - region.low
            for k in range(size):
                valid = region.valid[first + k]
                if not valid.all():
                    bad = first[~valid][0]
                    raise Fault(f"{what} of {size} bytes between a tensor's elements, byte {bad}")
        return offset

    def _check_not_written(self, region, offset, size, lanes):
        """No thread reads what another one wrote in the same launch."""
        if region.writer is None:
            return
        for k in range(size):
            writer = region.writer[offset + k]
            if ((writer >= 0) & (writer != self.identity[lanes])).any():
                raise Fault("race: a thread reads global memory that another one writes")

    def _check_alone(self, region, offset, size, table, words, lanes):
        """No two threads write different bits to one place in one launch."""
        writer, who, index = region.writers(), self.identity[lanes], offset // size
        before = writer[offset]
        again = (before >= 0) & (before != who)
        if again.any() and (words[index[again]] != table[again]).any():
            raise Fault("race: two threads write different bits to global memory")
        for k in range(size):
            writer[offset + k] = who
        order = np.argsort(index, kind="stable")
        same = index[order][1:] == index[order][:-1]
        if (table[order][1:][same] != table[order][:-1][same]).any():
            raise Fault("race: two threads write different bits to global memory at once")


class SharedAccesses:
    """Of shared memory: what one thread stores, another may load after a barrier only.

    `bar.warp.sync` orders the lanes of a warp, `bar.sync` all threads of a program.
    """

    def load_shared(self, address, item, vector, p, a):
        lanes = self.of(self.lane, a)
        out = np.zeros((vector, lanes.size), UNSIGNED[item])
        chosen = np.arange(lanes.size) if p is None else p.nonzero()[0]
        if chosen.size:
            out[:, chosen] = self._load_shared(address[chosen], item, vector, lanes[chosen])
        return out

    def _load_shared(self, address, item, vector, lanes):
        size = item * vector
        at = self._shared_offset(address, size, lanes, "load")
        memory, now = self.memory, self.epoch[self.program[lanes]]
        for k in range(size):
            byte = at + k
            if (memory.wrote[byte] < 0).any():
                raise Fault("a load of shared memory that nothing was stored to")
            others = (memory.wrote[byte] != lanes) & (memory.wrote_at[byte] == now)
            if (others & ~self._warp_synced(byte, lanes)).any():
                raise Fault("race: shared memory is read with no barrier after its store")
            several = (memory.read_at[byte] == now) & (memory.read[byte] != lanes)
            memory.read[byte] = np.where(several, -2, lanes)
            memory.read_at[byte] = now
        return memory.views[item].reshape(-1, vector)[at // size].T

    def store_shared(self, address, values, p, a):
        address, values, lanes = self._chosen(address, values, p, a)
        if not lanes.size:
            return
        item = values[0].dtype.itemsize
        size = item * len(values)
        at = self._shared_offset(address, size, lanes, "store")
        memory, now = self.memory, self.epoch[self.program[lanes]]
        words = memory.views[item].reshape(-1, len(values))
        table = np.stack(values, 1)
        differs = (words[at // size] != table).any(1)
        for k in range(size):
            byte = at + k
            fresh = differs & ~self._warp_synced(byte, lanes)
            wrote = (memory.wrote[byte] >= 0) & (memory.wrote[byte] != lanes)
            if (fresh & wrote & (memory.wrote_at[byte] == now)).any():
                raise Fault("race: shared memory is written twice with no barrier between")
            if (fresh & (memory.read_at[byte] == now) & (memory.read[byte] != lanes)).any():
                raise Fault("race: shared memory is overwritten with no barrier after a load")
            memory.wrote[byte], memory.wrote_at[byte] = lanes, now
            memory.wrote_warp[byte] = self.warp_epoch[lanes // WARP]
        words[at // size] = table
        # Lanes that store to one place at once must agree: which of them is kept is undefined
        # within a warp, and a matter of time between warps.
        if (words[at // size] != table).any():
            raise Fault("race: lanes store different bits to one place in shared memory at once")

    def _shared_offset(self, address, size, lanes, what):
        """In the shared memory of all the programs that are executed together."""
        address = address.astype(I64)
        odd = address % size != 0
        if odd.any():
            raise Fault(f"misaligned shared {what} of {size} bytes at {address[odd][0]}")
        if (address + size > self.memory.size).any():
            raise Fault(f"shared {what} of {size} bytes at {address.max()} of {self.memory.size}")
        return address + self.program[lanes] * self.memory.stride

    def _warp_synced(self, byte, lanes):
        """Whether the last store to a byte was by the lane's warp, which has synchronized since."""
        warp = lanes // WARP
        own = self.memory.wrote[byte] // WARP == warp
        return own & (self.memory.wrote_warp[byte] < self.warp_epoch[warp])
