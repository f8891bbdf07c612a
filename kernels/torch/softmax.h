// The Gumbel-softmax op on the CPU: fused_reparam/ops/softmax*.py in C++.
#pragma once

#include <array>
#include <limits>

#include "torch/layout.h"

namespace fr::ops {

using SoftmaxEntry = int (*)(const fused_reparam_softmax*);

struct GumbelSoftmax {
  static constexpr const char* name = "gumbel_softmax";
  static constexpr const char* node_name = "FusedGumbelSoftmaxBackward";
  // logits, key, noise, control; y, soft, kl; saved are logits, soft and control
  static constexpr size_t inputs = 4, outputs = 3, options = 8, kept = 3;
  using Inputs = c10::SmallVector<Tensor, 6>;
  using Needs = std::array<bool, 2>;
  static constexpr std::array<size_t, 2> differentiable{0, 3};

  inline static SoftmaxEntry forward_entry = nullptr, backward_entry = nullptr;

  // As fused_reparam/families/categorical.py numbers them.
  static constexpr auto soft = static_cast<int64_t>(Mode::soft), hard = static_cast<int64_t>(Mode::hard),
                        one_hot = static_cast<int64_t>(Mode::one_hot);

  struct Spec {
    Dims order;
    bool ordered;  // whether the order was given; else it is the logits'
    int64_t mode;
    double tau, unimix;
    int64_t dim;
    bool want_y, want_soft;
    std::optional<Reduction> reduction;
  };

  // Logits, or what is shaped like them, as (outer, classes, inner) in memory order.
  struct Parameters {
    Tensor like;
    Dims variables, order_of_variables;  // the shape without the classes
    int64_t outer = 1, classes = 1, inner = 1;
  };

  static bool parse(const IValue* args, Spec& spec) {
    spec.ordered = !args[0].isNone();
    if (spec.ordered)
      for (const IValue& d : args[0].toListRef()) spec.order.push_back(d.toInt());
    spec.mode = args[1].toInt();
    spec.tau = args[2].toDouble();
    spec.unimix = args[3].toDouble();
    spec.dim = args[4].toInt();
    spec.want_y = args[5].toBool();
    spec.want_soft = args[6].toBool();
    if (!args[7].isNone()) {
      spec.reduction = reduction_of(args[7].toStringRef());
      if (!spec.reduction || *spec.reduction == Reduction::last) return false;
    }
    return spec.mode >= soft && spec.mode <= one_hot && spec.tau >= 0x1p-126 && spec.tau <= 0x1p126 &&
           spec.unimix >= 0 && spec.unimix < 1 && (!spec.want_soft || (spec.mode == hard && spec.want_y));
  }

  // The same the other way round, the order settled.
  static std::vector<IValue> options_of(const Spec& spec) {
    return {c10::List<int64_t>(spec.order), spec.mode, spec.tau, spec.unimix, spec.dim, spec.want_y,
            spec.want_soft, name_of(spec.reduction)};
  }

  static bool shape_fits(Spec& spec, const Tensor& like, Parameters& p) {
    if (!like.defined() || dtype_code(like) < 0 || like.numel() == 0 || like.numel() > most_elements ||
        spec.dim < 0 || spec.dim >= like.dim() || like.size(spec.dim) > INT32_MAX)
      return false;
    if (!spec.ordered) spec.order = memory_order(like);
    spec.ordered = true;
    if (!reducible(spec.reduction, like.dim() - 1)) return false;
    if (!is_permutation(spec.order, like.dim())) return false;
    p.like = like;
    p.classes = like.size(spec.dim);
    for (int64_t i = 0; i < like.dim(); ++i)
      if (i != spec.dim) p.variables.push_back(like.size(i));
    bool inside = false;
    for (int64_t i = 0; i < like.dim(); ++i) {
      const int64_t d = spec.order.empty() ? i : spec.order[static_cast<size_t>(i)];
      if (d == spec.dim) {
        inside = true;
        continue;
      }
      (inside ? p.inner : p.outer) *= like.size(d);
      if (!spec.order.empty()) p.order_of_variables.push_back(d - (d > spec.dim));
    }
    return true;
  }

