// The short way of the element-wise draws: contiguous parameters of one shape.
#pragma once

#include <algorithm>
#include <cstddef>
#include <tuple>

#include "calls.h"
#include "draw_interface.h"
#include "host.h"

namespace fr::host {

using DrawEntry = int (*)(const fused_reparam_draw*);
inline DrawEntry draw_forward_entry = nullptr, draw_backward_entry = nullptr;

// What a shape and the options decide, as fused_reparam/ops/draw_short.py packs it.
struct DrawPlan {
  int64_t samples;   // the leading dim of z; 0: none
  int64_t keep;      // dims of the parameters' shape that a value keeps
  int64_t values, sampled, linear;
  int64_t options[14];  // of a call, from n on

  std::vector<int64_t> shape_of_z(const Tensor& like) const { return stacked(true, like.sizes()); }

  std::vector<int64_t> shape_of_value(const Tensor& like) const {
    return stacked(sampled, like.sizes().slice(0, static_cast<size_t>(values ? keep : 0)));
  }

 private:
  std::vector<int64_t> stacked(bool samples_too, at::IntArrayRef sizes) const {
    std::vector<int64_t> shape;
    shape.reserve(sizes.size() + 1);
    if (samples_too && samples) shape.push_back(samples);
    shape.insert(shape.end(), sizes.begin(), sizes.end());
    return shape;
  }
};

// Whether a plan is of these parameters: a caller may hand another over.
inline bool fits(const DrawPlan& plan, const std::vector<Tensor>& params) {
  const auto [n, samples, segments, dtype, family, kind, prior_kind] =
      std::tuple(plan.options[0], plan.options[1], plan.options[2], plan.options[3], plan.options[4],
                 plan.options[5], plan.options[6]);
  const Tensor& loc = params[0];
  if (family < 0 || family >= kFamilies || kind < 0 || kind >= kKinds || prior_kind < 0 ||
      prior_kind >= kKinds || plan.samples < 0 || n != loc.numel() || n < 1 || dtype < 0)
    return false;
  const FamilyTraits& traits = kFamily[family];
  if (params.size() != static_cast<size_t>(traits.parameters) || samples != std::max<int64_t>(plan.samples, 1) ||
      samples > (int64_t{1} << 58) / n || (plan.values && plan.values != traits.values) ||
      plan.sampled != traits.sampled())
    return false;
  if (!plan.values) return segments == 0;
  return plan.keep >= 0 && plan.keep <= loc.dim() &&
         segments == c10::multiply_integers(plan.shape_of_value(loc));
}

inline fused_reparam_draw draw_call(const DrawPlan& plan, const Tensor& key, const Tensor* params,
                                    size_t count) {
  fused_reparam_draw call{};
  static_assert(offsetof(fused_reparam_draw, n) + sizeof plan.options ==
                offsetof(fused_reparam_draw, columns));
  std::memcpy(&call.n, plan.options, sizeof plan.options);
  call.dtype = dtype_code(params[0]);
  call.key = static_cast<const uint64_t*>(key.data_ptr());
  for (size_t i = 0; i < count; ++i) call.params[i] = params[i].data_ptr();
  return call;
}

// z and the values.
inline std::vector<Tensor> draw_forward(const DrawPlan& plan, const Tensor& key,
                                        const std::vector<Tensor>& params) {
  at::AutoDispatchBelowADInplaceOrView no_gradients;
  const Tensor& loc = params[0];
  fused_reparam_draw call = draw_call(plan, key, params.data(), params.size());
  std::vector<Tensor> outputs;
  outputs.reserve(3);
  outputs.push_back(plan.samples ? at::empty(plan.shape_of_z(loc), loc.options())
                                 : at::empty_like(loc));
  call.z_or_grad_z = outputs[0].data_ptr();
  for (int64_t j = 0; j < plan.values; ++j) {
    outputs.push_back(at::empty(plan.shape_of_value(loc), value_options(loc)));
    call.values_or_grads[j] = outputs.back().data_ptr();
  }
  run(draw_forward_entry, call);
  return outputs;
}

// The gradients that are needed; undefined gradients of outputs are zero. `may_pass`: the gradient of loc
// may be that of z itself, where z is linear in it.
inline variable_list draw_backward(const DrawPlan& plan, const Tensor& key, const Tensor* params,
                                   const variable_list& grads, const std::vector<bool>& needs,
                                   bool may_pass) {
  const size_t count = needs.size();
  variable_list found(count);
  bool valued = false;
  for (size_t j = 1; j < grads.size(); ++j) valued = valued || grads[j].defined();
  const bool passes = may_pass && plan.linear && !plan.samples && grads[0].defined() && !valued;
  fused_reparam_draw call = draw_call(plan, key, params, count);
  bool any = false;
  for (size_t i = 0; i < count; ++i) {
    if (!needs[i]) continue;
    if (i == 0 && passes) {
      // The sample is loc and something that does not depend on it. Not a view: of one, autograd
      // would not see that others hold the memory too.
      found[0] = grads[0];
      continue;
    }
    found[i] = at::empty_like(params[i]);
    call.grads[i] = found[i].data_ptr();
    any = true;
  }
  if (!any) return found;
  variable_list of_values(grads.size());
  if (!valued) call.segments = 0;
  if (grads[0].defined()) call.z_or_grad_z = grads[0].data_ptr();
  for (size_t j = 1; j < grads.size(); ++j) {
    if (!grads[j].defined()) continue;
    of_values[j] = grads[j].contiguous();
    call.values_or_grads[j - 1] = of_values[j].data_ptr();
  }
  run(draw_backward_entry, call);
  return found;
}

class DrawNode final : public SavingNode {
 public:
  DrawNode(const Tensor& key, const std::vector<Tensor>& params, PyObject* spec, const DrawPlan& plan)
      : SavingNode(params[0].scalar_type(), spec), plan_(plan) {
    keep(key);
    for (const Tensor& t : params) keep(t);
  }
  std::string name() const override { return "FusedDrawBackward"; }

