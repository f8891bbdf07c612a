// The short way of relaxed categories: contiguous logits.
#pragma once

#include "calls.h"
#include "host.h"

namespace fr::host {

using SoftmaxEntry = int (*)(const fused_reparam_softmax*);
inline SoftmaxEntry softmax_forward = nullptr, softmax_backward = nullptr;

// As fused_reparam/backends/reference/rows.py numbers them.
enum RowsMode : int64_t { kSoft, kHard, kOneHot };

enum RowsKl : int64_t { kNone, kEach, kSummed };

struct RowsPlan {
  int64_t mode;
  double tau, unimix;
  int64_t dim, kl;
  double weight;  // of a sum
};

inline fused_reparam_softmax rows_call(const RowsPlan& plan, const Tensor& like) {
  fused_reparam_softmax call{};
  call.dtype = dtype_code(like);
  call.mode = plan.mode;
  call.outer = call.inner = 1;
  for (int64_t i = 0; i < plan.dim; ++i) call.outer *= like.size(i);
  call.classes = like.size(plan.dim);
  for (int64_t i = plan.dim + 1; i < like.dim(); ++i) call.inner *= like.size(i);
  call.tau = plan.tau;
  call.unimix = plan.unimix;
  call.logits = like.data_ptr();
  call.logits_strides = call.grad_strides = {call.classes * call.inner, call.inner, 1};
  return call;
}

// Whether the library can compute a plan of these logits: a caller may hand another over.
inline bool fits(const RowsPlan& plan, const Tensor& logits) {
  return plan.mode >= kSoft && plan.mode <= kOneHot && plan.tau >= 0x1p-126 && plan.tau <= 0x1p126 &&
         plan.unimix >= 0 && plan.unimix < 1 && plan.dim >= 0 && plan.dim < logits.dim() &&
         logits.size(plan.dim) <= INT32_MAX && plan.kl >= kNone && plan.kl <= kSummed;
}

inline std::vector<int64_t> without_classes(const RowsPlan& plan, const Tensor& logits) {
  std::vector<int64_t> shape = logits.sizes().vec();
  shape.erase(shape.begin() + plan.dim);
  return shape;
}

struct RowsResult {
  Tensor y, soft, kl;  // undefined where not wanted
};

inline RowsResult rows_forward(const RowsPlan& plan, const Tensor& key, const Tensor& logits,
                               bool want_soft) {
  at::AutoDispatchBelowADInplaceOrView no_gradients;
  fused_reparam_softmax call = rows_call(plan, logits);
  RowsResult found;
  found.y = at::empty_like(logits);
  call.key = static_cast<const uint64_t*>(key.data_ptr());
  call.y_or_grad_y = found.y.data_ptr();
  if (want_soft) {
    found.soft = at::empty_like(logits);
    call.soft = found.soft.data_ptr();
  }
  if (plan.kl != kNone) {
    found.kl = at::empty(without_classes(plan, logits), value_options(logits));
    call.kl_or_grad_kl = found.kl.data_ptr();
  }
  run(softmax_forward, call);
  if (plan.kl == kSummed) {
    found.kl = found.kl.sum();
    if (plan.weight != 1) found.kl.mul_(plan.weight);
  }
  return found;
}

// The gradient of the logits, of which there is one: logits or soft may be undefined where not read.
inline Tensor rows_backward(const RowsPlan& plan, const Tensor& logits, const Tensor& soft,
                            const Tensor& grad_y, const Tensor& grad_kl) {
  const Tensor& like = logits.defined() ? logits : soft;
  fused_reparam_softmax call = rows_call(plan, like);
  const Tensor grad = at::empty_like(like);
  Tensor of_kl = grad_kl;
  if (of_kl.defined() && plan.kl == kSummed) {
    if (plan.weight != 1) of_kl = of_kl * plan.weight;
    of_kl = of_kl.expand(without_classes(plan, like));
  }
  if (of_kl.defined()) of_kl = of_kl.contiguous();
  if (grad_y.defined()) call.y_or_grad_y = grad_y.data_ptr();
  if (of_kl.defined()) call.kl_or_grad_kl = of_kl.data_ptr();
  if (soft.defined()) call.soft = soft.data_ptr();
  call.grad_logits = grad.data_ptr();
  run(softmax_backward, call);
  return grad;
}

// Its outputs are y, then for kHard what y's gradient is of, then the KL if any.
class RowsNode final : public SavingNode {
 public:
  RowsNode(const Tensor& logits, PyObject* spec, const RowsPlan& plan)
      : SavingNode(logits.scalar_type(), spec), plan_(plan) {
    keep(Tensor());  // no key: what is saved of y stands for the noise
    keep(plan.kl != kNone || plan.mode == kOneHot ? logits : Tensor());
  }
  std::string name() const override { return "FusedCategoriesBackward"; }