  static bool check(Spec& spec, const Inputs& in, Parameters& p) {
    const auto& [logits, key, noise] = std::tie(in[0], in[1], in[2]);
    if (!shape_fits(spec, logits, p) || !control_fits(spec, logits, in[3])) return false;
    if (key.defined() && !is_key(key)) return false;
    if (!noise.defined()) return key.defined() || !spec.want_y;
    return noise.scalar_type() == logits.scalar_type() && noise.sizes() == logits.sizes();
  }

  // Whether it is one number, or one for each variable, of the type of the KL.
  static bool control_fits(const Spec& spec, const Tensor& like, const Tensor& control) {
    if (!control.defined()) return true;
    if (control.dtype() != term_options(like).dtype()) return false;
    if (!control.dim()) return true;
    if (control.dim() != like.dim() || control.size(spec.dim) != 1) return false;
    for (int64_t d = 0; d < like.dim(); ++d)
      if (control.size(d) != 1 && control.size(d) != like.size(d)) return false;
    return true;
  }

  // What the call reads it from, which has to live until then.
  static Tensor put_control(const Spec& spec, const Parameters& p, const Tensor& control,
                            fused_reparam_softmax& call) {
    if (!control.defined()) return control;
    const bool one = control.numel() == 1;
    const Tensor found =
        one ? control : consecutive(control.squeeze(spec.dim).expand(p.variables), p.order_of_variables);
    call.control = found.data_ptr();
    call.controls = found.numel();
    return found;
  }

  struct Strides {
    int64_t outer, cls, inner;
  };

  // The three strides of a tensor of the logits' shape, which becomes a copy where it has none. `distinct`:
  // how many of its outers there are in memory, where they repeat.
  static Strides three(const Spec& spec, const Parameters& p, Tensor& t, int64_t* distinct = nullptr) {
    const Dims shape = in_order(t.sizes(), spec.order), strides = in_order(t.strides(), spec.order);
    size_t at = static_cast<size_t>(spec.dim);
    for (size_t i = 0; i < spec.order.size(); ++i)
      if (spec.order[i] == spec.dim) at = i;
    size_t first = 0;
    int64_t repeats = 1;
    for (; distinct && first < at && (strides[first] == 0 || shape[first] == 1); ++first)
      repeats *= shape[first];
    if (distinct) *distinct = p.outer / repeats;
    const int64_t outer = run_stride(shape, strides, first, at),
                  inner = run_stride(shape, strides, at + 1, shape.size());
    if (outer >= 0 && inner >= 0) return {outer, strides[at], inner};
    t = consecutive(t, spec.order);
    if (distinct) *distinct = p.outer;
    return {p.classes * p.inner, p.inner, 1};
  }

  static fused_reparam_softmax call_of(const Spec& spec, const Parameters& p) {
    fused_reparam_softmax call{};
    call.dtype = dtype_code(p.like);
    call.mode = spec.mode;
    call.outer = p.outer;
    call.classes = p.classes;
    call.inner = p.inner;
    call.tau = spec.tau;
    call.unimix = spec.unimix;
    return call;
  }

