// The short way of the element-wise draws: contiguous parameters of one shape.
#pragma once

#include <cstddef>

#include "calls.h"
#include "host.h"

namespace fr::host {

using DrawEntry = int (*)(const fused_reparam_draw*);
inline DrawEntry draw_forward = nullptr, draw_backward = nullptr;

// What a shape and the options decide, as fused_reparam/ops/draw_short.py packs it.
struct DrawPlan {
  int64_t samples;   // the leading dim of z; 0: none
  int64_t keep;      // dims of the parameters' shape that a value keeps
  int64_t values, sampled, linear;
  int64_t options[14];  // of a call, from n on

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
  call.key = static_cast<const uint64_t*>(key.data_ptr());
  for (size_t i = 0; i < count; ++i) call.params[i] = params[i].data_ptr();
  return call;
}

class DrawNode final : public SavingNode {
 public:
  DrawNode(const Tensor& key, const std::vector<Tensor>& params, PyObject* spec, const DrawPlan& plan)
      : SavingNode(key, params, spec), plan_(plan) {}
  std::string name() const override { return "FusedReparamDraw"; }

 protected:
  bool suits(const std::vector<Tensor>& saved, const variable_list& grads) const override {
    for (size_t i = 1; i < saved.size(); ++i)
      if (!saved[i].is_contiguous()) return false;
    return !grads[0].defined() || grads[0].is_contiguous();
  }

  variable_list compute(const std::vector<Tensor>& saved, const variable_list& grads) override {
    const size_t count = saved.size() - 1;
    variable_list found(count);
    bool valued = false;
    for (size_t j = 1; j < grads.size(); ++j) valued = valued || grads[j].defined();
    const bool passes = plan_.linear && !plan_.samples && grads[0].defined() && !valued;
    fused_reparam_draw call = draw_call(plan_, saved[0], saved.data() + 1, count);
    bool any = false;
    for (size_t i = 0; i < count; ++i) {
      if (!task_should_compute_output(i)) continue;
      if (i == 0 && passes) {
        // The sample is loc and something that does not depend on it. Not a view: of one, autograd
        // would not see that others hold the memory too.
        found[0] = grads[0];
        continue;
      }
      found[i] = at::empty_like(saved[i + 1]);
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
    run(draw_backward, call);
    return found;
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

  fused_reparam_draw call = draw_call(plan, *key, params.data(), params.size());
  std::vector<Tensor> outputs;
  outputs.reserve(3);
  {
    at::AutoDispatchBelowADInplaceOrView no_gradients;
    outputs.push_back(plan.samples ? at::empty(plan.stacked(true, loc.sizes()), loc.options())
                                   : at::empty_like(loc));
    const auto kept = loc.sizes().slice(0, static_cast<size_t>(plan.values ? plan.keep : 0));
    for (int64_t j = 0; j < plan.values; ++j) {
      outputs.push_back(at::empty(plan.stacked(plan.sampled, kept), value_options(loc)));
      call.values_or_grads[j] = outputs.back().data_ptr();
    }
  }
  call.dtype = dtype_code(loc);
  call.z_or_grad_z = outputs[0].data_ptr();
  run(draw_forward, call);
  std::memcpy(plan.options, &call.n, sizeof plan.options);
  if (wants_gradient(params)) record<DrawNode>(outputs, *key, params, args[1], plan);
  return tuple_of(outputs);
  END_HANDLE_TH_ERRORS
}

}  // namespace fr::host
