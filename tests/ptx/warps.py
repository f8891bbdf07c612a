"""Instructions that all lanes of a warp execute together: shuffles, reductions, matrices."""

import numpy as np

from .types import I64, U16, U32, WARP, Fault, Unknown

_ALL = U32(0xFFFFFFFF)
_REDUCTIONS = {
    "min": np.minimum,
    "max": np.maximum,
    "add": np.add,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


class Warps:
    """A part of `execution.Execution`; `a`: the active lanes, their indices or None for all."""

    def _whole_warps(self, a):
        lanes = self.of(self.lane, a)
        if a is not None:
            whole = lanes.size % WARP == 0
            if whole:
                rows = lanes.reshape(-1, WARP)
                first = rows[:, :1]
                whole = (rows == first + np.arange(WARP)).all() and not (first % WARP).any()
            if not whole:
                raise Fault("an instruction of whole warps is met by parts of them")
        return lanes

    def shuffle(self, mode, value, b, c, mask, a):
        """(value, whether the source lane is in range)"""
        self._whole_warps(a)
        n = value.size
        if (np.asarray(mask, U32) != _ALL).any():
            raise Unknown("shfl of some of a warp's lanes")
        lane = np.tile(np.arange(WARP), n // WARP)
        b, c = np.asarray(b, I64), np.asarray(c, I64)
        clamp, segment = c & 31, (c >> 8) & 31
        most = (lane & segment) | (clamp & ~segment)
        least = lane & segment
        if mode == "bfly":
            j = lane ^ b
            inside = j <= most
        elif mode == "idx":
            j = least | (b & ~segment & 31)
            inside = j <= most
        elif mode == "up":
            j = lane - b
            inside = j >= most
        else:
            j = lane + b
            inside = j <= most
        j = np.where(inside, j, lane)
        return value[np.arange(n) - lane + j], inside

    def reduce_warp(self, how, value, mask, a):
        """redux.sync of all lanes."""
        self._whole_warps(a)
        if (np.asarray(mask, U32) != _ALL).any():
            raise Unknown("redux of some of a warp's lanes")
        found = _REDUCTIONS[how].reduce(value.reshape(-1, WARP), axis=1, dtype=value.dtype)
        return np.repeat(found, WARP)

    def load_matrix(self, address, count, transposed, a):
        """ldmatrix m8n8: row r of matrix k is what lane 8 k + r points to."""
        lanes = self._whole_warps(a)
        warps = lanes.size // WARP
        rows = np.zeros((warps, count, 8, 8), U16)
        where = address.reshape(warps, WARP)[:, : 8 * count].reshape(-1)
        who = lanes.reshape(warps, WARP)[:, : 8 * count].reshape(-1)
        rows[:] = self._load_shared(where, 2, 8, who).T.reshape(warps, count, 8, 8)
        if transposed:
            rows = rows.transpose(0, 1, 3, 2)
        pairs = np.ascontiguousarray(rows).view(U32).reshape(warps, count, WARP)
        return np.ascontiguousarray(pairs.transpose(1, 0, 2)).reshape(count, -1)

    def store_matrix(self, address, values, transposed, a):
        """stmatrix m8n8, as `load_matrix`."""
        lanes = self._whole_warps(a)
        warps, count = lanes.size // WARP, len(values)
        pairs = np.stack([v.reshape(warps, WARP) for v in values], 1)
        rows = np.ascontiguousarray(pairs).view(U16).reshape(warps, count, 8, 8)
        if transposed:
            rows = rows.transpose(0, 1, 3, 2)
        table = np.ascontiguousarray(rows).reshape(-1, 8)
        where = address.reshape(warps, WARP)[:, : 8 * count].reshape(-1)
        who = lanes.reshape(warps, WARP)[:, : 8 * count].reshape(-1)
        self.store_shared(where, list(table.T), None, who)

    def sync_warps(self, a):
        """bar.warp.sync of all lanes."""
        self.warp_epoch[self._whole_warps(a).reshape(-1, WARP)[:, 0] // WARP] += 1