  static variable_list forward(const Spec& spec, const Inputs& in, const Parameters& p) {
    at::AutoDispatchBelowADInplaceOrView no_gradients;
    fused_reparam_softmax call = call_of(spec, p);
    Tensor logits = in[0], noise = in[2];
    const Tensor control = put_control(spec, p, in[3], call);
    const Strides strides = three(spec, p, logits, &call.logits_outer);
    call.logits = logits.data_ptr();
    call.logits_strides = {strides.outer, strides.cls, strides.inner};
    if (in[1].defined()) call.key = static_cast<const uint64_t*>(in[1].data_ptr());
    if (noise.defined()) {
      noise = consecutive(noise, spec.order);
      call.noise = noise.data_ptr();
    }
    variable_list found(outputs);
    if (spec.want_y) {
      found[0] = empty_ordered(in[0].sizes(), spec.order, in[0].options());
      call.y_or_grad_y = found[0].data_ptr();
    }
    if (spec.want_soft) {
      found[1] = empty_ordered(in[0].sizes(), spec.order, in[0].options());
      call.soft = found[1].data_ptr();
    }
    if (spec.reduction) {
      found[2] = empty_ordered(p.variables, p.order_of_variables, term_options(in[0]));
      call.kl_or_grad_kl = found[2].data_ptr();
    }
    run(forward_entry, call);
    if (spec.reduction) found[2] = reduced(found[2], *spec.reduction);
    return found;
  }

  // The KLs of the variables, reduced.
  static Tensor reduced(const Tensor& kl, Reduction reduction) {
    const int64_t keep = kept_dims(kl.dim(), reduction);
    if (keep == kl.dim() && reduction != Reduction::batchmean && reduction != Reduction::mean) return kl;
    Dims summed;
    for (int64_t d = keep; d < kl.dim(); ++d) summed.push_back(d);
    Tensor found = summed.empty() ? kl.clone() : kl.sum(summed);
    const double factor = factor_of(kl.sizes(), reduction);
    return factor == 1 ? found : found.mul_(factor);
  }

  // The gradient of the reduced KL as that of each variable's, consecutive.
  static Tensor spread(const Spec& spec, const Parameters& p, Tensor grad) {
    const double factor = factor_of(p.variables, *spec.reduction);
    if (factor != 1) grad = grad * factor;
    Dims shape(grad.sizes().begin(), grad.sizes().end());
    shape.resize(p.variables.size(), 1);
    return consecutive(grad.reshape(shape).expand(p.variables), p.order_of_variables);
  }

  // `kept`: what was saved: logits, soft and control.
  static bool can_differentiate(const Inputs& kept, const Needs& needs) { return !needs[1] || kept[2].defined(); }

  // The gradient of control, as fused_reparam/ops/softmax_gradients.py has it. `grad`: that of the logits, where
  // it is of y alone.
  static Tensor control_gradient(const Spec& spec, const Inputs& kept, const Tensor& grad_y, Tensor grad) {
    const Tensor& control = kept[2];
    if (!grad_y.defined()) return at::zeros_like(control);
    const int64_t dim = spec.dim;
    const auto real = control.scalar_type();
    const Tensor g = grad_y.to(real);
    Tensor each;
    if (spec.mode == one_hot) {
      const Tensor p = at::softmax(kept[0].to(real), dim);
      each = g.mean(dim, true) - (p * g).sum(dim, true);
    } else {
      const Tensor s = kept[1].to(real);
      if (!grad.defined()) grad = s * (g - (s * g).sum(dim, true)) / control.clamp(0x1p-126, 0x1p126);
      // A share of 0 has a gradient of 0, which is to meet no infinite logarithm.
      each = s.clamp_min(real == at::kDouble ? std::numeric_limits<double>::min()
                                             : std::numeric_limits<float>::min());
      each.log_().mul_(grad.to(real));
      if (control.numel() == 1) return each.sum().neg_().reshape(control.sizes());
      each = each.sum(dim, true).neg_();
    }
    return at::sum_to(each, control.sizes()).contiguous();
  }

