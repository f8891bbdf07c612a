// The Gaussian latent over whole tensors: tiles, threads, staging and sums around the kernels.
#pragma once

#include "common/isa.h"
#include "common/huge_pages.h"
#include "common/parallel.h"
#include "common/operand.h"
#include "common/segments.h"

namespace fr {

struct GaussianCall {
  Dtype dtype;
  Kind kind;
  int64_t n, columns;     // columns matter only for operands that are not linear
  Operand loc, scale, eps;
  bool given = false;     // whether eps is the caller's, of no key
  uint64_t seed = 0, offset = 0;
  double low, high, factor;
  int64_t segments = 1;   // how many KL numbers (or gradients of such) there are

  int64_t item() const { return kItemSize[static_cast<int>(dtype)]; }
  int64_t kl_item() const { return dtype == Dtype::f64 ? 8 : 4; }
  int64_t tiles() const { return (n + kTile - 1) / kTile; }
  Common common(int64_t first, int64_t count, Stage (&stage)[3]) const {
    return {tile_in(loc, item(), columns, first, count, stage[0]),
            tile_in(scale, item(), columns, first, count, stage[1]),
            tile_in(eps, item(), columns, first, count, stage[2]),
            given, seed, offset, first, count, low, high, n * item() >= kLarge};
  }
};

struct GaussianForward : GaussianCall {
  Operand z;
  void* kl = nullptr;
};

struct GaussianBackward : GaussianCall {
  Operand grad_z, grad_kl, grad_loc, grad_scale;
};

inline void put_kl(const GaussianForward& c, int64_t i, double twice_kl) {
  const double value = 0.5 * c.factor * twice_kl;
  if (c.dtype == Dtype::f64)
    static_cast<double*>(c.kl)[i] = value;
  else
    static_cast<float*>(c.kl)[i] = static_cast<float>(value);
}

// Elements of KL that have been written as twice the KL.
template <class T>
inline void multiply(T* kl, double factor, int64_t count) {
  const T w = static_cast<T>(0.5 * factor);
  for (int64_t i = 0; i < count; ++i) kl[i] *= w;
}

inline void forward_tile(const Kernels& kernels, const GaussianForward& c, int64_t tile,
                         PartialSums& partial) {
  const Segments g{c.n, c.n / c.segments};
  const int64_t begin = g.tile_begin(tile), end = g.tile_end(tile), count = end - begin;
  const auto run = kernels.forward[static_cast<int>(c.dtype)][static_cast<int>(c.kind)];
  Stage in[3], out;
  ForwardTile t{c.common(begin, count, in), nullptr, false, nullptr};
  t.z = tile_out(c.z, c.item(), c.columns, begin, count, out);

  if (c.kl && c.segments == c.n) {
    t.kl = static_cast<char*>(c.kl) + begin * c.kl_item();
    run(t);
    if (c.dtype == Dtype::f64)
      multiply(static_cast<double*>(t.kl), c.factor, count);
    else
      multiply(static_cast<float*>(t.kl), c.factor, count);
  } else if (c.kl && g.first_of(tile) == g.last_of(tile)) {
    t.sum_kl = true;
    const double total = run(t);
    if (g.whole(tile, g.first_of(tile)))
      put_kl(c, g.first_of(tile), total);
    else
      partial.pairs[tile].first = total;
  } else if (c.kl) {
    Stage elements;
    t.kl = elements.bytes;
    run(t);
    const int64_t first = g.first_of(tile), last = g.last_of(tile);
    for (int64_t s = first; s <= last; ++s) {
      const int64_t from = g.begin(s) > begin ? g.begin(s) : begin;
      const int64_t to = g.begin(s + 1) < end ? g.begin(s + 1) : end;
      const void* x = elements.bytes + (from - begin) * c.kl_item();
      const double total = kernels.sum(c.dtype, x, to - from);
      if (g.whole(tile, s))
        put_kl(c, s, total);
      else
        (s == first ? partial.pairs[tile].first : partial.pairs[tile].last) = total;
    }
  } else {
    run(t);
  }
  if (t.z) tile_written(c.z, c.item(), c.columns, begin, count, t.z, out);
}

// A NaN without a payload in its lower half: the 16-bit kernels round by carrying into the upper one.
template <class T>
inline T canonical_nan(T x) {
  return x == x ? x : static_cast<T>(__builtin_nan(""));
}

// The gradient of each element's KL, factor * grad_kl[segment], as the kernel takes it.
template <class T>
inline void set_grad_kl(const GaussianBackward& c, int64_t begin, int64_t count, Stage& stage,
                        BackwardTile& t) {
  const T factor = static_cast<T>(c.factor);
  T* buffer = reinterpret_cast<T*>(stage.bytes);
  if (c.segments == c.n && c.n > 1) {
    const auto* g =
        static_cast<const T*>(tile_in(c.grad_kl, sizeof(T), c.columns, begin, count, stage));
    for (int64_t i = 0; i < count; ++i) buffer[i] = canonical_nan(factor * g[i]);
    t.grad_kl = buffer;
    return;
  }
  const auto* g = static_cast<const T*>(c.grad_kl.data);
  const int64_t length = c.n / c.segments, first = begin / length;
  if ((begin + count - 1) / length == first) {
    t.one_grad_kl = static_cast<double>(canonical_nan(factor * g[first]));
    t.has_grad_kl = t.one_grad_kl != 0;  // a gradient of 0 does not count, infinite as its slope may be
    return;
  }
  for (int64_t i = 0, s = first; i < count; ++s) {
    const int64_t to = (s + 1) * length - begin < count ? (s + 1) * length - begin : count;
    for (const T w = canonical_nan(factor * g[s]); i < to; ++i) buffer[i] = w;
  }
  t.grad_kl = buffer;
}

inline void backward_tile(const Kernels& kernels, const GaussianBackward& c, int64_t tile) {
  const int64_t begin = tile * kTile, count = c.n - begin < kTile ? c.n - begin : kTile;
  const auto run = kernels.backward[static_cast<int>(c.dtype)][static_cast<int>(c.kind)];
  Stage in[3], grad, grad_kl, out[2];
  BackwardTile t{c.common(begin, count, in), nullptr, nullptr, 0, false, nullptr, nullptr};
  t.grad_z = tile_in(c.grad_z, c.item(), c.columns, begin, count, grad);
  t.has_grad_kl = c.grad_kl.data != nullptr;
  if (t.has_grad_kl && c.dtype == Dtype::f64) set_grad_kl<double>(c, begin, count, grad_kl, t);
  if (t.has_grad_kl && c.dtype != Dtype::f64) set_grad_kl<float>(c, begin, count, grad_kl, t);
  t.grad_loc = tile_out(c.grad_loc, c.item(), c.columns, begin, count, out[0]);
  t.grad_scale = tile_out(c.grad_scale, c.item(), c.columns, begin, count, out[1]);
  run(t);
  if (t.grad_loc) tile_written(c.grad_loc, c.item(), c.columns, begin, count, t.grad_loc, out[0]);
  if (t.grad_scale)
    tile_written(c.grad_scale, c.item(), c.columns, begin, count, t.grad_scale, out[1]);
}

inline void run(const GaussianForward& c) {
  const Kernels& kernels = FR_CURRENT(kernels);
  const int64_t tiles = c.tiles();
  if (c.z.linear) prefer_huge_pages(c.z.data, c.n * c.item());
  PartialSums partial(c.kl && c.segments != c.n ? tiles : 0);
  for_tiles(tiles, kTileGrain, [&](int64_t t) { forward_tile(kernels, c, t, partial); });
  if (c.kl && c.segments != c.n)
    join_partial_sums({c.n, c.n / c.segments}, tiles, partial.pairs,
                      [&](int64_t segment, double total) { put_kl(c, segment, total); });
}

inline void run(const GaussianBackward& c) {
  const Kernels& kernels = FR_CURRENT(kernels);
  if (c.grad_loc.linear) prefer_huge_pages(c.grad_loc.data, c.n * c.item());
  if (c.grad_scale.linear) prefer_huge_pages(c.grad_scale.data, c.n * c.item());
  for_tiles(c.tiles(), kTileGrain, [&](int64_t t) { backward_tile(kernels, c, t); });
}

}  // namespace fr
