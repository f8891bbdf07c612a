// The element-wise draws over whole tensors: tiles, staging, passes and sums around the kernels.
#pragma once

#include <cmath>
#include <limits>
#include <utility>

#include "draw_interface.h"
#include "rows.h"
#include "segments.h"

namespace fr {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct DrawCall {
  Dtype dtype;
  Family family;
  Kind kind, prior_kind;
  bool hard;                // of the relaxed Bernoulli
  int64_t n, samples, columns;
  int64_t segments;         // how many numbers a value has; 0: no values
  Operand params[4], eps, z, grads[4];  // backward: z is its gradient
  void* values[2];          // backward: their gradients
  uint64_t seed, offset;
  double low, high, number, weight, constants[kConstants];

  const FamilyTraits& traits() const { return kFamily[static_cast<int>(family)]; }
  Draw draw() const { return hard ? Draw::hard_bernoulli : traits().draw; }
  int64_t item() const { return kItemSize[static_cast<int>(dtype)]; }
  bool wide() const { return dtype == Dtype::f64; }
  int64_t real() const { return wide() ? 8 : 4; }
  int64_t tile_size() const { return kDrawBytes / real(); }
  int64_t tiles() const { return (n + tile_size() - 1) / tile_size(); }
  bool large() const { return samples * n * item() >= kLarge; }
  // How many runs over the parameters give values: sums never cross from one to the next.
  int64_t runs() const { return traits().sampled() ? samples : 1; }
  Segments sums() const { return {n, n * runs() / segments, tile_size()}; }
};

// The constants that the formulas take, from the family's numbers (reference/families.py).
inline void set_constants(DrawCall& c, const double (&numbers)[6]) {
  constexpr double kLog2 = 0.69314718055994530942;
  const auto set = [&](double a, double b, double d, double e = -kInfinity, double f = 0) {
    const double all[kConstants] = {a, b, d, e, f};
    std::memcpy(c.constants, all, sizeof all);
  };
  const double mean = numbers[2], std = numbers[3];
  c.low = c.traits().scaled ? numbers[0] : -kInfinity;
  c.high = c.traits().scaled ? numbers[1] : kInfinity;
  c.number = numbers[0];
  set(0, 1, 0);
  switch (c.family) {
    case Family::gaussian: return set(mean, 1 / std, std::log(std), numbers[4]);
    case Family::gaussian_prior: return set(0, 1, 0, numbers[2]);
    case Family::log_prob: return set(mean, 1 / std, -std::log(std) - kHalfLogTwoPi);
    case Family::mixture: {
      double wide = numbers[4], narrow = numbers[5];
      double log_wide = std::log(numbers[3]) - std::log(wide);
      double log_narrow = std::log1p(-numbers[3]) - std::log(narrow);
      if (wide < narrow) {
        std::swap(wide, narrow);
        std::swap(log_wide, log_narrow);
      }
      const double ratio = wide / narrow;
      // Float's: not 0, which times an infinite square would be NaN, and nothing infinite.
      const double fall = std::fmin(std::fmax(0.5 * (ratio * ratio - 1), 0x1p-126), 0x1p126);
      return set(mean, 1 / wide, log_wide - kHalfLogTwoPi, log_narrow - log_wide, fall);
    }
    case Family::tanh_normal: {
      const double lowest = numbers[2], highest = numbers[3], half = 0.5 * (highest - lowest);
      return set(0.5 * (highest + lowest), half, -kHalfLogTwoPi - std::log(half) - 2 * kLog2, lowest,
                 highest);
    }
    case Family::relaxed_bernoulli: return set(1 / numbers[0], 0, 0);
    default: return;
  }
}

// A tile of a call, with room for what its passes work on.
class DrawTile {
 public:
  DrawTile(const DrawKernels& kernels, const DrawCall& call, int64_t tile)
      : k_(kernels), c_(call), begin_(tile * call.tile_size()) {
    const int64_t left = c_.n - begin_;
    count_ = left < c_.tile_size() ? left : c_.tile_size();
    padded_ = (count_ + kDrawStep - 1) / kDrawStep * kDrawStep;
  }

  int64_t begin() const { return begin_; }
  int64_t count() const { return count_; }
  int64_t padded() const { return padded_; }
  void* take() { return slots_[used_++].bytes; }
  int used() const { return used_; }
  void release(int used) { used_ = used; }                  // slots taken since are free again
  void* zeros() { return std::memset(take(), 0, static_cast<size_t>(padded_ * c_.real())); }

