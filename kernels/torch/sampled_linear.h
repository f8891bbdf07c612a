// A linear layer of sampled weights on the CPU: fused_reparam/ops/sampled_linear.py in C++.
//
// The weights are in no memory of their size: a panel of them, some rows, is drawn into a buffer that stays in
// a core's cache, multiplied, and forgotten; the backward pass draws it again. Each thread takes panels of its
// own and multiplies in one thread, so that nobody waits between the many small products. Noise is a function of
// the element's index, and panels begin at whole blocks of it: the weights have the bits of a single draw.
#pragma once

#include <ATen/Parallel.h>

#include "common/huge_pages.h"
#include "common/parallel.h"
#include "torch/elementwise.h"
#include "torch/noise.h"

namespace fr::ops {

struct SampledLinear {
  static constexpr const char* name = "sampled_linear";
  static constexpr const char* node_name = "FusedSampledLinearBackward";
  // x, mu, rho, two parameters of the prior, bias, key; y and the KL
  static constexpr size_t x = 0, mu = 1, bias = 5, key = 6, inputs = 7, kept = 7, outputs = 2, options = 4;
  static constexpr size_t parameters = 4;  // of the draw: inputs 1 to 4
  using Inputs = c10::SmallVector<Tensor, 7>;
  using Needs = std::array<bool, 6>;
  static constexpr std::array<size_t, 6> differentiable{0, 1, 2, 3, 4, 5};

  // Bytes of a panel: a sixteenth of the weights between these, for which a core's cache has room.
  static constexpr int64_t least_bytes = 1 << 18, most_bytes = 1 << 20;
  // Rows of a panel begin at a block of the noise, of four elements at most.
  static constexpr int64_t step = 4;

  using Spec = Elementwise::Spec;  // of the weights: a sample and a sum

  struct Parameters {
    int64_t rows = 0, columns = 0, batch = 0;
    Dims shape;  // of y
  };

  static std::vector<IValue> options_of(const Spec& spec) {
    const std::vector<IValue> all = Elementwise::options_of(spec);
    return {all.begin() + 1, all.begin() + 1 + options};
  }

  static bool parse(const IValue* args, Spec& spec) {
    const IValue all[Elementwise::options] = {c10::List<int64_t>(), args[0], args[1], args[2], args[3],
                                              int64_t{0},           true,    "sum",   int64_t{-1}};
    return Elementwise::parse(all, spec) && spec.family->base == Noise::bases["normal"] &&
           spec.family->base_number < 0;
  }

  static bool check(const Spec& spec, const Inputs& in, Parameters& p) {
    const Tensor &of_x = in[x], &of_mu = in[mu];
    if (!of_x.defined() || !of_mu.defined() || !is_key(in[key])) return false;
    // 16-bit sums over panels would be rounded at each of them.
    const at::ScalarType dtype = of_mu.scalar_type();
    if ((dtype != at::kFloat && dtype != at::kDouble) || of_mu.dim() != 2 || of_x.dim() < 1) return false;
    for (size_t i = 0; i < key; ++i)
      if (in[i].defined() && in[i].scalar_type() != dtype) return false;
    p.rows = of_mu.size(0);
    p.columns = of_mu.size(1);
    if (of_mu.numel() < 1 || of_mu.numel() > most_elements || of_x.numel() < 1 || of_x.size(-1) != p.columns)
      return false;
    p.batch = of_x.numel() / p.columns;
    p.shape = Dims(of_x.sizes().begin(), of_x.sizes().end());
    p.shape.back() = p.rows;
    int64_t n;
    if (__builtin_mul_overflow(p.batch, p.rows, &n) || n > most_elements) return false;
    for (size_t i = 0; i < parameters; ++i) {
      const Tensor& t = in[mu + i];
      if (t.defined() != (static_cast<int64_t>(i) < spec.family->parameters)) return false;
      if (t.defined() && !at::is_expandable_to(t.sizes(), of_mu.sizes())) return false;
    }
    if (in[mu + 1].sizes() != of_mu.sizes()) return false;
    return !in[bias].defined() || (in[bias].dim() == 1 && in[bias].size(0) == p.rows);
  }

  static variable_list forward(const Spec& spec, const Inputs& in, const Parameters& p) {
    at::AutoDispatchBelowADInplaceOrView no_gradients;
    const Tensor y = empty_result({p.batch, p.rows}, in[x].options());
    const Tensor of_x = in[x].reshape({p.batch, p.columns});
    const Panels panels(p, in[mu].element_size());
    std::vector<double> kls(static_cast<size_t>(panels.count));
    for_ranges(panels.count, 1, [&](int64_t begin, int64_t end) {
      at::AutoDispatchBelowADInplaceOrView below;
      const Tensor room = empty_result({panels.rows, p.columns}, in[mu].options());
      for (int64_t i = begin; i < end; ++i) {
        const Panel panel(spec, in, p, panels, i);
        const Tensor w = room.narrow(0, 0, panel.rows);
        kls[static_cast<size_t>(i)] = panel.draw(w, true);
        Tensor to = y.narrow(1, panel.first, panel.rows);
        if (in[bias].defined())
          at::addmm_out(to, in[bias].narrow(0, panel.first, panel.rows), of_x, w.t());
        else
          at::mm_out(to, of_x, w.t());
      }
    });
    double kl = 0;
    for (double part : kls) kl += part;
    return {y.view(p.shape), at::scalar_tensor(kl, term_options(in[mu]))};
  }

