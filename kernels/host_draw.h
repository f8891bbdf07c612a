// The short way of the element-wise draws: contiguous parameters of one shape.
#pragma once

#include <cstddef>

#include "calls.h"
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
inline PyObject* draw(PyObject*, PyObject* const* args, Py_ssize_t) {
  HANDLE_TH_ERRORS
  PyObject* given = args[0];
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
  DrawPlan plan;
  std::memcpy(&plan, PyBytes_AS_STRING(args[2]), sizeof plan);

  RECORD_FUNCTION("fused_reparam::draw", c10::ArrayRef<const c10::IValue>{});
  const std::vector<Tensor> outputs = draw_forward(plan, *key, params);
  if (wants_gradient(params)) record<DrawNode>(outputs, params, *key, params, args[1], plan);
  return tuple_of(outputs);
  END_HANDLE_TH_ERRORS
}

}  // namespace fr::host
