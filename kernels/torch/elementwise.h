// The element-wise op on the CPU: fused_reparam/ops/elementwise*.py in C++.
#pragma once

#include <array>
#include <unordered_map>

#include "torch/layout.h"

namespace fr::ops {

using DrawEntry = int (*)(const fused_reparam_elementwise*);

// What Python says of a family (fused_reparam/families).
struct FamilyFacts {
  std::string name;
  int64_t base, transform, hard, term;  // codes of the library
  int64_t parameters, constants, terms;
  int64_t base_number;  // which of the numbers the base noise takes; -1: none
  bool scaled;          // whether parameter 1 is a scale keyword
  bool sampled;         // whether terms depend on the noise
  bool linear;          // whether z is the first parameter and something that does not depend on it
  bool given;           // whether noise may be given, for no parameter decides it
};

struct Elementwise {
  static constexpr const char* name = "elementwise";
  static constexpr const char* node_name = "FusedElementwiseBackward";
  // p0 to p3, key, eps; z and two terms; gradients of the parameters and of eps
  static constexpr size_t parameters = 4, key = 4, eps = 5, inputs = 6, terms = 2, outputs = 3, options = 9;
  static constexpr size_t kept = inputs;
  using Inputs = c10::SmallVector<Tensor, 6>;
  using Needs = std::array<bool, 5>;
  static constexpr std::array<size_t, 5> differentiable{0, 1, 2, 3, 5};

  using Written = c10::SmallVector<View, 4>;

  inline static DrawEntry forward_entry = nullptr, backward_entry = nullptr;
  inline static std::unordered_map<std::string, FamilyFacts> families;

  struct Spec {
    Dims order;
    bool ordered;  // whether the order was given; else it is the parameters'
    const FamilyFacts* family;
    int64_t kind, prior_kind;
    double constants[6] = {};
    int64_t samples;
    bool sample;
    std::optional<Reduction> reduction;
    int64_t split;

    int64_t count() const { return reduction ? family->terms : 0; }
    int64_t term_samples() const { return family->sampled ? samples : 0; }
    bool noisy() const { return sample || (family->sampled && reduction); }
  };

  // The same the other way round, the order settled.
  static std::vector<IValue> options_of(const Spec& spec) {
    const FamilyFacts& family = *spec.family;
    const auto constants = at::ArrayRef<double>(spec.constants, static_cast<size_t>(family.constants));
    return {c10::List<int64_t>(spec.order), family.name, spec.kind, spec.prior_kind,
            c10::List<double>(constants), spec.samples, spec.sample, name_of(spec.reduction), spec.split};
  }

  // What a call's parameters are: views of one shape each but for broadcasting.
  struct Parameters {
    c10::SmallVector<View, 4> each;
    Dims shape;  // of one sample
    int64_t n = 0;
  };

  // The spec of an op's options; false where Python has to say what is wrong.
  static bool parse(const IValue* args, Spec& spec) {
    spec.ordered = !args[0].isNone();
    if (spec.ordered)
      for (const IValue& d : args[0].toListRef()) spec.order.push_back(d.toInt());
    const auto family = families.find(args[1].toStringRef());
    if (family == families.end()) return false;
    spec.family = &family->second;
    spec.kind = args[2].toInt();
    spec.prior_kind = args[3].toInt();
    const auto constants = args[4].toDoubleVector();
    if (static_cast<int64_t>(constants.size()) != spec.family->constants || !args[5].isInt()) return false;
    std::copy(constants.begin(), constants.end(), spec.constants);
    spec.samples = args[5].toInt();
    spec.sample = args[6].toBool();
    if (!args[7].isNone()) {
      spec.reduction = reduction_of(args[7].toStringRef());
      if (!spec.reduction) return false;
    }
    spec.split = args[8].toInt();
    return spec.kind >= 0 && spec.kind < kKinds && spec.prior_kind >= 0 && spec.prior_kind < kKinds &&
           spec.samples >= 0 && spec.split >= -1;
  }

