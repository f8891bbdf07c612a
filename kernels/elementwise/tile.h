// A call of the element-wise families: its operands, sizes and constants, and a tile of it with the room
// that its passes work in.
//
// The work is cut into items: a tile of the parameters' elements, and a range of the samples. Samples
// are cut only where there are many of them and few tiles, and samples of few elements are first laid
// side by side (see Folded), so that threads and vectors are in use whatever the shape is.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "elementwise/interface.h"
#include "common/operand.h"
#include "common/segments.h"

namespace fr {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct ElementwiseCall {
  Dtype dtype;
  FamilyFacts family;
  Kind kind, prior_kind;
  int64_t n, samples, columns;
  int64_t length;           // how many elements a term is the sum of; 0: no terms
  int64_t origin;           // of the stream: the index of sample 0's first element
  Operand params[4], eps, z, grads[4];  // backward: z is its gradient
  void* terms[2];          // backward: their gradients
  bool given;               // whether eps is the caller's, of no key
  uint64_t seed, offset;
  double low, high, number, factor, constants[kConstants];

  int64_t item() const { return kItemSize[static_cast<int>(dtype)]; }
  bool wide() const { return dtype == Dtype::f64; }
  bool numbered() const { return family.transform == Transform::student_t; }  // whether p2 decides the noise
  int64_t real() const { return wide() ? 8 : 4; }
  int64_t tile_size() const { return kTileBytes / real(); }
  int64_t tiles() const { return (n + tile_size() - 1) / tile_size(); }
  bool large() const { return samples * n * item() >= kLarge; }
  // How many runs over the parameters give terms: sums never cross from one to the next.
  int64_t runs() const { return family.sampled() ? samples : 1; }
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
struct TileItem {
  int64_t tile, first, last;
};
inline TileItem item_of(const ElementwiseCall& c, int64_t index) {
  const int64_t ranges = c.ranges(), range = index % ranges;
  const int64_t each = c.samples / ranges, more = c.samples % ranges;
  const int64_t first = range * each + std::min(range, more);
  return {index / ranges, first, first + each + (range < more)};
}

// The constants that the formulas take: the family's numbers (fused_reparam/families), or what follows
// from them.
inline void set_constants(ElementwiseCall& c, const double (&constants)[6]) {
  constexpr double kLog2 = 0.69314718055994530942;
  const auto set = [&](double a, double b, double d, double e = -kInfinity, double f = 0) {
    const double all[kConstants] = {a, b, d, e, f};
    std::memcpy(c.constants, all, sizeof all);
  };
  const double mean = constants[2], std = constants[3];
  const double most = c.wide() ? std::numeric_limits<double>::max() : std::numeric_limits<float>::max();
  const double inverse = std::fmin(1 / std, most);          // 0 times it is 0
  c.low = c.family.scaled ? constants[0] : -kInfinity;
  c.high = c.family.scaled ? constants[1] : kInfinity;
  std::memcpy(c.constants, constants, sizeof c.constants);
  if (c.family.scaled) set(0, 1, 0);
  switch (c.family.transform) {
    case Transform::linear:
      if (c.family.term == Term::gaussian) return set(mean, inverse, std::log(std), constants[4]);
      if (c.family.term == Term::gaussian_prior) return set(0, 1, 0, constants[2]);
      if (c.family.term == Term::tanh_normal_density)
        return set(constants[2], constants[3], constants[4], std::log(0.5 * (constants[3] - constants[2])),
                   constants[3] - constants[2]);
      return;
    case Transform::log_prob: return set(mean, inverse, std::log(std));
    case Transform::mixture: {
      double wide = constants[4], narrow = constants[5];
      double log_wide = std::log(constants[3]) - std::log(wide);
      double log_narrow = std::log1p(-constants[3]) - std::log(narrow);
      if (wide < narrow) {
        std::swap(wide, narrow);
        std::swap(log_wide, log_narrow);
      }
      const double ratio = wide / narrow;
      // Float's: not 0, which times an infinite square would be NaN, and nothing infinite.
      const double fall = std::fmin(std::fmax(0.5 * (ratio * ratio - 1), 0x1p-126), 0x1p126);
      return set(mean, 1 / wide, log_wide - kHalfLogTwoPi, log_narrow - log_wide, fall);
    }
    case Transform::tanh_normal:
    case Transform::tanh_normal_score: {
      const double lowest = constants[2], highest = constants[3], half = 0.5 * (highest - lowest);
      return set(0.5 * (highest + lowest), half, -kHalfLogTwoPi - std::log(half) - 2 * kLog2, lowest,
                 highest);
    }
    case Transform::tanh_normal_between:
    case Transform::tanh_normal_score_between:              // half the spacing, where one is given
      return set(0.5 * constants[2], 0, -kHalfLogTwoPi - 2 * kLog2);
    case Transform::relaxed_bernoulli:
    case Transform::hard_bernoulli: return set(1 / constants[0], 0, 0);
    default: return;
  }
}

// A tile of a call, with room for what its passes work on.
class ElementwiseTile {
 public:
  ElementwiseTile(const ElementwiseKernels& kernels, const ElementwiseCall& call, int64_t tile)
      : k_(kernels), c_(call), begin_(tile * call.tile_size()) {
    const int64_t left = c_.n - begin_;
    count_ = left < c_.tile_size() ? left : c_.tile_size();
    padded_ = (count_ + kTileStep - 1) / kTileStep * kTileStep;
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
    const void* raw = strided::direct(op, item, c_.columns, first, count_);
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
    void* p = op.data ? strided::direct(op, c_.item(), c_.columns, k * c_.n + begin_, count_) : nullptr;
    return p && c_.item() > 2 && count_ == padded_ ? p : take();
  }
  void written(const Operand& op, const void* reals, int64_t k = 0) {
    if (!op.data) return;
    const int64_t item = c_.item(), first = k * c_.n + begin_;
    void* p = strided::direct(op, item, c_.columns, first, count_);
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

  // Sample k's base noise: given, or made, while operands are fetched. `slope` as in BaseNumber.
  const void* noise(int64_t k, const FetchList& ahead, void* slope = nullptr) {
    if (c_.eps.data) return read(c_.eps, k);
    if (c_.numbered() && !number_known_) read_number();
    number_.slope = slope;
    return k_.noise(c_.wide(), c_.family.base, number_, c_.seed, c_.offset,
                    c_.origin + k * c_.n + begin_, count_, noise_, ahead);
  }

  void fetch(FetchList& list, const Operand& op, int64_t k = 0) const {
    if (!op.data || !c_.large()) return;
    const void* p = strided::direct(op, c_.item(), c_.columns, k * c_.n + begin_, count_);
    if (p) list.operand[list.count++] = p;
  }

 private:
  // What the noise takes of a parameter: of one that is the same everywhere a number.
  void read_number() {
    const Operand& op = c_.params[2];
    const void* each = read(op);
    number_known_ = true;
    if (op.linear || op.row_stride || op.column_stride) {
      number_.each = each;
      return;
    }
    const double one = c_.wide() ? *static_cast<const double*>(each) : *static_cast<const float*>(each);
    number_.one = one > 0 ? one : std::numeric_limits<double>::quiet_NaN();
  }

  const ElementwiseKernels& k_;
  const ElementwiseCall& c_;
  int64_t begin_, count_, padded_;
  int used_ = 0;
  BaseNumber number_{c_.number};
  bool number_known_ = false;
  Slot slots_[32], raw_;
  alignas(64) unsigned char noise_[kNoiseBytes];
};

}  // namespace fr
