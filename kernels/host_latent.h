// The short way of the Gaussian latent: two tensors of one shape, or moments, dense or in rows; a sample,
// a summed KL, or both.
#pragma once

#include "calls.h"
#include "host.h"

namespace fr::host {

using LatentEntry = int (*)(const fused_reparam_call*);
inline LatentEntry gaussian_forward = nullptr, gaussian_backward = nullptr;

// What layout and options decide, as fused_reparam/ops/gaussian_host.py packs it.
struct LatentPlan {
  int64_t columns;  // 0: dense
  fused_reparam_strides loc, scale;
  int64_t shift;    // from loc's first element to scale's, where loc holds both
  int64_t dim;      // which loc then halves
  int64_t with_z, with_kl, kind;
  double low, high, weight;
};

inline void* at_element(const Tensor& t, int64_t element) {
  return static_cast<char*>(t.data_ptr()) + element * t.element_size();
}

inline fused_reparam_call latent_call(const LatentPlan& plan, const Tensor* inputs, size_t count) {
  fused_reparam_call call{};
  const Tensor& loc = inputs[0];
  call.loc = loc.data_ptr();
  call.scale = count == 1 ? at_element(loc, plan.shift) : inputs[1].data_ptr();
  call.n = count == 1 ? loc.numel() / 2 : loc.numel();
  call.segments = 1;
  call.dtype = dtype_code(loc);
  call.kind = plan.kind;
  call.low = plan.low;
  call.high = plan.high;
  call.weight = plan.weight;
  call.columns = plan.columns;
  call.loc_strides = plan.loc;
  call.scale_strides = plan.scale;
  call.z_strides = {plan.columns, 1};
  // Gradients of two tensors are contiguous as z is; those of moments lie as the moments do.
  call.grad_loc_strides = count == 1 ? plan.loc : call.z_strides;
  call.grad_scale_strides = count == 1 ? plan.scale : call.z_strides;
  return call;
}

inline Tensor like_z(const Tensor& loc) { return at::empty(loc.sizes(), loc.options()); }

struct LatentResult {
  Tensor z, kl;  // undefined where the plan has none
};

inline std::vector<int64_t> shape_of_z(const LatentPlan& plan, const std::vector<Tensor>& inputs) {
  std::vector<int64_t> shape = inputs[0].sizes().vec();
  if (inputs.size() == 1) shape[static_cast<size_t>(plan.dim)] /= 2;
  return shape;
}

// Whether a plan is of these inputs: a caller may hand another over.
inline bool fits(const LatentPlan& plan, const std::vector<Tensor>& inputs) {
  const bool moments = inputs.size() == 1;
  const Tensor& loc = inputs[0];
  const int64_t n = moments ? loc.numel() / 2 : loc.numel();
  if (n < 1 || plan.columns < 0 || plan.kind < 0 || plan.kind >= 5 || (plan.columns && n % plan.columns))
    return false;
  if (moments ? plan.dim < 0 || plan.dim >= loc.dim() || loc.size(plan.dim) % 2 || !loc.is_contiguous()
              : loc.sizes() != inputs[1].sizes())
    return false;
  const auto inside = [&](const Tensor& t, int64_t shift, const fused_reparam_strides& s) {
    const int64_t most = static_cast<int64_t>(t.storage().nbytes() / t.element_size()) - t.storage_offset();
    if (!plan.columns) return t.is_contiguous() && shift >= 0 && shift <= most - n;
    const int64_t rows = n / plan.columns;
    if (s.row < 0 || s.column < 0 || shift < 0 || (rows > 1 && s.row > most) ||
        (plan.columns > 1 && s.column > most))
      return false;
    const auto last = shift + static_cast<__int128>(rows - 1) * s.row +
                      static_cast<__int128>(plan.columns - 1) * s.column;
    return last < most;
  };
  return inside(loc, 0, plan.loc) && (moments ? inside(loc, plan.shift, plan.scale)
                                              : inside(inputs[1], 0, plan.scale));
}

inline LatentResult latent_forward(const LatentPlan& plan, const std::vector<Tensor>& inputs,
                                   const Tensor& key) {
  at::AutoDispatchBelowADInplaceOrView no_gradients;
  const Tensor& loc = inputs[0];
  fused_reparam_call call = latent_call(plan, inputs.data(), inputs.size());
  LatentResult found;
  if (plan.with_z) {
    found.z = at::empty(shape_of_z(plan, inputs), loc.options());
    call.key = static_cast<const uint64_t*>(key.data_ptr());
    call.z_or_grad_z = found.z.data_ptr();
  }
  if (plan.with_kl) {
    found.kl = at::empty({}, value_options(loc));
    call.kl_or_grad_kl = found.kl.data_ptr();
  }
  run(gaussian_forward, call);
  return found;
}

// The gradients of one tensor of moments, or of loc and scale where they are needed: undefined gradients
// of outputs are zero. Without a gradient of the KL, that of loc is that of z itself.
inline variable_list latent_backward(const LatentPlan& plan, const Tensor& key, const Tensor* inputs,
                                     size_t count, const Tensor& grad_z, const Tensor& grad_kl,
                                     bool of_loc, bool of_scale) {
  variable_list found(count);
  fused_reparam_call call = latent_call(plan, inputs, count);
  if (grad_z.defined()) {
    call.key = static_cast<const uint64_t*>(key.data_ptr());
    call.z_or_grad_z = grad_z.data_ptr();
  }
  if (grad_kl.defined()) call.kl_or_grad_kl = grad_kl.data_ptr();
  if (count == 1) {
    found[0] = at::empty_like(inputs[0]);
    call.grad_loc = found[0].data_ptr();
    call.grad_scale = at_element(found[0], plan.shift);
  } else {
    if (of_loc) {
      // Without a KL: z is loc + sigma eps.
      found[0] = grad_kl.defined() ? like_z(inputs[0]) : grad_z;
      if (grad_kl.defined()) call.grad_loc = found[0].data_ptr();
    }
    if (of_scale) {
      found[1] = like_z(inputs[0]);
      call.grad_scale = found[1].data_ptr();
    }
  }
  if (call.grad_loc || call.grad_scale) run(gaussian_backward, call);
  return found;
}

class LatentNode final : public SavingNode {
 public:
  LatentNode(const Tensor& key, const std::vector<Tensor>& inputs, PyObject* spec,
             const LatentPlan& plan)
      : SavingNode(inputs[0].scalar_type(), spec), plan_(plan), of_loc_(inputs[0].strides().vec()),
        of_scale_(inputs.back().strides().vec()) {
    keep(key);
    for (const Tensor& t : inputs) keep(t);
  }
  std::string name() const override { return "FusedGaussianLatentBackward"; }