  // Sample k's elements of an operand as Reals, up to the next whole step: where they lie, or a copy.
  const void* read(const Operand& op, int64_t k = 0) {
    const int64_t item = c_.item(), first = k * c_.n + begin_;
    const void* raw = rows::direct(op, item, c_.columns, first, count_);
    if (raw && item > 2 && count_ == padded_) return raw;
    void* to = take();
    void* stage = item > 2 ? to : raw_.bytes;
    if (!raw || count_ < padded_) {
      if (raw)
        std::memcpy(stage, raw, static_cast<size_t>(count_ * item));
      else
        gather(op, item, c_.columns, first, count_, stage);
      std::memset(static_cast<char*>(stage) + count_ * item, 0,
                  static_cast<size_t>((padded_ - count_) * item));
      raw = stage;
    }
    if (item == 2) k_.widen(c_.dtype, raw, to, padded_);
    return to;
  }

  // Where a pass may write an operand's Reals; `written` brings them to their place.
  void* room(const Operand& op, int64_t k = 0) {
    void* p = op.data ? rows::direct(op, c_.item(), c_.columns, k * c_.n + begin_, count_) : nullptr;
    return p && c_.item() > 2 && count_ == padded_ ? p : take();
  }
  void written(const Operand& op, const void* reals, int64_t k = 0) {
    if (!op.data) return;
    const int64_t item = c_.item(), first = k * c_.n + begin_;
    void* p = rows::direct(op, item, c_.columns, first, count_);
    if (p == reals) return;
    if (item == 2 && p && count_ == padded_) return k_.narrow(c_.dtype, reals, p, count_);
    if (item == 2) {
      k_.narrow(c_.dtype, reals, raw_.bytes, padded_);
      reals = raw_.bytes;
    }
    if (p)
      std::memcpy(p, reals, static_cast<size_t>(count_ * item));
    else
      scatter(reals, op, item, c_.columns, first, count_);
  }

  // Sample k's base noise: given, or made, while operands are fetched.
  const void* noise(int64_t k, const FetchList& ahead) {
    if (c_.eps.data) return read(c_.eps, k);
    return k_.noise(c_.wide(), c_.traits().base, c_.number, c_.seed, c_.offset, k * c_.n + begin_,
                    count_, noise_, ahead);
  }

  void fetch(FetchList& list, const Operand& op, int64_t k = 0) const {
    if (!op.data || !c_.large()) return;
    const void* p = rows::direct(op, c_.item(), c_.columns, k * c_.n + begin_, count_);
    if (p) list.operand[list.count++] = p;
  }

