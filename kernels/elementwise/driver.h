// The element-wise families over whole tensors: the passes over a tile, ranges of samples, and samples of
// few elements side by side.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>

#include "elementwise/terms.h"

namespace fr {

// ---- the passes over a tile -------------------------------------------------------------------------

// sigma and what else is wanted of a scale keyword's parameter.
inline ScalePass scale_pass(const ElementwiseKernels& kernels, const ElementwiseCall& c, const void* x,
                            Kind kind, bool prior, bool want_log, bool want_gradient,
                            ElementwiseTile& t) {
  ScalePass p{t.padded(), prior ? -kInfinity : c.low, prior ? kInfinity : c.high, x, t.take(),
              want_log ? t.take() : nullptr, want_gradient ? t.take() : nullptr,
              want_gradient ? t.take() : nullptr};
  kernels.scale[c.wide()][prior][static_cast<int>(kind)](p);
  return p;
}

// Reads the parameters into a pass.
inline void set_parameters(const ElementwiseKernels& kernels, const ElementwiseCall& c, bool want_log,
                           bool want_gradient, ElementwiseTile& t, TilePass& p, ScalePass& scale,
                           ScalePass& prior) {
  const FamilyFacts& family = c.family;
  p.count = t.padded();
  p.constants = c.constants;
  p.given = c.given;
  p.loc = t.read(c.params[0]);
  if (family.parameters > 1) p.sigma = t.read(c.params[1]);
  if (family.scaled) {
    scale = scale_pass(kernels, c, p.sigma, c.kind, false, want_log, want_gradient, t);
    p.sigma = scale.sigma;
    p.log_sigma = scale.log_sigma;
  }
  if (family.parameters > 2) p.prior_loc = t.read(c.params[2]);
  if (family.parameters > 3 && !family.prior_scaled()) p.prior_sigma = t.read(c.params[3]);
  if (family.prior_scaled()) {
    prior = scale_pass(kernels, c, t.read(c.params[3]), c.prior_kind, true, want_log, want_gradient, t);
    p.prior_sigma = prior.sigma;
    p.prior_log_sigma = prior.log_sigma;
  }
  const auto any_of = [](auto x, auto... all) { return ((x == all) || ...); };
  const bool gaussian = any_of(family.transform, Transform::log_prob, Transform::log_prob_prior) ||
                        any_of(family.term, Term::gaussian, Term::gaussian_prior);
  p.far = gaussian && want_log && kernels.far[c.wide()](p, t.count());
  if (!p.far) return;
  for (void** x : {&p.distance, &p.ratio, &p.first, &p.second}) *x = t.take();
  if (want_gradient) {
    p.dsigma = scale.dsigma;
    p.dlog_sigma = scale.dlog_sigma;
    p.prior_dlog_sigma = prior.dlog_sigma;
    p.dratio = t.take();
    p.unit = t.take();
  }
  kernels.in_prior[c.wide()][family.prior_scaled()](p, family.sampled());
}

// Sample k's noise, and what else its pass reads, while operands that are wanted next are fetched.
inline const void* noise_of(ElementwiseTile& t, const ElementwiseCall& c, int64_t k, void* slope = nullptr) {
  FetchList ahead{{}, 0, c.item()};
  t.fetch(ahead, c.z, k);
  return t.noise(k, ahead, slope);
}

inline void forward_item(const Kernels& common, const ElementwiseKernels& kernels, const ElementwiseCall& c,
                         const TileItem& item, const PartialSums& partial) {
  const FamilyFacts& family = c.family;
  const bool sampled = family.sampled(), draws = c.z.data || (sampled && c.length);
  const bool has_terms = !sampled && c.length && item.first == 0;
  ElementwiseTile t(kernels, c, item.tile);
  const auto sum = [&](int term, int64_t run, const void* x) {
    PartialSums::Pair* pairs = pairs_of(c, partial, term, run);
    if (c.wide())
      sum_terms(common, c, term, run, item.tile, static_cast<const double*>(x), pairs);
    else
      sum_terms(common, c, term, run, item.tile, static_cast<const float*>(x), pairs);
  };
  // The first sample's noise comes first: meanwhile the operands come from memory.
  TilePass p{};
  if (draws) {
    FetchList ahead{{}, 0, c.item()};
    for (const Operand& op : c.params) t.fetch(ahead, op);
    t.fetch(ahead, c.z, item.first);
    p.eps = t.noise(item.first, ahead);
  }
  ScalePass scale{}, prior{};
  set_parameters(kernels, c, sampled || has_terms, false, t, p, scale, prior);
  p.term[0] = t.take();
  p.term[1] = t.take();
  if (has_terms) {
    kernels.formulas[c.wide()].term[static_cast<int>(family.term)](p);
    sum(0, 0, p.term[0]);
  }
  for (int64_t k = item.first; draws && k < item.last; ++k) {
    const int used = t.used();
    if (k > item.first) p.eps = noise_of(t, c, k);
    p.z = t.room(c.z, k);
    kernels.formulas[c.wide()].transform[static_cast<int>(c.family.transform)](p);
    t.written(c.z, p.z, k);
    for (int j = 0; sampled && c.length && j < family.terms; ++j) sum(j, k, p.term[j]);
    t.release(used);
  }
}

// ---- gradients ------------------------------------------------------------------------------------

// Where a pass adds the gradients of loc, sigma, log sigma, of the prior's loc and log sigma, and in a
// tile with far numbers of the ratio to the prior.
constexpr int kSums = 6;
inline void*& sum_of(TilePass& p, int j) {
  void** const all[kSums] = {&p.to_loc, &p.to_sigma, &p.to_log_sigma, &p.to_prior_loc,
                             &p.to_prior_log_sigma, &p.to_ratio};
  return *all[j];
}
inline bool has_sum(const ElementwiseCall& c, const TilePass& p, int j) {
  if (j == 2) return c.family.sampled();
  if (j == 5) return c.family.sampled() && p.far;
  return j < 2 || c.family.parameters >= j;
}

// Adds the gradients of some samples. The noise of the first of them may be there already.
inline void add_samples(const ElementwiseKernels& kernels, const ElementwiseCall& c, const TileItem& item,
                        ElementwiseTile& t, TilePass& p) {
  const FamilyFacts& family = c.family;
  for (int64_t k = item.first; k < item.last; ++k) {
    const int used = t.used();
    if (k > item.first) p.eps = noise_of(t, c, k, p.slope);
    p.grad_z = c.z.data ? t.read(c.z, k) : t.zeros();
    for (int j = 0; family.sampled() && j < family.terms; ++j)
      p.grad_term[j] = gradient_of_term(c, j, k, item.tile, t);
    kernels.formulas[c.wide()].transform_backward[static_cast<int>(c.family.transform)](p);
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
    double chains[kTileBytes / 4], *to = at(row, sum);
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
    double total[kTileBytes / 4];
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
inline void backward_item(const ElementwiseKernels& kernels, const ElementwiseCall& c, const TileItem& item,
                          RangeSums& sums, int64_t row) {
  ElementwiseTile t(kernels, c, item.tile);
  TilePass p{};
  if (c.numbered()) p.slope = t.take();
  p.eps = noise_of(t, c, item.first, p.slope);
  ScalePass scale{}, prior{};
  set_parameters(kernels, c, c.family.sampled(), true, t, p, scale, prior);
  for (int j = 0; j < kSums; ++j)
    if (has_sum(c, p, j)) sum_of(p, j) = t.zeros();
  add_samples(kernels, c, item, t, p);
  for (int j = 0; j < kSums; ++j) {
    if (!has_sum(c, p, j)) continue;
    if (c.wide())
      sums.set(row, j, static_cast<const double*>(sum_of(p, j)), t.count());
    else
      sums.set(row, j, static_cast<const float*>(sum_of(p, j)), t.count());
  }
}

// The gradients of a tile. `sums` has those of the samples, `rows` for each tile; null: they are made.
inline void backward_tile(const ElementwiseKernels& kernels, const ElementwiseCall& c, int64_t tile,
                          const RangeSums* sums, int64_t rows) {
  const FamilyFacts& family = c.family;
  const bool sampled = family.sampled(), any = c.terms[0] || c.terms[1];
  const bool draws = !sums && (c.z.data || (sampled && any)), has_terms = !sampled && any;
  const bool logs = (has_terms || sampled) && family.scaled;
  ElementwiseTile t(kernels, c, tile);
  TilePass p{};
  if (draws) {
    FetchList ahead{{}, 0, c.item()};
    for (const Operand& op : c.params) t.fetch(ahead, op);
    t.fetch(ahead, c.z);
    for (const Operand& op : c.grads) t.fetch(ahead, op);
    if (c.numbered() && c.grads[2].data) p.slope = t.take();
    p.eps = t.noise(0, ahead, p.slope);
  }
  ScalePass scale{}, prior{};
  set_parameters(kernels, c, logs, true, t, p, scale, prior);

  // A term's gradients are written, else there are zeros to add a draw's to.
  const auto room = [&](void* x) {
    if (!has_terms) std::memset(x, 0, static_cast<size_t>(t.padded() * c.real()));
    return x;
  };
  p.to_loc = room(t.room(c.grads[0]));
  p.to_sigma = room(family.scaled ? t.take() : t.room(c.grads[1]));
  if (sampled || has_terms) p.to_log_sigma = room(t.take());
  if (p.far) p.to_ratio = room(t.take());
  if (family.parameters > 2) p.to_prior_loc = room(t.room(c.grads[2]));
  if (family.parameters > 3)
    p.to_prior_log_sigma = room(family.prior_scaled() ? t.take() : t.room(c.grads[3]));
  if (has_terms) {
    p.grad_term[0] = gradient_of_term(c, 0, 0, tile, t);
    p.first_wanted = draws || c.grads[0].data;
    kernels.formulas[c.wide()].term_backward[static_cast<int>(family.term)](p);
  }
  if (draws) add_samples(kernels, c, {tile, 0, c.samples}, t, p);
  for (int j = 0; sums && j < kSums; ++j) {
    if (!has_sum(c, p, j)) continue;
    if (c.wide())
      sums->add(tile * rows, rows, j, static_cast<double*>(sum_of(p, j)), t.count());
    else
      sums->add(tile * rows, rows, j, static_cast<float*>(sum_of(p, j)), t.count());
  }

  // From sigma and log sigma to the scale's own parameter.
  const auto to_scale = [&](const Operand& op, const ScalePass& s, const void* sigma, const void* log,
                            const void* ratio) {
    if (!op.data) return;
    void* out = t.room(op);
    kernels.scale_gradient[c.wide()](s, sigma, log, ratio, p.dratio, out);
    t.written(op, out);
  };
  t.written(c.grads[0], p.to_loc);
  if (family.scaled)
    to_scale(c.grads[1], scale, p.to_sigma, p.to_log_sigma, p.to_ratio);
  else
    t.written(c.grads[1], p.to_sigma);
  if (family.parameters > 2) t.written(c.grads[2], p.to_prior_loc);
  if (family.prior_scaled())
    to_scale(c.grads[3], prior, nullptr, p.to_prior_log_sigma, nullptr);
  else if (family.parameters > 3)
    t.written(c.grads[3], p.to_prior_log_sigma);
}

// ---- samples of few elements ----------------------------------------------------------------------

// Several samples whose elements fill at most half a tile, laid side by side: one sample of as many of
// them as a tile holds, and the parameters over and over. `whole` has as many of these as there are,
// `rest` what is left, as a sample of its own; n of either is 0 where it has none. Noise, z, eps and
// the terms that are each sample's own lie where they did.
class Folded {
 public:
  static bool suits(const ElementwiseCall& c) { return c.samples > 1 && 2 * c.n <= c.tile_size(); }

  explicit Folded(const ElementwiseCall& c) : whole(c), rest(c) {
    // Whole steps of the kernels, where such a number of samples fits in.
    const int64_t step = std::lcm(c.n, kTileStep), unit = step <= c.tile_size() ? step : c.n;
    const int64_t all = c.samples * c.n, size = c.tile_size() / unit * unit;
    for (int i = 0; i < c.family.parameters; ++i) {
      repeat(c, c.params[i], std::min(all, size), params_[i].bytes);
      whole.params[i] = rest.params[i] = Operand{params_[i].bytes};
    }
    for (ElementwiseCall* f : {&whole, &rest}) {
      if (!c.family.sampled()) f->length = 0;             // they are no sample's
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
    for (void*& term : rest.terms)
      if (term && rest.length) term = static_cast<char*>(term) + done / rest.length * c.real();
  }

  ElementwiseCall whole, rest;

 private:
  static void repeat(const ElementwiseCall& c, const Operand& op, int64_t count, unsigned char* to) {
    if (const void* p = strided::direct(op, c.item(), c.columns, 0, c.n))
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