  // Whether this file can compute a call; `given` are its parameters.
  static bool check(Spec& spec, const Inputs& in, Parameters& given) {
    const Tensor& first = in[0];
    if (!first.defined() || dtype_code(first) < 0) return false;
    size_t next = 1;
    if (spec.split >= 0) {
      if (spec.split >= first.dim() || first.size(spec.split) % 2 || in[1].defined()) return false;
      given.each = {View{first, spec.split, 0}, View{first, spec.split, 1}};
      next = 2;
    } else {
      given.each = {View{first}};
    }
    const auto want = static_cast<size_t>(spec.family->parameters);
    if (want < given.each.size()) return false;
    for (size_t i = next; i < parameters; ++i) {
      if (in[i].defined() != (i < want)) return false;
      if (in[i].defined()) given.each.push_back(View{in[i]});
    }
    given.shape = given.each[0].sizes();
    for (size_t i = next - 1; i < given.each.size(); ++i) {
      const Tensor& p = given.each[i].tensor;
      if (p.scalar_type() != first.scalar_type() ||
          (given.each[i].split < 0 && !broadcast(given.shape, p.sizes())))
        return false;
    }
    // The gradient of both halves is one tensor of their own shape.
    if (spec.split >= 0 && given.shape != given.each[0].sizes()) return false;
    given.n = 1;
    for (int64_t size : given.shape)
      if (__builtin_mul_overflow(given.n, size, &given.n)) return false;
    for (size_t i = 0; !spec.ordered && i < given.each.size(); ++i)
      if (given.each[i].sizes() == given.shape) {
        spec.order = memory_order(given.each[i].tensor);
        spec.ordered = true;
      }
    spec.ordered = true;
    if (!reducible(spec.reduction, static_cast<int64_t>(given.shape.size()))) return false;
    if (given.n < 1 || given.n > most_elements || spec.samples > most_elements / given.n ||
        !is_permutation(spec.order, static_cast<int64_t>(given.shape.size())))
      return false;
    if (in[key].defined() && !is_key(in[key])) return false;
    if (!in[eps].defined()) return in[key].defined() || !spec.noisy();
    return spec.family->given && in[eps].scalar_type() == first.scalar_type() && in[eps].sizes() == shape_of_z(spec, given);
  }

  static Dims stacked(int64_t samples, IntArrayRef shape) {
    Dims found;
    if (samples) found.push_back(samples);
    found.append(shape.begin(), shape.end());
    return found;
  }
  static Dims stacked_order(int64_t samples, IntArrayRef order) {
    if (!samples || order.empty()) return Dims(order.begin(), order.end());
    Dims found{0};
    for (int64_t d : order) found.push_back(d + 1);
    return found;
  }
  static Dims shape_of_z(const Spec& spec, const Parameters& p) { return stacked(spec.samples, p.shape); }

  // How terms of each element lie, and are summed.
  struct Layout {
    int64_t keep;
    Dims shape, order;
    bool scattered = false;  // whether the elements of one term are apart in memory: PyTorch sums them
  };
  static Layout layout_of_terms(const Spec& spec, const Parameters& p, Reduction reduction) {
    Layout found;
    const auto dims = static_cast<int64_t>(p.shape.size());
    found.keep = kept_dims(dims, reduction);
    found.shape = stacked(spec.term_samples(), IntArrayRef(p.shape).slice(0, static_cast<size_t>(found.keep)));
    Dims order;
    bool behind = false;
    for (int64_t d : spec.order) {
      if (d < found.keep) order.push_back(d);
      if (p.shape[static_cast<size_t>(d)] == 1) continue;
      if (d >= found.keep)
        behind = true;
      else if (behind)
        found.scattered = true;
    }
    found.order = stacked_order(spec.term_samples(), order);
    return found;
  }

  static fused_reparam_elementwise call_of(const Spec& spec, const Inputs& in, const Parameters& p) {
    fused_reparam_elementwise call{};
    if (in[key].defined()) call.key = static_cast<const uint64_t*>(in[key].data_ptr());
    call.n = p.n;
    call.samples = std::max<int64_t>(spec.samples, 1);
    call.dtype = dtype_code(in[0]);
    const FamilyFacts& family = *spec.family;
    call.base = family.base;
    call.transform = !family.scaled && spec.kind == 1 ? family.hard : family.transform;
    call.term = family.term;
    call.parameters = family.parameters;
    call.term_count = family.terms;
    call.scaled = family.scaled;
    call.base_number = family.base_number < 0 ? 0 : spec.constants[family.base_number];
    call.kind = spec.kind;
    call.prior_kind = spec.prior_kind;
    std::copy_n(spec.constants, 6, call.constants);
    call.factor = spec.reduction ? factor_of(p.shape, *spec.reduction) : 1;
    return call;
  }