 private:
  const DrawKernels& k_;
  const DrawCall& c_;
  int64_t begin_, count_, padded_;
  int used_ = 0;
  Slot slots_[24], raw_;
  alignas(64) unsigned char noise_[kNoiseBytes];
};

// ---- values: their sums, and their gradients ------------------------------------------------------

// What the tiles of each value and run add to segments that they hold only part of.
inline PartialSums::Pair* pairs_of(const DrawCall& c, const PartialSums& partial, int value,
                                   int64_t run) {
  return partial.pairs + (value * c.runs() + run) * c.tiles();
}

// Where the values of a run begin.
inline int64_t first_value(const DrawCall& c, int64_t run) { return run * (c.segments / c.runs()); }

inline void put_value(const DrawCall& c, int value, int64_t run, int64_t segment, double sum) {
  const int64_t at = first_value(c, run) + segment;
  if (c.wide())
    static_cast<double*>(c.values[value])[at] = c.weight * sum;
  else
    static_cast<float*>(c.values[value])[at] = static_cast<float>(c.weight * sum);
}

// Segments that a tile holds whole, from x on: four at a time, for a sum alone waits for each of its
// additions. 0.5 ns an element less for rows of 6.
template <class T>
inline void sum_short(const T* x, int64_t length, double weight, T* out, int64_t count) {
  int64_t s = 0;
  for (; s + 4 <= count; s += 4, x += 4 * length) {
    double a = 0, b = 0, d = 0, e = 0;
    for (int64_t i = 0; i < length; ++i) {
      a += static_cast<double>(x[i]);
      b += static_cast<double>(x[i + length]);
      d += static_cast<double>(x[i + 2 * length]);
      e += static_cast<double>(x[i + 3 * length]);
    }
    out[s] = static_cast<T>(weight * a);
    out[s + 1] = static_cast<T>(weight * b);
    out[s + 2] = static_cast<T>(weight * d);
    out[s + 3] = static_cast<T>(weight * e);
  }
  for (; s < count; ++s, x += length) {
    double total = 0;
    for (int64_t i = 0; i < length; ++i) total += static_cast<double>(x[i]);
    out[s] = static_cast<T>(weight * total);
  }
}

template <class T>
inline void sum_values(const Kernels& kernels, const DrawCall& c, int value, int64_t run, int64_t tile,
                       const T* x, PartialSums::Pair* pairs) {
  constexpr int64_t kShort = 32;                            // not worth a call
  const Segments g = c.sums();
  const int64_t begin = g.tile_begin(tile), end = g.tile_end(tile);
  if (g.length == 1) {
    T* out = static_cast<T*>(c.values[value]) + run * c.n + begin;
    for (int64_t i = 0; i < end - begin; ++i) out[i] = static_cast<T>(c.weight) * x[i];
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
      put_value(c, value, run, s, total);
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
    sum_short(x + (g.begin(whole) - begin), g.length, c.weight,
              static_cast<T*>(c.values[value]) + first_value(c, run) + whole, stop - whole);
  if (stop == last && last > first) part(last);
}

// The weight of each element's gradient, weight * its segment's, up to the next whole step.
template <class T>
inline void spread_gradient(const DrawCall& c, int value, int64_t run, int64_t tile, int64_t padded,
                            T* out) {
  const Segments g = c.sums();
  const T weight = static_cast<T>(c.weight);
  const T* grad = static_cast<const T*>(c.values[value]) + first_value(c, run);
  const int64_t begin = g.tile_begin(tile), count = g.tile_end(tile) - begin;
  int64_t i = 0, s = g.first_of(tile);
  // Short segments overwrite what the one before wrote too far: 0.3 ns an element less for a row of 6.
  constexpr int64_t kChunk = 8;
  for (; g.length <= kChunk && i + kChunk <= count; ++s) {
    const T w = weight * grad[s];
    for (int64_t j = 0; j < kChunk; ++j) out[i + j] = w;
    i = g.begin(s + 1) - begin;
  }
  for (; i < count; ++s) {
    const int64_t to = g.begin(s + 1) - begin < count ? g.begin(s + 1) - begin : count;
    for (const T w = weight * grad[s]; i < to; ++i) out[i] = w;
  }
  for (; i < padded; ++i) out[i] = 0;
}
inline void* gradient_of_value(const DrawCall& c, int value, int64_t run, int64_t tile, DrawTile& t) {
  if (!c.values[value]) return t.zeros();
  void* out = t.take();
  if (c.wide())
    spread_gradient(c, value, run, tile, t.padded(), static_cast<double*>(out));
  else
    spread_gradient(c, value, run, tile, t.padded(), static_cast<float*>(out));
  return out;
}

// ---- the passes over a tile -------------------------------------------------------------------------

// sigma and what else is wanted of a scale keyword's parameter.
inline ScalePass scale_pass(const DrawKernels& kernels, const DrawCall& c, const void* x, Kind kind,
                            bool bounded, bool want_log, bool want_gradient, DrawTile& t) {
  ScalePass p{t.padded(), bounded ? c.low : -kInfinity, bounded ? c.high : kInfinity, x, t.take(),
              want_log ? t.take() : nullptr, want_gradient ? t.take() : nullptr,
              want_gradient ? t.take() : nullptr};
  kernels.scale[c.wide()][static_cast<int>(kind)](p);
  return p;
}

// Reads the parameters into a pass.
inline void set_parameters(const DrawKernels& kernels, const DrawCall& c, bool want_log,
                           bool want_gradient, DrawTile& t, DrawPass& p, ScalePass& scale,
                           ScalePass& prior) {
  const FamilyTraits& traits = c.traits();
  p.count = t.padded();
  p.constants = c.constants;
  p.loc = t.read(c.params[0]);
  if (traits.parameters > 1) p.sigma = t.read(c.params[1]);
  if (traits.scaled) {
    scale = scale_pass(kernels, c, p.sigma, c.kind, true, want_log, want_gradient, t);
    p.sigma = scale.sigma;
    p.log_sigma = scale.log_sigma;
  }
  if (traits.parameters > 2) {
    p.prior_loc = t.read(c.params[2]);
    prior = scale_pass(kernels, c, t.read(c.params[3]), c.prior_kind, false, want_log, want_gradient, t);
    p.prior_sigma = prior.sigma;
    p.prior_log_sigma = prior.log_sigma;
  }
}

inline void forward_tile(const Kernels& common, const DrawKernels& kernels, const DrawCall& c,
                         int64_t tile, const PartialSums& partial) {
  const FamilyTraits& traits = c.traits();
  const bool sampled = traits.sampled(), draws = c.z.data || (sampled && c.segments);
  DrawTile t(kernels, c, tile);
  const auto sum = [&](int value, int64_t run, const void* x) {
    PartialSums::Pair* pairs = pairs_of(c, partial, value, run);
    if (c.wide())
      sum_values(common, c, value, run, tile, static_cast<const double*>(x), pairs);
    else
      sum_values(common, c, value, run, tile, static_cast<const float*>(x), pairs);
  };
  // The first sample's noise comes first: meanwhile the operands come from memory.
  DrawPass p{};
  if (draws) {
    FetchList ahead{{}, 0, c.item()};
    for (const Operand& op : c.params) t.fetch(ahead, op);
    t.fetch(ahead, c.z);
    p.eps = t.noise(0, ahead);
  }
  ScalePass scale{}, prior{};
  set_parameters(kernels, c, sampled || c.segments, false, t, p, scale, prior);
  p.value[0] = t.take();
  p.value[1] = t.take();
  if (!sampled && c.segments) {
    kernels.value[c.wide()][static_cast<int>(traits.value)](p);
    sum(0, 0, p.value[0]);
  }
  for (int64_t k = 0; draws && k < c.samples; ++k) {
    const int used = t.used();
    if (k) {
      FetchList ahead{{}, 0, c.item()};
      t.fetch(ahead, c.z, k);
      p.eps = t.noise(k, ahead);
    }
    p.z = t.room(c.z, k);
    kernels.draw[c.wide()][static_cast<int>(c.draw())](p);
    t.written(c.z, p.z, k);
    for (int j = 0; sampled && c.segments && j < traits.values; ++j) sum(j, k, p.value[j]);
    t.release(used);
  }
}

inline void backward_tile(const DrawKernels& kernels, const DrawCall& c, int64_t tile) {
  const FamilyTraits& traits = c.traits();
  const bool sampled = traits.sampled(), any = c.values[0] || c.values[1];
  const bool draws = c.z.data || (sampled && any), valued = !sampled && any;
  const bool floored = valued && traits.scaled && c.constants[3] > -kInfinity;
  DrawTile t(kernels, c, tile);
  DrawPass p{};
  if (draws) {
    FetchList ahead{{}, 0, c.item()};
    for (const Operand& op : c.params) t.fetch(ahead, op);
    t.fetch(ahead, c.z);
    for (const Operand& op : c.grads) t.fetch(ahead, op);
    p.eps = t.noise(0, ahead);
  }
  ScalePass scale{}, prior{};
  set_parameters(kernels, c, floored, true, t, p, scale, prior);

  // A value's gradients are written, else there are zeros to add a draw's to.
  const auto sums = [&](void* x) {
    if (!valued) std::memset(x, 0, static_cast<size_t>(t.padded() * c.real()));
    return x;
  };
  p.to_loc = sums(t.room(c.grads[0]));
  p.to_sigma = sums(traits.scaled ? t.take() : t.room(c.grads[1]));
  if (sampled || valued) p.to_log_sigma = sums(t.take());
  if (traits.parameters > 2) {
    p.to_prior_loc = sums(t.room(c.grads[2]));
    p.to_prior_log_sigma = sums(t.take());
  }
  if (valued) {
    p.grad_value[0] = gradient_of_value(c, 0, 0, tile, t);
    kernels.value_backward[c.wide()][static_cast<int>(traits.value)](p);
  }
  for (int64_t k = 0; draws && k < c.samples; ++k) {
    const int used = t.used();
    if (k) {
      FetchList ahead{{}, 0, c.item()};
      t.fetch(ahead, c.z, k);
      p.eps = t.noise(k, ahead);
    }
    p.grad_z = c.z.data ? t.read(c.z, k) : t.zeros();
    for (int j = 0; sampled && j < traits.values; ++j)
      p.grad_value[j] = gradient_of_value(c, j, k, tile, t);
    kernels.draw_backward[c.wide()][static_cast<int>(c.draw())](p);
    t.release(used);
  }

  // From sigma and log sigma to the scale's own parameter.
  const auto to_scale = [&](const Operand& op, const ScalePass& s, const void* sigma, const void* log) {
    if (!op.data) return;
    void* out = t.room(op);
    kernels.scale_gradient[c.wide()](s, sigma, log, out);
    t.written(op, out);
  };
  t.written(c.grads[0], p.to_loc);
  if (traits.scaled)
    to_scale(c.grads[1], scale, p.to_sigma, p.to_log_sigma);
  else
    t.written(c.grads[1], p.to_sigma);
  if (traits.parameters > 2) {
    t.written(c.grads[2], p.to_prior_loc);
    to_scale(c.grads[3], prior, nullptr, p.to_prior_log_sigma);
  }
}

}  // namespace fr
