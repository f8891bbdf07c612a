// Gumbel-softmax over whole tensors: how logits are cut into panels, and a panel's way forward and
// back. Logits are (O, C, I): what lies outside the classes, the classes, what lies inside.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "softmax/panels.h"

namespace fr {

// As families/categorical.py has them.

struct SoftmaxCall {
  Dtype dtype;
  Mode mode;
  int64_t outer, classes, inner;
  bool turned;              // see Cut
  Strided logits, noise, y, soft, grad_y, grad_logits;
  void *kl, *grad_kl;
  uint64_t seed, offset;
  double number;            // tau, or in mode one_hot unimix, where there is not one for each variable:
  const void* each;         // (outer, inner), consecutive
  bool mixes;               // whether the mixture of mode one_hot has to be made
};

// Memory for a panel's numerators, which wait until their sum is known, and for the maximum that each
// block's numerators are relative to. Most panels keep their numerators in the output, where the shares
// will be: for these nothing is allocated.
class Scratch {
 public:
  Scratch(const Cut& cut)
      : cut_(cut), references_(allocate(cut.blocks())) {}
  Steps numerators(int64_t first) {
    if (!numerators_) numerators_ = allocate(cut_.steps);
    return {numerators_.get() + first * step_bytes(), cut_.width};
  }
  void* reference(int64_t block) const { return references_.get() + block * step_bytes(); }

 private:
  using Memory = std::unique_ptr<unsigned char[]>;
  int64_t step_bytes() const { return cut_.width * cut_.real; }
  Memory allocate(int64_t steps) const {
    return std::make_unique_for_overwrite<unsigned char[]>(static_cast<size_t>(steps * step_bytes()));
  }

  const Cut& cut_;
  Memory references_, numerators_;
};

// Computes one panel after another.
class SoftmaxPanels {
 public:
  SoftmaxPanels(const ElementwiseKernels& common, const SoftmaxKernels& kernels, const SoftmaxCall& call,
                const Cut& cut)
      : k_(kernels), c_(call), cut_(cut), wide_(call.dtype == Dtype::f64), scratch_(cut),
        stage_(common, call.dtype, cut) {
    for (int i = 0; i < 8; ++i) *lists_[i] = state_[i];
    for (int64_t i = 0; !c_.each && i < cut_.width; ++i) set_rate(i, c_.number);
  }

  void forward(int64_t unit) {
    cut_.for_panels(unit, [&](const Panel& panel) { forward_panel(panel); });
  }
  void backward(int64_t unit) {
    cut_.for_panels(unit, [&](const Panel& panel) { backward_panel(panel); });
  }

 private:
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();

  void forward_panel(const Panel& p) {
    const bool mixes = c_.mixes;
    const bool chooses = c_.y.data && c_.mode != Mode::soft;
    const bool softens = c_.soft.data || (c_.y.data && c_.mode == Mode::soft);
    begin(p);
    find_top(p);
    if (c_.kl || (c_.y.data && mixes)) find_stats(p, {});
    if (c_.kl) put_divergence(p);
    if (!c_.y.data) return;
    each_block([&](const Block& b, int64_t block) {
      Steps score = logits(p, b);
      const void* top = r_.top;
      if (mixes) {
        const Steps mixed = stage_.slot(kScore, b);
        k_.mix[wide_](b, score, rates_, even_, r_, mixed);
        stage_.fill_up(mixed, p, b, -kInfinity);
        score = mixed;
        top = zeros_;
      }
      const Steps total = softens ? numerators(p, b) : stage_.slot(kScore, b);
      k_.add[wide_](b, score, top, noise(p, b), total);
      if (chooses) k_.choose[wide_](b, total, r_);
      if (softens) k_.soften[wide_](b, total, rates_, r_, total, scratch_.reference(block));
    });
    if (cut_.rows && softens) k_.join_soft[wide_](cut_.width, rates_, r_);
    if (cut_.rows && chooses) k_.join_best[wide_](cut_.width, r_);
    if (chooses && without_tau_) spoil_best();
    each_block([&](const Block& b, int64_t block) {
      if (chooses) write(p, b, c_.y, [&](Steps out) { k_.one_hot[wide_](b, r_, out); });
      if (softens)
        write(p, b, shares(), [&](Steps out) {
          k_.share[wide_](b, numerators(p, b), rates_, r_, scratch_.reference(block), out);
        });
    });
  }

  void backward_panel(const Panel& p) {
    const bool through_soft = c_.grad_y.data && c_.mode != Mode::one_hot;
    const bool through_shares = c_.grad_kl || (c_.grad_y.data && !through_soft);
    const Strided grad = through_soft ? Strided{} : c_.grad_y;
    begin(p);
    if (through_shares) {
      find_top(p);
      find_stats(p, grad);
      if (c_.grad_kl) stage_.read_inner(c_.grad_kl, p, weights_);
    }
    // Of the stats, dot is of one gradient; soft's comes first and is kept aside.
    Reduced soft = r_;
    soft.dot = soft_dot_;
    if (through_soft) {
      each_block([&](const Block& b, int64_t) {
        k_.dot[wide_](b, read(p, b, c_.grad_y, kGrad), read(p, b, c_.soft, kSoft), soft);
      });
      if (cut_.rows) k_.join_dot[wide_](cut_.width, soft);
    }
    each_block([&](const Block& b, int64_t) {
      write(p, b, c_.grad_logits, [&](Steps out) {
        if (through_soft)
          k_.soft_gradient[wide_](b, read(p, b, c_.grad_y, kGrad), read(p, b, c_.soft, kSoft),
                                  rates_, soft, out);
        if (through_shares)
          k_.share_gradient[wide_](b, logits(p, b), grad.data ? read(p, b, grad, kGrad) : Steps{},
                                   rates_, c_.grad_kl ? weights_ : nullptr, through_soft, r_, out);
      });
    });
  }

