// The element-wise draws over whole tensors: tiles, staging, passes and sums around the kernels.
//
// The work is cut into items: a tile of the parameters' elements, and a range of the samples. Samples
// are cut only where there are many of them and few tiles, and samples of few elements are first laid
// side by side (see Folded), so that threads and vectors are in use whatever the shape is.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
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
  int64_t length;           // how many elements a value is the sum of; 0: no values
  int64_t origin;           // of the stream: the index of sample 0's first element
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
  Segments sums() const { return {n, length, tile_size()}; }

  // How many ranges the samples are cut into. Sizes alone decide, never the number of threads, and so
  // do they the order in which gradients are added.
  int64_t ranges() const {
    constexpr int64_t kSamples = 32;                        // fewer are not worth another range
    constexpr int64_t kItems = 128;                         // enough for any number of threads
    return std::max(int64_t{1}, std::min(samples / kSamples, kItems / tiles()));
  }
  int64_t items() const { return tiles() * ranges(); }
  // Items that together are worth waking another thread: 16384 elements.
  int64_t grain() const {
    return std::max(int64_t{1}, 16384 / tile_size() / (samples / ranges()));
  }
};

// A tile of the parameters' elements, and samples first .. last - 1.
struct DrawItem {
  int64_t tile, first, last;
};
inline DrawItem item_of(const DrawCall& c, int64_t index) {
  const int64_t ranges = c.ranges(), range = index % ranges;
  const int64_t each = c.samples / ranges, more = c.samples % ranges;
  const int64_t first = range * each + std::min(range, more);
  return {index / ranges, first, first + each + (range < more)};
}

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
    case Family::log_prob: return set(mean, 1 / std, std::log(std));
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
    return k_.noise(c_.wide(), c_.traits().base, c_.number, c_.seed, c_.offset,
                    c_.origin + k * c_.n + begin_, count_, noise_, ahead);
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
inline int64_t first_value(const DrawCall& c, int64_t run) { return run * (c.n / c.length); }

inline void put_value(const DrawCall& c, int value, int64_t run, int64_t segment, double sum) {
  const int64_t at = first_value(c, run) + segment;
  if (c.wide())
    static_cast<double*>(c.values[value])[at] = c.weight * sum;
  else
    static_cast<float*>(c.values[value])[at] = static_cast<float>(c.weight * sum);
}

// Segments that a tile holds whole, from x on: four at a time, for a sum alone waits for each of its
// additions. 0.5 ns an element less for rows of 6. Not inlined: as a part of its caller, rows of 20
// took a seventh longer (GCC 12).
template <class T>
__attribute__((noinline)) void sum_short(const T* x, int64_t length, double weight, T* out, int64_t count) {
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
  const auto number = [](Kind kind) { return kind == Kind::std || kind == Kind::var; };
  p.prior_is_std = number(c.prior_kind);
  p.by_ratio = number(c.kind);
  if (traits.parameters > 2) {
    p.by_ratio &= p.prior_is_std;
    p.prior_loc = t.read(c.params[2]);
    prior = scale_pass(kernels, c, t.read(c.params[3]), c.prior_kind, false, want_log, want_gradient, t);
    p.prior_sigma = prior.sigma;
    p.prior_log_sigma = prior.log_sigma;
  }
}

// Sample k's noise, and what else its pass reads, while operands that are wanted next are fetched.
inline const void* noise_of(DrawTile& t, const DrawCall& c, int64_t k) {
  FetchList ahead{{}, 0, c.item()};
  t.fetch(ahead, c.z, k);
  return t.noise(k, ahead);
}

inline void forward_item(const Kernels& common, const DrawKernels& kernels, const DrawCall& c,
                         const DrawItem& item, const PartialSums& partial) {
  const FamilyTraits& traits = c.traits();
  const bool sampled = traits.sampled(), draws = c.z.data || (sampled && c.length);
  const bool valued = !sampled && c.length && item.first == 0;
  DrawTile t(kernels, c, item.tile);
  const auto sum = [&](int value, int64_t run, const void* x) {
    PartialSums::Pair* pairs = pairs_of(c, partial, value, run);
    if (c.wide())
      sum_values(common, c, value, run, item.tile, static_cast<const double*>(x), pairs);
    else
      sum_values(common, c, value, run, item.tile, static_cast<const float*>(x), pairs);
  };
  // The first sample's noise comes first: meanwhile the operands come from memory.
  DrawPass p{};
  if (draws) {
    FetchList ahead{{}, 0, c.item()};
    for (const Operand& op : c.params) t.fetch(ahead, op);
    t.fetch(ahead, c.z, item.first);
    p.eps = t.noise(item.first, ahead);
  }
  ScalePass scale{}, prior{};
  set_parameters(kernels, c, sampled || valued, false, t, p, scale, prior);
  p.value[0] = t.take();
  p.value[1] = t.take();
  if (valued) {
    kernels.value[c.wide()][static_cast<int>(traits.value)](p);
    sum(0, 0, p.value[0]);
  }
  for (int64_t k = item.first; draws && k < item.last; ++k) {
    const int used = t.used();
    if (k > item.first) p.eps = noise_of(t, c, k);
    p.z = t.room(c.z, k);
    kernels.draw[c.wide()][static_cast<int>(c.draw())](p);
    t.written(c.z, p.z, k);
    for (int j = 0; sampled && c.length && j < traits.values; ++j) sum(j, k, p.value[j]);
    t.release(used);
  }
}