  // What lies as z does: of several samples consecutive, of one with the parameters.
  static Tensor of_z(const Spec& spec, const Tensor& t) {
    if (!t.defined() || !spec.samples) return t;
    return spec.samples == 1 ? t.squeeze(0) : consecutive(t, stacked_order(spec.samples, spec.order));
  }

  // z and the terms; undefined where not wanted.
  static variable_list forward(const Spec& spec, const Inputs& in, const Parameters& p) {
    at::AutoDispatchBelowADInplaceOrView no_gradients;
    variable_list found(outputs), written(terms);
    fused_reparam_elementwise call = call_of(spec, in, p);
    if (spec.sample) {
      found[0] = empty_ordered(shape_of_z(spec, p), stacked_order(spec.samples, spec.order), in[0].options());
      call.z_or_grad_z = found[0].data_ptr();
    }
    const auto count = static_cast<size_t>(spec.count());
    Layout layout;
    if (count) {
      layout = layout_of_terms(spec, p, *spec.reduction);
      const Layout each = layout.scattered ? layout_of_terms(spec, p, Reduction::none) : layout;
      for (size_t j = 0; j < count; ++j) {
        found[1 + j] = empty_ordered(layout.shape, layout.order, term_options(in[0]));
        written[j] = layout.scattered ? empty_ordered(each.shape, each.order, term_options(in[0]))
                                      : found[1 + j];
        call.terms_or_grads[j] = written[j].data_ptr();
      }
      call.segments = written[0].numel();
    }
    compute(call, spec, in, p);
    for (size_t j = 0; layout.scattered && j < count; ++j) {
      Dims summed;
      for (int64_t d = found[1 + j].dim(); d < written[j].dim(); ++d) summed.push_back(d);
      at::sum_out(found[1 + j], written[j], summed);
    }
    return found;
  }

  // What a call's pointers to z and the terms ask for, each a sum or laid out as the parameters.
  static void compute(fused_reparam_elementwise& call, const Spec& spec, const Inputs& in, const Parameters& p) {
    Operands operands(p.shape, spec.order);
    for (const View& view : p.each) operands.add(view);
    const Tensor noise = of_z(spec, in[eps]);
    operands.add(spec.samples > 1 ? Tensor() : noise);
    operands.arrange();
    const size_t params = p.each.size();
    call.columns = operands.columns();
    for (size_t i = 0; i < params; ++i) {
      call.params[i] = operands.data(i);
      call.param_strides[i] = operands.strides(i);
    }
    call.eps = spec.samples > 1 && noise.defined() ? noise.data_ptr() : operands.data(params);
    call.eps_strides = operands.strides(params);
    run(forward_entry, call);
  }

  // Whether `backward` can do it: what autograd has saved is as it was but for strides.
  static bool can_differentiate(const Inputs&, const Needs& needs) { return !needs[4]; }

  // The gradients that are needed; undefined ones of outputs are zero. `may_pass`: a gradient may be an
  // incoming one as it is, which no result of an op may.
  static variable_list backward(Spec& spec, const Inputs& in, const variable_list& grads,
                                const Needs& needs, bool may_pass) {
    Parameters p;
    TORCH_CHECK(check(spec, in, p), name, ": what was saved is no longer what it was");
    at::AutoDispatchBelowADInplaceOrView no_gradients;
    variable_list found(needs.size());
    const auto count = static_cast<size_t>(spec.count());
    const Tensor grad_z = spec.sample ? grads[0] : Tensor();
    bool has_terms = false;
    for (size_t j = 0; j < count; ++j) has_terms = has_terms || grads[1 + j].defined();
    Needs left = needs;
    if (may_pass && needs[0] && spec.family->linear && !spec.samples && spec.split < 0 && grad_z.defined() &&
        !has_terms) {
      // The sample is loc and something that does not depend on it, so that its gradient is loc's. It is the
      // tensor that came, and no view of it: autograd adds other gradients into memory that nobody else seems
      // to hold, and of a view it does not see that others hold its memory.
      found[0] = fitted(grad_z, in[0]);
      left[0] = false;
    }
    // Where each parameter's gradient is written.
    const size_t params = p.each.size();
    Written written(params);
    bool any = false;
    for (size_t i = 0; i < parameters; ++i) {
      if (!left[i] || !in[i].defined()) continue;
      any = true;
      if (spec.split >= 0 && i == 0) {
        found[0] = empty_ordered(in[0].sizes(), spec.order, in[0].options());
        written[0] = View{found[0], spec.split, 0};
        written[1] = View{found[0], spec.split, 1};
        continue;
      }
      // Behind the two of a split come the prior's, as among the inputs.
      found[i] = empty_ordered(p.shape, spec.order, in[i].options());
      written[i] = View{found[i]};
    }
    if (!any) return found;
    if (!grad_z.defined() && !has_terms) {
      for (Tensor& t : found)
        if (t.defined()) t.zero_();
    } else {
      differentiate(spec, in, p, grad_z, grads, has_terms, written);
    }
    for (size_t i = 0; i < parameters; ++i)
      if (left[i] && found[i].defined()) found[i] = fitted(found[i], in[i]);
    return found;
  }

