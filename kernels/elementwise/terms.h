// The terms of the element-wise families: the sums of a tile, and the gradients of its elements.
#pragma once

#include "elementwise/tile.h"

namespace fr {

// What the tiles of each term and run add to segments that they hold only part of.
inline PartialSums::Pair* pairs_of(const ElementwiseCall& c, const PartialSums& partial, int term,
                                   int64_t run) {
  return partial.pairs + (term * c.runs() + run) * c.tiles();
}

// Where the terms of a run begin.
inline int64_t first_term(const ElementwiseCall& c, int64_t run) { return run * (c.n / c.length); }

inline void put_term(const ElementwiseCall& c, int term, int64_t run, int64_t segment, double sum) {
  const int64_t at = first_term(c, run) + segment;
  if (c.wide())
    static_cast<double*>(c.terms[term])[at] = c.factor * sum;
  else
    static_cast<float*>(c.terms[term])[at] = static_cast<float>(c.factor * sum);
}

// Segments that a tile holds whole, from x on: four at a time, for a sum alone waits for each of its
// additions. 0.5 ns an element less for rows of 6. Not inlined: as a part of its caller, rows of 20
// took a seventh longer (GCC 12).
template <class T>
__attribute__((noinline)) void sum_short(const T* x, int64_t length, double factor, T* out, int64_t count) {
  int64_t s = 0;
  for (; s + 4 <= count; s += 4, x += 4 * length) {
    double a = 0, b = 0, d = 0, e = 0;
    for (int64_t i = 0; i < length; ++i) {
      a += static_cast<double>(x[i]);
      b += static_cast<double>(x[i + length]);
      d += static_cast<double>(x[i + 2 * length]);
      e += static_cast<double>(x[i + 3 * length]);
    }
    out[s] = static_cast<T>(factor * a);
    out[s + 1] = static_cast<T>(factor * b);
    out[s + 2] = static_cast<T>(factor * d);
    out[s + 3] = static_cast<T>(factor * e);
  }
  for (; s < count; ++s, x += length) {
    double total = 0;
    for (int64_t i = 0; i < length; ++i) total += static_cast<double>(x[i]);
    out[s] = static_cast<T>(factor * total);
  }
}

template <class T>
inline void sum_terms(const Kernels& kernels, const ElementwiseCall& c, int term, int64_t run, int64_t tile,
                       const T* x, PartialSums::Pair* pairs) {
  constexpr int64_t kShort = 32;                            // not worth a call
  const Segments g = c.sums();
  const int64_t begin = g.tile_begin(tile), end = g.tile_end(tile);
  if (g.length == 1) {
    T* out = static_cast<T*>(c.terms[term]) + run * c.n + begin;
    for (int64_t i = 0; i < end - begin; ++i) out[i] = static_cast<T>(c.factor) * x[i];
    return;
  }
  const int64_t first = g.first_of(tile), last = g.last_of(tile);
  const auto part = [&](int64_t s) {
    const int64_t from = g.begin(s) > begin ? g.begin(s) : begin;
    const int64_t to = g.begin(s + 1) < end ? g.begin(s + 1) : end;
    double total = 0;
    if (to - from < kShort)
      for (int64_t i = from; i < to; ++i) total += static_cast<double>(x[i - begin]);
    else
      total = kernels.sum(c.dtype, x + (from - begin), to - from);
    if (g.whole(tile, s))
      put_term(c, term, run, s, total);
    else
      (s == first ? pairs[tile].first : pairs[tile].last) = total;
  };
  if (g.length >= kShort) {
    for (int64_t s = first; s <= last; ++s) part(s);
    return;
  }
  const int64_t whole = g.whole(tile, first) ? first : first + 1;
  const int64_t stop = g.whole(tile, last) ? last + 1 : last;
  if (whole > first) part(first);
  if (whole < stop)
    sum_short(x + (g.begin(whole) - begin), g.length, c.factor,
              static_cast<T*>(c.terms[term]) + first_term(c, run) + whole, stop - whole);
  if (stop == last && last > first) part(last);
}

// The gradient of each element's term, factor * its segment's, up to the next whole step.
template <class T>
inline void spread_gradient(const ElementwiseCall& c, int term, int64_t run, int64_t tile, int64_t padded,
                            T* out) {
  const Segments g = c.sums();
  const T factor = static_cast<T>(c.factor);
  const T* grad = static_cast<const T*>(c.terms[term]) + first_term(c, run);
  const int64_t begin = g.tile_begin(tile), count = g.tile_end(tile) - begin;
  int64_t i = 0, s = g.first_of(tile);
  // Short segments overwrite what the one before wrote too far: 0.3 ns an element less for a row of 6.
  constexpr int64_t kChunk = 8;
  for (; g.length <= kChunk && i + kChunk <= count; ++s) {
    const T w = factor * grad[s];
    for (int64_t j = 0; j < kChunk; ++j) out[i + j] = w;
    i = g.begin(s + 1) - begin;
  }
  // So do longer ones, by pieces that the compiler writes by whole registers.
  for (; i < count; ++s) {
    const int64_t to = g.begin(s + 1) - begin < count ? g.begin(s + 1) - begin : count;
    T piece[2 * kChunk];
    std::fill_n(piece, 2 * kChunk, factor * grad[s]);
    for (; i < to; i += 2 * kChunk) std::memcpy(out + i, piece, sizeof piece);
    i = to;
  }
  for (; i < padded; ++i) out[i] = 0;
}
inline void* gradient_of_term(const ElementwiseCall& c, int term, int64_t run, int64_t tile,
                               ElementwiseTile& t) {
  if (!c.terms[term]) return t.zeros();
  void* out = t.take();
  if (c.wide())
    spread_gradient(c, term, run, tile, t.padded(), static_cast<double*>(out));
  else
    spread_gradient(c, term, run, tile, t.padded(), static_cast<float*>(out));
  return out;
}

}  // namespace fr