 protected:
  bool suits(const std::vector<Tensor>& saved, const variable_list& grads) const override {
    return saved[1].strides() == of_loc_ && saved.back().strides() == of_scale_ &&
           (!grads[0].defined() || grads[0].is_contiguous());
  }

  variable_list compute(const std::vector<Tensor>& saved, const variable_list& grads) override {
    const Tensor none;
    const bool of_scale = saved.size() > 2 && task_should_compute_output(1);
    return latent_backward(plan_, saved[0], saved.data() + 1, saved.size() - 1,
                           plan_.with_z ? grads[0] : none, plan_.with_kl ? grads.back() : none,
                           task_should_compute_output(0), of_scale);
  }

  void collect_plan(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    const LatentPlan& p = plan_;
    for (int64_t x : {p.columns, p.loc.row, p.loc.column, p.scale.row, p.scale.column, p.shift, p.dim,
                      p.with_z, p.with_kl, p.kind})
      args.collect(x);
    for (double x : {p.low, p.high, p.weight}) args.collect(x);
  }

 private:
  LatentPlan plan_;
  std::vector<int64_t> of_loc_, of_scale_;
};

// latent(loc, scale or None for moments, spec, plan, key, generator): (z, kl), None where the plan has
// none; or None for the way through Python. The plan is of these shapes and strides.
inline PyObject* latent(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  expect_arguments("latent", count, 6);
  if (!is_backend() || !undisturbed()) Py_RETURN_NONE;
  std::vector<Tensor> inputs;
  inputs.reserve(2);
  for (int i = 0; i < (args[1] == Py_None ? 1 : 2); ++i) {
    const Tensor* t = plain_object(args[i]);
    if (!t || dtype_code(*t) < 0 || (i && t->scalar_type() != inputs[0].scalar_type()))
      Py_RETURN_NONE;
    inputs.push_back(*t);
  }
  const LatentPlan plan = from_bytes<LatentPlan>(args[3]);
  TORCH_CHECK_VALUE(fits(plan, inputs), "latent: the plan is not one of these inputs");
  const std::optional<Tensor> key = plan.with_z ? key_of(args[4], args[5]) : Tensor();
  if (!key) Py_RETURN_NONE;

  RECORD_FUNCTION("fused_reparam::gaussian_latent", c10::ArrayRef<const c10::IValue>{});
  const LatentResult found = latent_forward(plan, inputs, *key);
  std::vector<Tensor> outputs;
  outputs.reserve(2);
  for (const Tensor& t : {found.z, found.kl})
    if (t.defined()) outputs.push_back(t);
  if (wants_gradient(inputs)) record<LatentNode>(outputs, inputs, *key, inputs, args[2], plan);
  return tuple_of(std::vector<Tensor>{found.z, found.kl});
  END_HANDLE_TH_ERRORS
}

}  // namespace fr::host