  void begin(const Panel& p) {
    stage_.begin();
    if (c_.each) read_rates(p);
    const auto bytes = static_cast<size_t>(cut_.width * cut_.real);
    for (void** list : lists_) std::memset(*list, 0, bytes);
    std::memset(soft_dot_, 0, bytes);
    for (int64_t i = 0; i < cut_.width; ++i) {
      set(r_.top, i, lowest());
      set(r_.max, i, lowest());
      set(r_.best, i, -kInfinity);
    }
  }
  void find_top(const Panel& p) {
    each_block([&](const Block& b, int64_t) {
      k_.top[wide_](b, logits(p, b), r_);
    });
    if (cut_.rows) k_.join_top[wide_](cut_.width, r_);
  }
  void find_stats(const Panel& p, const Strided& grad) {
    each_block([&](const Block& b, int64_t) {
      k_.stats[wide_](b, logits(p, b), grad.data ? read(p, b, grad, kGrad) : Steps{}, r_);
    });
    if (cut_.rows) k_.join_stats[wide_](cut_.width, r_);
  }
  void put_divergence(const Panel& p) {
    k_.divergence[wide_](cut_.width, static_cast<double>(c_.classes), r_, weights_);
    stage_.write_inner(weights_, c_.kl, p);
  }

  template <class F>
  void each_block(const F& f) {
    for (int64_t block = 0; block < cut_.blocks(); ++block) f(cut_.block(block), block);
  }

  const Strided& shares() const { return c_.mode == Mode::soft ? c_.y : c_.soft; }
  // Where the shares will be, if that is memory of Reals: no second buffer passes through the caches.
  Steps numerators(const Panel& p, const Block& b) {
    return stage_.direct(shares(), p, b) ? stage_.where(shares(), p, b) : scratch_.numerators(b.first);
  }

  Steps read(const Panel& p, const Block& b, const Strided& from, int slot) {
    return stage_.read(from, p, b, slot, 0.0);
  }
  // Classes that only fill a register up are as good as none.
  Steps logits(const Panel& p, const Block& b) { return stage_.read(c_.logits, p, b, kLogits, -kInfinity); }
  NoiseSteps noise(const Panel& p, const Block& b) {
    if (!c_.noise.data) return stage_.noise(k_.noise[wide_], c_.seed, c_.offset, p, b);
    const Steps given = read(p, b, c_.noise, kGrad);
    return {given.data, given.stride, 0, 0, 0};
  }
  template <class F>
  void write(const Panel& p, const Block& b, const Strided& to, const F& compute) {
    const Steps out = stage_.room(to, p, b, kOut);
    compute(out);
    stage_.written(out, to, p, b);
  }

  double lowest() const {
    return wide_ ? -std::numeric_limits<double>::max() : -std::numeric_limits<float>::max();
  }
  void set(void* list, int64_t i, double x) const {
    if (wide_)
      static_cast<double*>(list)[i] = x;
    else
      static_cast<float*>(list)[i] = static_cast<float>(x);
  }

  double get(const void* list, int64_t i) const {
    return wide_ ? static_cast<const double*>(list)[i] : static_cast<const float*>(list)[i];
  }

  // A temperature's inverse, and neither is denormal or infinite; NaN of none above 0.
  double inverse(double tau) {
    if (!(tau > 0)) {
      without_tau_ = true;
      return std::numeric_limits<double>::quiet_NaN();
    }
    return 1 / std::fmin(std::fmax(tau, 0x1p-126), 0x1p126);
  }
  void set_rate(int64_t i, double number) {
    const bool mixed = c_.mode == Mode::one_hot;
    set(rates_, i, mixed ? 1 - number : inverse(number));
    if (mixed) set(even_, i, number / static_cast<double>(c_.classes));
  }
  // Of a row without a temperature no class is chosen: all of y is NaN.
  void spoil_best() {
    for (int64_t i = 0; i < cut_.width; ++i) {
      const double rate = get(rates_, i);
      if (std::isnan(rate)) set(r_.best, i, rate);
    }
  }
  void read_rates(const Panel& p) {
    stage_.read_inner(c_.each, p, rates_);
    for (int64_t i = 0; i < cut_.width; ++i) set_rate(i, get(rates_, i));
  }

  const SoftmaxKernels& k_;
  const SoftmaxCall& c_;
  const Cut& cut_;
  const bool wide_;
  bool without_tau_ = false;  // whether a temperature of the call is none above 0
  Scratch scratch_;
  SoftmaxStage stage_;
  alignas(64) unsigned char state_[8][Cut::kWidthBytes], soft_dot_[Cut::kWidthBytes];
  alignas(64) unsigned char weights_[Cut::kWidthBytes], zeros_[Cut::kWidthBytes] = {};
  // 1 / tau; in mode one_hot 1 - unimix, and even_ unimix / classes.
  alignas(64) unsigned char rates_[Cut::kWidthBytes], even_[Cut::kWidthBytes];
  Reduced r_{};
  void** const lists_[8] = {&r_.top, &r_.sum,      &r_.weighted, &r_.dot,
                            &r_.max, &r_.soft_sum, &r_.best,     &r_.at};
};

}  // namespace fr