  // A gradient summed to the shape of what was broadcast.
  static Tensor fitted(const Tensor& grad, const Tensor& like) {
    if (grad.sizes() == like.sizes()) return grad;
    return at::sum_to(grad, like.sizes()).contiguous();
  }

  // The gradients that are wanted, each to where it is written, of the parameters' shape.
  static void differentiate(const Spec& spec, const Inputs& in, const Parameters& p, const Tensor& grad_z,
                            const variable_list& grads, bool has_terms, const Written& written) {
    const size_t params = p.each.size();
    fused_reparam_elementwise call = call_of(spec, in, p);
    variable_list of_terms(terms);
    if (has_terms) {
      Layout layout = layout_of_terms(spec, p, *spec.reduction);
      for (size_t j = 0; j < static_cast<size_t>(spec.count()); ++j) {
        Tensor g = grads[1 + j];
        if (!g.defined()) continue;
        if (layout.scattered) {
          Dims shape(g.sizes().begin(), g.sizes().end());
          shape.resize(shape.size() + p.shape.size() - static_cast<size_t>(layout.keep), 1);
          const Layout each = layout_of_terms(spec, p, Reduction::none);
          g = consecutive(g.reshape(shape).expand(each.shape), each.order);
        } else {
          g = consecutive(g, layout.order);
        }
        of_terms[j] = g;
        call.terms_or_grads[j] = g.data_ptr();
        call.segments = g.numel();
      }
    }
    Operands operands(p.shape, spec.order);
    for (const View& view : p.each) operands.add(view);
    const Tensor noise = of_z(spec, in[eps]), of_sample = of_z(spec, grad_z);
    const bool together = spec.samples <= 1;
    operands.add(together ? noise : Tensor());
    operands.add(together ? of_sample : Tensor());
    for (const View& view : written) operands.add(view, true);
    operands.arrange();
    call.columns = operands.columns();
    for (size_t i = 0; i < params; ++i) {
      call.params[i] = operands.data(i);
      call.param_strides[i] = operands.strides(i);
      call.grads[i] = operands.data(params + 2 + i);
      call.grad_strides[i] = operands.strides(params + 2 + i);
    }
    call.eps = together || !noise.defined() ? operands.data(params) : noise.data_ptr();
    call.eps_strides = operands.strides(params);
    call.z_or_grad_z = together || !of_sample.defined() ? operands.data(params + 1) : of_sample.data_ptr();
    call.z_strides = operands.strides(params + 1);
    run(backward_entry, call);
  }

  // Whether gradients that came by hand are those of a call's outputs.
  static bool check_grads(const Spec& spec, const Inputs& in, const Parameters& p, const variable_list& grads) {
    const auto fits = [&](const Tensor& g, IntArrayRef shape, caffe2::TypeMeta dtype) {
      return !g.defined() || (g.sizes() == shape && g.dtype() == dtype);
    };
    if (!fits(grads[0], shape_of_z(spec, p), in[0].dtype())) return false;
    for (size_t j = 0; j < terms; ++j) {
      if (!grads[1 + j].defined()) continue;
      if (static_cast<int64_t>(j) >= spec.count() ||
          !fits(grads[1 + j], layout_of_terms(spec, p, *spec.reduction).shape, term_options(in[0]).dtype()))
        return false;
    }
    return true;
  }

  // What is saved of a call's tensors.
  template <class Node>
  static void keep(Node& node, const Spec&, const Inputs& in, const variable_list&) {
    for (const Tensor& t : in) node.keep(t);
  }
  static Spec with_gradient(Spec spec) { return spec; }
  static bool visible(const Spec&, size_t) { return true; }
};

}  // namespace fr::ops
