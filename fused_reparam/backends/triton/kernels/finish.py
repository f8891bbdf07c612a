"""The second, small kernel of a KL: adds the tiles' sums in a fixed order, so that bits repeat."""

# Triton reads the annotations "i64" and "fp64" as the types of numbers.
# ruff: noqa: F821

import triton
import triton.language as tl


@triton.jit(
    do_not_specialize=[
        "tiles",
        "length",
        "segments",
    ]
)
def finish_kernel(
    sums, kl, tiles: "i64", length: "i64", segments: "i64", factor: "fp64",
    SLOTS: tl.constexpr, WHOLE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """kl[s] = factor * the sums of the tiles of segment s (the program's index).

    sums: [samples, tiles, SLOTS]; each sample has so many `segments` (1 sample but for draws). With
    two slots, a tile's second one belongs to the segment that begins inside it.
    WHOLE: there is one segment, and it holds every tile.
    """
    tiles = tl.cast(tiles, tl.int64)
    program = tl.program_id(0).to(tl.int64)
    sample = program // segments
    segment = program - sample * segments
    sums += sample * tiles * SLOTS
    if WHOLE:
        first = segment
        last = tiles
        begin = segment
    else:
        begin = segment * length
        first = begin // TILE
        last = (begin + length - 1) // TILE + 1
    total = tl.zeros((BLOCK,), sums.dtype.element_ty)
    lane = tl.arange(0, BLOCK)
    while first < last:
        at = sums + first * SLOTS + lane * SLOTS
        if SLOTS == 2:  # the segment may begin inside its first tile
            at += ((first * TILE < begin) & (lane == 0)).to(tl.int32)
        left = tl.minimum(last - first, BLOCK).to(tl.int32)
        total += tl.load(at, mask=lane < left, other=0.0)
        first += BLOCK
    tl.store(kl + program, tl.sum(total) * tl.full((), factor, total.dtype))