// ---- gradients ------------------------------------------------------------------------------------

// Where a pass adds the gradients of loc, sigma, log sigma, and of the prior's loc and log sigma.
constexpr int kSums = 5;
inline void*& sum_of(DrawPass& p, int j) {
  void** const all[kSums] = {&p.to_loc, &p.to_sigma, &p.to_log_sigma, &p.to_prior_loc,
                             &p.to_prior_log_sigma};
  return *all[j];
}
inline bool has_sum(const DrawCall& c, int j) {
  return j < 2 || (j == 2 && c.traits().sampled()) || (j > 2 && c.traits().parameters > 2);
}

// Adds the gradients of some samples. The noise of the first of them may be there already.
inline void add_samples(const DrawKernels& kernels, const DrawCall& c, const DrawItem& item,
                        DrawTile& t, DrawPass& p) {
  const FamilyTraits& traits = c.traits();
  for (int64_t k = item.first; k < item.last; ++k) {
    const int used = t.used();
    if (k > item.first) p.eps = noise_of(t, c, k);
    p.grad_z = c.z.data ? t.read(c.z, k) : t.zeros();
    for (int j = 0; traits.sampled() && j < traits.values; ++j)
      p.grad_value[j] = gradient_of_value(c, j, k, item.tile, t);
    kernels.draw_backward[c.wide()][static_cast<int>(c.draw())](p);
    t.release(used);
  }
}

// The sums of the gradients of ranges of samples, each a row of `width` numbers for each of kSums, where
// samples are more than one range. Position i of a row is element i % width of what was added up.
class RangeSums {
 public:
  RangeSums(int64_t rows, int64_t width)
      : width_(width), sums_(std::make_unique_for_overwrite<double[]>(
                           static_cast<size_t>(rows * kSums * width))) {}

  template <class T>
  void set(int64_t row, int sum, const T* x, int64_t count) {
    // Many chains of additions side by side: one alone would wait for each of its additions.
    constexpr int64_t kChains = 64;
    const int64_t wide = width_ * std::max(int64_t{1}, kChains / width_);
    double chains[kDrawBytes / 4], *to = at(row, sum);
    if (count == width_) {
      for (int64_t j = 0; j < width_; ++j) to[j] = static_cast<double>(x[j]);
      return;
    }
    std::fill_n(chains, wide, 0.0);
    for (int64_t i = 0; i < count; i += wide)
      for (int64_t j = 0; j < std::min(wide, count - i); ++j)
        chains[j] += static_cast<double>(x[i + j]);
    std::fill_n(to, width_, 0.0);
    for (int64_t i = 0; i < wide; i += width_)
      for (int64_t j = 0; j < width_; ++j) to[j] += chains[i + j];
  }

  // Adds the sums of consecutive rows to x.
  template <class T>
  void add(int64_t row, int64_t rows, int sum, T* x, int64_t count) const {
    double total[kDrawBytes / 4];
    std::fill_n(total, count, 0.0);
    for (int64_t r = row; r < row + rows; ++r)
      for (int64_t j = 0; j < count; ++j) total[j] += at(r, sum)[j];
    for (int64_t j = 0; j < count; ++j) x[j] += static_cast<T>(total[j]);
  }

 private:
  double* at(int64_t row, int sum) const { return sums_.get() + (row * kSums + sum) * width_; }
  int64_t width_;
  std::unique_ptr<double[]> sums_;
};

// The gradients of one range of samples of a tile, as a row of the sums.
inline void backward_item(const DrawKernels& kernels, const DrawCall& c, const DrawItem& item,
                          RangeSums& sums, int64_t row) {
  DrawTile t(kernels, c, item.tile);
  DrawPass p{};
  p.eps = noise_of(t, c, item.first);
  ScalePass scale{}, prior{};
  set_parameters(kernels, c, c.traits().sampled(), true, t, p, scale, prior);
  for (int j = 0; j < kSums; ++j)
    if (has_sum(c, j)) sum_of(p, j) = t.zeros();
  add_samples(kernels, c, item, t, p);
  for (int j = 0; j < kSums; ++j) {
    if (!has_sum(c, j)) continue;
    if (c.wide())
      sums.set(row, j, static_cast<const double*>(sum_of(p, j)), t.count());
    else
      sums.set(row, j, static_cast<const float*>(sum_of(p, j)), t.count());
  }
}