  static bool can_differentiate(const Inputs&, const Needs&) { return true; }

  static variable_list backward(const Spec& spec, const Inputs& in, const variable_list& grads,
                                const Needs& needs, bool) {
    Parameters p;
    TORCH_CHECK(check(spec, in, p), name, ": what was saved is no longer what it was");
    at::AutoDispatchBelowADInplaceOrView no_gradients;
    const Backward pass(spec, in, p, grads, needs);
    return pass.found();
  }

  static bool check_grads(const Spec&, const Inputs& in, const Parameters& p, const variable_list& grads) {
    return (!grads[0].defined() ||
            (grads[0].sizes() == IntArrayRef(p.shape) && grads[0].dtype() == in[mu].dtype())) &&
           (!grads[1].defined() || (grads[1].dim() == 0 && grads[1].dtype() == term_options(in[mu]).dtype()));
  }

  template <class Node>
  static void keep(Node& node, const Spec&, const Inputs& in, const variable_list&) {
    for (const Tensor& t : in) node.keep(t);
  }
  static Spec with_gradient(Spec spec) { return spec; }
  static bool visible(const Spec&, size_t) { return true; }

 private:
  // What is written panel by panel asks for its large pages here: no panel is large.
  static Tensor empty_large(IntArrayRef shape, const at::TensorOptions& options) {
    Tensor found = empty_result(shape, options);
    prefer_huge_pages(found.data_ptr(), static_cast<int64_t>(found.nbytes()));
    return found;
  }

  struct Panels {
    int64_t rows, count;

    Panels(const Parameters& p, int64_t item) {
      const int64_t threads = at::get_num_threads();
      const int64_t row = p.columns * item, bytes = std::clamp(row * p.rows / 16, least_bytes, most_bytes);
      const int64_t fit = std::max(step, bytes / row / step * step);
      count = (p.rows + fit - 1) / fit;
      // As many for each thread.
      if (count > 1) count = (count + threads - 1) / threads * threads;
      rows = ((p.rows + count - 1) / count + step - 1) / step * step;
      count = (p.rows + rows - 1) / rows;
    }
  };

  // A part of a parameter that broadcasts to the weights.
  static Tensor rows_of(const Tensor& t, int64_t whole, int64_t first, int64_t rows) {
    return t.defined() && t.dim() == 2 && t.size(0) == whole ? t.narrow(0, first, rows) : t;
  }

  // Some rows of the weights.
  struct Panel {
    int64_t first, rows;
    Spec spec;
    Elementwise::Inputs in = Elementwise::Inputs(Elementwise::inputs);
    Elementwise::Parameters of;

    Panel(const Spec& of_all, const Inputs& all, const Parameters& p, const Panels& panels, int64_t i)
        : first(i * panels.rows), rows(std::min(panels.rows, p.rows - first)), spec(of_all) {
      for (size_t j = 0; j < parameters; ++j) in[j] = rows_of(all[mu + j], p.rows, first, rows);
      // A prior's may have their dims in any way; the weights' own are of their shape.
      const int64_t in_block = all[mu].scalar_type() == at::kDouble ? 2 : 4;
      in[Elementwise::key] = at::empty({2}, all[key].options());
      const auto* from = static_cast<const uint64_t*>(all[key].data_ptr());
      auto* to = static_cast<uint64_t*>(in[Elementwise::key].data_ptr());
      to[0] = from[0];
      to[1] = from[1] + static_cast<uint64_t>(first * p.columns / in_block);
      TORCH_CHECK(Elementwise::check(spec, in, of), name, ": a panel that cannot be drawn");
    }

    // What the key makes of it, in memory.
    void make_noise(const Tensor& room) {
      const Tensor noise = room.narrow(0, 0, rows);
      const auto* bits = static_cast<const uint64_t*>(in[Elementwise::key].data_ptr());
      TORCH_CHECK(!Noise::entry(bits, spec.family->base, 0, dtype_code(noise), noise.numel(), noise.data_ptr()),
                  "the native library failed");
      in[Elementwise::eps] = noise;
    }

    // The weights, and the sum of their KL where it is wanted.
    double draw(const Tensor& w, bool with_kl) const {
      fused_reparam_elementwise call = Elementwise::call_of(spec, in, of);
      call.z_or_grad_z = w.data_ptr();
      double wide = 0;
      float narrow = 0;
      const bool is_wide = w.scalar_type() == at::kDouble;
      if (with_kl) {
        call.terms_or_grads[0] = is_wide ? static_cast<void*>(&wide) : &narrow;
        call.segments = 1;
      }
      Elementwise::compute(call, spec, in, of);
      return is_wide ? wide : narrow;
    }
  };

