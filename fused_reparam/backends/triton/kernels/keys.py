"""How a kernel gets its key: [seed, offset] as uint64 scalars.

`KEY`: GIVEN, two numbers among the arguments (a key on the host); LOADED, int64 [2] on the device;
GRAPH, from the state of a CUDA generator under graph capture, which a replay fills in: see
`noise.derived_seed` and `noise.GraphKey`; NONE, there is no key, and noise in memory is the
caller's: z then has the bits that PyTorch's would have. Noise in memory beside a key is that key's.
"""

import triton
import triton.language as tl

from ....rng.cuda import GOLDEN

GIVEN: tl.constexpr = tl.constexpr(0)
LOADED: tl.constexpr = tl.constexpr(1)
GRAPH: tl.constexpr = tl.constexpr(2)
NONE: tl.constexpr = tl.constexpr(3)
_GOLDEN: tl.constexpr = tl.constexpr(GOLDEN)


@triton.jit
def read_key(key, seed, offset, KEY: tl.constexpr):
    """(seed, offset). key: int64 [2] for LOADED, else anything; seed, offset: int64, for GIVEN."""
    # The sums do nothing but for the interpreter, which holds 2^31 to 2^32 in 32 bits.
    seed = tl.full((), 0, tl.int64) + seed
    offset = tl.full((), 0, tl.int64) + offset
    if KEY == LOADED:
        seed = tl.load(key)
        offset = tl.load(key + 1)
    return seed.to(tl.uint64, bitcast=True), offset.to(tl.uint64, bitcast=True)


@triton.jit
def derive_key(key, state_seed, state_offset, intragraph):
    """(seed, offset) of the key at this position of a generator; the first program stores it.

    key: int64 [2], written. state_seed, state_offset: int64 [1].
    """
    position = tl.load(state_offset) + intragraph + 1
    seed = tl.load(state_seed).to(tl.uint64, bitcast=True)
    seed += position.to(tl.uint64, bitcast=True) * _GOLDEN
    offset = tl.full((), 0, tl.uint64)
    if tl.program_id(0) == 0:
        tl.store(key, seed.to(tl.int64, bitcast=True))
        tl.store(key + 1, offset.to(tl.int64, bitcast=True))
    return seed, offset