 protected:
  bool suits(const std::vector<Tensor>& saved, const variable_list& grads) const override {
    for (size_t i = 1; i < saved.size(); ++i)
      if (!saved[i].is_contiguous()) return false;
    return !grads[0].defined() || grads[0].is_contiguous();
  }

  variable_list compute(const std::vector<Tensor>& saved, const variable_list& grads) override {
    const size_t count = saved.size() - 1;
    std::vector<bool> needs(count);
    for (size_t i = 0; i < count; ++i) needs[i] = task_should_compute_output(i);
    return draw_backward(plan_, saved[0], saved.data() + 1, grads, needs, true);
  }

  void collect_plan(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    for (int64_t x : {plan_.samples, plan_.keep, plan_.values, plan_.sampled, plan_.linear})
      args.collect(x);
    for (int64_t x : plan_.options) args.collect(x);
  }

 private:
  DrawPlan plan_;
};

// draw(params, spec, plan, key, generator): (z, *values), or None for the way through Python.
inline PyObject* draw(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  expect_arguments("draw", count, 5);
  PyObject* given = args[0];
  TORCH_CHECK_TYPE(PyTuple_Check(given) && PyTuple_GET_SIZE(given) > 0 && PyTuple_GET_SIZE(given) <= 4,
                   "draw: params must be a tuple of one to four tensors");
  std::vector<Tensor> params;
  params.reserve(4);
  if (!is_backend() || !undisturbed()) Py_RETURN_NONE;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(given); ++i) {
    const Tensor* t = plain_object(PyTuple_GET_ITEM(given, i));
    if (!t || !t->is_contiguous()) Py_RETURN_NONE;
    if (i && (t->scalar_type() != params[0].scalar_type() || t->sizes() != params[0].sizes()))
      Py_RETURN_NONE;
    params.push_back(*t);
  }
  const Tensor& loc = params[0];
  if (dtype_code(loc) < 0) Py_RETURN_NONE;
  const std::optional<Tensor> key = key_of(args[3], args[4]);
  if (!key) Py_RETURN_NONE;
  const DrawPlan plan = from_bytes<DrawPlan>(args[2]);
  TORCH_CHECK_VALUE(fits(plan, params), "draw: the plan is not one of these parameters");

  RECORD_FUNCTION("fused_reparam::draw", c10::ArrayRef<const c10::IValue>{});
  const std::vector<Tensor> outputs = draw_forward(plan, *key, params);
  if (wants_gradient(params)) record<DrawNode>(outputs, params, *key, params, args[1], plan);
  return tuple_of(outputs);
  END_HANDLE_TH_ERRORS
}

}  // namespace fr::host