 protected:
  bool suits(const std::vector<Tensor>& saved, const variable_list& grads) const override {
    for (const Tensor& t : saved)
      if (t.defined() && !t.is_contiguous()) return false;
    if (plan_.mode == kHard && grads[1].defined()) return false;
    return !grads[0].defined() || grads[0].is_contiguous();
  }

  variable_list compute(const std::vector<Tensor>& saved, const variable_list& grads) override {
    return {rows_backward(plan_, saved[1], saved[2], grads[0],
                          plan_.kl != kNone ? grads.back() : Tensor())};
  }

  void collect_plan(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    for (int64_t x : {plan_.mode, plan_.dim, plan_.kl}) args.collect(x);
    for (double x : {plan_.tau, plan_.unimix, plan_.weight}) args.collect(x);
  }

 private:
  RowsPlan plan_;
};

// rows(logits, spec, key, generator): (y, kl or None), or None for the way through Python. spec is a
// tuple of a plan's fields, all checked.
inline PyObject* rows(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  expect_arguments("rows", count, 4);
  TORCH_CHECK_TYPE(PyTuple_Check(args[1]) && PyTuple_GET_SIZE(args[1]) == 6,
                   "rows: spec must be a tuple of a plan's 6 fields");
  const Tensor* given = plain_object(args[0]);
  if (!is_backend() || !undisturbed() || !given || dtype_code(*given) < 0 ||
      !given->is_contiguous() || given->numel() == 0)
    Py_RETURN_NONE;
  const auto number = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(args[1], i); };
  const RowsPlan plan{PyLong_AsLongLong(number(0)), PyFloat_AsDouble(number(1)),
                      PyFloat_AsDouble(number(2)), PyLong_AsLongLong(number(3)),
                      PyLong_AsLongLong(number(4)), PyFloat_AsDouble(number(5))};
  if (PyErr_Occurred()) throw python_error();
  TORCH_CHECK_VALUE(fits(plan, *given), "rows: the plan is not one of these logits");
  const std::optional<Tensor> key = key_of(args[2], args[3]);
  if (!key) Py_RETURN_NONE;

  const Tensor& logits = *given;
  RECORD_FUNCTION("fused_reparam::relaxed_categories", c10::ArrayRef<const c10::IValue>{});
  const bool differentiable = wants_gradient({logits});
  const RowsResult found =
      rows_forward(plan, *key, logits, differentiable && plan.mode == kHard);
  if (differentiable) {
    std::vector<Tensor> outputs;
    for (const Tensor& t : {found.y, found.soft, found.kl})
      if (t.defined()) outputs.push_back(t);
    const auto node = record<RowsNode>(outputs, {logits}, logits, args[1], plan);
    node->keep(plan.mode == kSoft ? found.y : found.soft, true);
  }
  return tuple_of(std::vector<Tensor>{found.y, found.kl});
  END_HANDLE_TH_ERRORS
}

}  // namespace fr::host