// The gradients of a tile. `sums` has those of the samples, `rows` for each tile; null: they are made.
inline void backward_tile(const DrawKernels& kernels, const DrawCall& c, int64_t tile,
                          const RangeSums* sums, int64_t rows) {
  const FamilyTraits& traits = c.traits();
  const bool sampled = traits.sampled(), any = c.values[0] || c.values[1];
  const bool draws = !sums && (c.z.data || (sampled && any)), valued = !sampled && any;
  const bool logs = (valued || sampled) && traits.scaled;
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
  set_parameters(kernels, c, logs, true, t, p, scale, prior);

  // A value's gradients are written, else there are zeros to add a draw's to.
  const auto room = [&](void* x) {
    if (!valued) std::memset(x, 0, static_cast<size_t>(t.padded() * c.real()));
    return x;
  };
  p.to_loc = room(t.room(c.grads[0]));
  p.to_sigma = room(traits.scaled ? t.take() : t.room(c.grads[1]));
  if (sampled || valued) p.to_log_sigma = room(t.take());
  if (traits.parameters > 2) {
    p.to_prior_loc = room(t.room(c.grads[2]));
    p.to_prior_log_sigma = room(t.take());
  }
  if (valued) {
    p.grad_value[0] = gradient_of_value(c, 0, 0, tile, t);
    kernels.value_backward[c.wide()][static_cast<int>(traits.value)](p);
  }
  if (draws) add_samples(kernels, c, {tile, 0, c.samples}, t, p);
  for (int j = 0; sums && j < kSums; ++j) {
    if (!has_sum(c, j)) continue;
    if (c.wide())
      sums->add(tile * rows, rows, j, static_cast<double*>(sum_of(p, j)), t.count());
    else
      sums->add(tile * rows, rows, j, static_cast<float*>(sum_of(p, j)), t.count());
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

// ---- samples of few elements ----------------------------------------------------------------------

// Several samples whose elements fill at most half a tile, laid side by side: one sample of as many of
// them as a tile holds, and the parameters over and over. `whole` has as many of these as there are,
// `rest` what is left, as a sample of its own; n of either is 0 where it has none. Noise, z, eps and
// the values that are each sample's own lie where they did.
class Folded {
 public:
  static bool suits(const DrawCall& c) { return c.samples > 1 && 2 * c.n <= c.tile_size(); }

  explicit Folded(const DrawCall& c) : whole(c), rest(c) {
    // Whole steps of the kernels, where such a number of samples fits in.
    const int64_t step = std::lcm(c.n, kDrawStep), unit = step <= c.tile_size() ? step : c.n;
    const int64_t all = c.samples * c.n, size = c.tile_size() / unit * unit;
    for (int i = 0; i < c.traits().parameters; ++i) {
      repeat(c, c.params[i], std::min(all, size), params_[i].bytes);
      whole.params[i] = rest.params[i] = Operand{params_[i].bytes};
    }
    for (DrawCall* f : {&whole, &rest}) {
      if (!c.traits().sampled()) f->length = 0;             // they are no sample's
      for (Operand& grad : f->grads) grad = {};
      f->n = f->columns = size;
    }
    whole.samples = all / size;
    if (whole.samples == 0) whole.n = 0;
    const int64_t done = whole.samples * size;
    rest.n = rest.columns = all - done;
    rest.samples = 1;
    rest.origin = done;
    for (Operand* op : {&rest.z, &rest.eps})
      if (op->data) op->data = static_cast<char*>(op->data) + done * c.item();
    for (void*& value : rest.values)
      if (value && rest.length) value = static_cast<char*>(value) + done / rest.length * c.real();
  }

  DrawCall whole, rest;

 private:
  static void repeat(const DrawCall& c, const Operand& op, int64_t count, unsigned char* to) {
    if (const void* p = rows::direct(op, c.item(), c.columns, 0, c.n))
      std::memcpy(to, p, static_cast<size_t>(c.n * c.item()));
    else
      gather(op, c.item(), c.columns, 0, c.n, to);
    for (int64_t have = c.n; have < count; have *= 2)
      std::memcpy(to + have * c.item(), to,
                  static_cast<size_t>(std::min(have, count - have) * c.item()));
  }
  Slot params_[4];
};

}  // namespace fr
