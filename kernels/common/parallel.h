// A loop over tiles on PyTorch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

namespace fr {

// f(begin, end) for parts of 0 .. n; up to `grain` of them are not worth waking another thread.
template <class F>
void for_ranges(int64_t n, int64_t grain, const F& f) {
  if (n <= grain)
    f(int64_t{0}, n);
  else
    torch::stable::parallel_for(0, n, grain, f);
}

// f(tile) for each.
template <class F>
void for_tiles(int64_t tiles, int64_t grain, const F& f) {
  for_ranges(tiles, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) f(t);
  });
}

}  // namespace fr
