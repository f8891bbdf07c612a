// Sums over segments: S outputs, each the sum of length = n / S consecutive elements. A tile adds up
// what it holds of each segment; a segment that lies in several tiles is put together at the end, in
// the order of the tiles. So the order of every sum is fixed by n and S alone.
#pragma once

#include <cstdint>
#include <memory>

#include "common/interface.h"

namespace fr {

struct Segments {
  int64_t n, length;
  int64_t size = kTile;   // of a tile

  int64_t tile_begin(int64_t tile) const { return tile * size; }
  int64_t tile_end(int64_t tile) const { return n - tile * size < size ? n : (tile + 1) * size; }
  int64_t begin(int64_t segment) const { return segment * length; }
  int64_t first_of(int64_t tile) const { return tile_begin(tile) / length; }
  int64_t last_of(int64_t tile) const { return (tile_end(tile) - 1) / length; }
  // Does the tile hold the whole segment?
  bool whole(int64_t tile, int64_t segment) const {
    return begin(segment) >= tile_begin(tile) && begin(segment + 1) <= tile_end(tile);
  }
};

// What a tile adds to the first and the last segment that it touches, where it holds only part.
struct PartialSums {
  struct Pair {
    double first, last;
  };
  // Few tiles need no allocation.
  explicit PartialSums(int64_t tiles) {
    if (tiles > kInline) heap = std::make_unique_for_overwrite<Pair[]>(static_cast<size_t>(tiles));
    pairs = heap ? heap.get() : inline_pairs;
  }
  static constexpr int64_t kInline = 32;
  Pair inline_pairs[kInline];
  std::unique_ptr<Pair[]> heap;
  Pair* pairs;
};

// The segments that span tiles, in order; write(segment, sum) is called for each.
template <class Write>
void join_partial_sums(const Segments& g, int64_t tiles, const PartialSums::Pair* pairs,
                       const Write& write) {
  double running = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = g.first_of(t), last = g.last_of(t);
    if (!g.whole(t, first)) {
      running += pairs[t].first;
      if (g.begin(first + 1) > g.tile_end(t)) continue;
      write(first, running);
      running = 0;
    }
    if (last != first && !g.whole(t, last)) running = pairs[t].last;
  }
}

}  // namespace fr