  // A backward pass: its sums over panels are of ranges of them, one a thread, joined in order.
  class Backward {
   public:
    Backward(const Spec& spec, const Inputs& in, const Parameters& p, const variable_list& grads,
             const Needs& needs)
        : spec_(spec), in_(in), p_(p), needs_(needs), panels_(p, in[mu].element_size()),
          of_x_(in[x].reshape({p.batch, p.columns})), grad_kl_(grads[1]), found_(needs.size()) {
      if (grads[0].defined()) grad_y_ = grads[0].reshape({p.batch, p.rows});
      const bool any = grad_y_.defined() || grad_kl_.defined();
      for (size_t i = mu; i < bias; ++i)
        if (needs[i] && in[i].defined())
          found_[i] = any ? empty_large(in[i].sizes(), in[i].options()) : at::zeros(in[i].sizes(), in[i].options());
      if (needs[bias] && in[bias].defined())
        found_[bias] = grad_y_.defined() ? grad_y_.sum(0) : at::zeros_like(in[bias]);
      std::vector<variable_list> sums(static_cast<size_t>(panels_.count));
      const bool draws = needs[x] && grad_y_.defined();
      const bool writes = any && (needs[1] || needs[2] || needs[3] || needs[4]);
      if (draws || writes)
        for_ranges(panels_.count, 1, [&](int64_t begin, int64_t end) {
          at::AutoDispatchBelowADInplaceOrView below;
          sums[static_cast<size_t>(begin)] = range(begin, end, draws, writes);
        });
      join(sums);
    }

    variable_list found() const { return found_; }

   private:
    // The sums of some panels: of x's gradient, and of those of a prior's numbers.
    variable_list range(int64_t begin, int64_t end, bool draws, bool writes) const {
      variable_list sums(bias);
      const Tensor room = empty_result({panels_.rows, p_.columns}, in_[mu].options());
      // Made once for the weights and for their gradient.
      const Tensor noise = draws && writes ? empty_result(room.sizes(), room.options()) : Tensor();
      if (draws) sums[x] = empty_result({p_.batch, p_.columns}, in_[x].options());
      for (int64_t i = begin; i < end; ++i) {
        Panel panel(spec_, in_, p_, panels_, i);
        if (noise.defined()) panel.make_noise(noise);
        Tensor w = room.narrow(0, 0, panel.rows), of_y;
        if (grad_y_.defined()) of_y = grad_y_.narrow(1, panel.first, panel.rows);
        if (draws) {
          panel.draw(w, false);
          i == begin ? at::mm_out(sums[x], of_y, w) : at::addmm_out(sums[x], sums[x], of_y, w);
        }
        if (!writes) continue;
        if (grad_y_.defined()) at::mm_out(w, of_y.t(), of_x_);  // the weights are not needed any more
        write(panel, grad_y_.defined() ? w : Tensor(), sums);
      }
      return sums;
    }

    void write(const Panel& panel, const Tensor& grad_w, variable_list& sums) const {
      Elementwise::Written written(panel.of.each.size());
      for (size_t j = 0; j < written.size(); ++j) {
        if (!found_[mu + j].defined()) continue;
        const Tensor to = rows_of(found_[mu + j], p_.rows, panel.first, panel.rows);
        const bool whole = to.dim() == 2 && to.size(0) == panel.rows && to.size(1) == p_.columns;
        written[j].tensor = whole ? to : empty_result({panel.rows, p_.columns}, to.options());
      }
      Elementwise::differentiate(panel.spec, panel.in, panel.of, grad_w, {grad_w, grad_kl_, Tensor()},
                                 grad_kl_.defined(), written);
      for (size_t j = 0; j < written.size(); ++j) {
        if (!written[j].defined()) continue;
        Tensor to = rows_of(found_[mu + j], p_.rows, panel.first, panel.rows);
        if (to.is_alias_of(written[j].tensor)) continue;
        const Tensor sum = at::sum_to(written[j].tensor, to.sizes());
        if (to.sizes() != found_[mu + j].sizes())
          to.copy_(sum);
        else
          sums[mu + j] = sums[mu + j].defined() ? sums[mu + j] + sum : sum;
      }
    }

    void join(const std::vector<variable_list>& sums) {
      if (needs_[x] && !grad_y_.defined()) found_[x] = at::zeros(in_[x].sizes(), in_[x].options());
      for (const variable_list& part : sums)
        for (size_t i = 0; i < part.size(); ++i) {
          if (!part[i].defined()) continue;
          const Tensor sum = i == x ? part[i].view(in_[x].sizes()) : part[i];
          found_[i] = joined_.at(i) ? found_[i].add_(sum) : sum;
          joined_.at(i) = true;
        }
    }

    const Spec& spec_;
    const Inputs& in_;
    const Parameters& p_;
    const Needs& needs_;
    const Panels panels_;
    const Tensor of_x_, grad_kl_;
    Tensor grad_y_;
    variable_list found_;
    std::array<bool, bias> joined_{};
  };
};

}  // namespace fr::ops