  static variable_list backward(Spec& spec, const Inputs& kept, const variable_list& grads,
                                const Needs& needs, bool) {
    Parameters p;
    TORCH_CHECK(shape_fits(spec, kept[0].defined() ? kept[0] : kept[1], p), name,
                ": what was saved is no longer what it was");
    at::AutoDispatchBelowADInplaceOrView no_gradients;
    if (!needs[0] && !needs[1]) return variable_list(2);
    fused_reparam_softmax call = call_of(spec, p);
    const Tensor control = put_control(spec, p, kept[2], call);
    Tensor logits = p.like, saved_soft = kept[1];
    // The gradient of a hard y is soft's, so both come together.
    Tensor grad_y = spec.want_y ? grads[0] : Tensor();
    if (spec.want_soft && grads[1].defined()) grad_y = grad_y.defined() ? grad_y + grads[1] : grads[1];
    Tensor grad_kl = spec.reduction ? grads[2] : Tensor();
    const Tensor grad = empty_ordered(p.like.sizes(), spec.order, p.like.options());
    if (!grad_y.defined() && !grad_kl.defined())
      return {grad.zero_(), needs[1] ? at::zeros_like(kept[2]) : Tensor()};
    const Tensor of_y = grad_y;
    const bool of_y_alone = !grad_kl.defined();
    Strides strides = three(spec, p, logits, &call.logits_outer);
    call.logits = logits.data_ptr();
    call.logits_strides = {strides.outer, strides.cls, strides.inner};
    if (grad_y.defined()) {
      strides = three(spec, p, grad_y);
      call.y_or_grad_y = grad_y.data_ptr();
      call.grad_strides = {strides.outer, strides.cls, strides.inner};
    }
    if (saved_soft.defined()) {
      saved_soft = consecutive(saved_soft, spec.order);
      call.soft = saved_soft.data_ptr();
    }
    if (grad_kl.defined()) {
      grad_kl = spread(spec, p, grad_kl);
      call.kl_or_grad_kl = grad_kl.data_ptr();
    }
    call.grad_logits = grad.data_ptr();
    run(backward_entry, call);
    return {grad, needs[1] ? control_gradient(spec, kept, of_y, of_y_alone ? grad : Tensor()) : Tensor()};
  }

  // Whether tensors that came by hand are what was saved of a call, and gradients of its outputs.
  static bool check_kept(Spec& spec, const Inputs& kept, const variable_list& grads, Parameters& p) {
    const Tensor& like = kept[0].defined() ? kept[0] : kept[1];
    if (!shape_fits(spec, like, p) || !control_fits(spec, like, kept[2])) return false;
    const auto fits = [&](const Tensor& t) {
      return !t.defined() || (t.sizes() == like.sizes() && t.scalar_type() == like.scalar_type());
    };
    if (!fits(kept[0]) || !fits(kept[1]) || !fits(grads[0]) || !fits(grads[1])) return false;
    const bool of_y = grads[0].defined() || grads[1].defined(), of_kl = grads[2].defined();
    if ((of_kl || (of_y && spec.mode == one_hot)) && !kept[0].defined()) return false;
    if (of_y && spec.mode != one_hot && !kept[1].defined()) return false;
    if (!of_kl) return true;
    if (!spec.reduction) return false;
    const auto keep = kept_dims(static_cast<int64_t>(p.variables.size()), *spec.reduction);
    return grads[2].dtype() == term_options(like).dtype() &&
           grads[2].sizes() == IntArrayRef(p.variables).slice(0, static_cast<size_t>(keep));
  }

  template <class Node>
  static void keep(Node& node, const Spec& spec, const Inputs& in, const variable_list& found) {
    node.keep(spec.reduction || spec.mode == one_hot ? in[0] : Tensor());
    const Tensor of_y = spec.mode == one_hot || !spec.want_y ? Tensor() : spec.mode == hard ? found[1] : found[0];
    node.keep(of_y, true);
    node.keep(in[3]);
  }
  // The gradient of a hard y is of the soft values, which therefore are an output.
  static Spec with_gradient(Spec spec) {
    spec.want_soft = spec.want_y && spec.mode == hard;
    return spec;
  }
  static bool visible(const Spec& spec, size_t output) { return output != 1 || spec.want_soft; }
};

}  // namespace fr::ops
