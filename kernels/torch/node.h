// The autograd node of an op: saved tensors, what a hook may do to them, compiled autograd, and the way
// through Python where a backward pass is itself to be differentiated, or traced.
#pragma once

#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/csrc/utils/python_tuples.h>

#include <atomic>
#include <type_traits>

#include "torch/common.h"

namespace fr::ops {

using torch::autograd::Node;
using torch::autograd::SavedVariable;

// PyTorch counts references to nodes in one of two ways, by version.
template <class N>
constexpr bool counted = std::is_base_of_v<c10::intrusive_ptr_target, N>;

template <class N>
auto pointer_to(N* node) {
  if constexpr (counted<N>)
    return c10::intrusive_ptr<N>::reclaim_copy(node);
  else
    return node->shared_from_this();
}

// What an op is in Python (fused_reparam/ops/differentiable.py).
struct OpInPython {
  PyObject *compute = nullptr, *autograd = nullptr, *compute_backward = nullptr,
           *autograd_backward = nullptr, *gradients = nullptr;
};

// `Op` says what is computed: torch/elementwise.h, torch/softmax.h.
template <class Op>
class OpNode final : public Node {
 public:
  using Spec = typename Op::Spec;

  explicit OpNode(Spec spec) : spec_(std::move(spec)) {}

  std::string name() const override { return Op::node_name; }

  // What the node itself has made can be kept when it has become its output.
  void keep(const Tensor& t, bool is_output = false) {
    saved_.emplace_back(t, is_output);
    of_outputs_.push_back(is_output && t.defined());
    Kept& kept = kept_.emplace_back();
    if (!t.defined()) return;
    kept.defined = true;
    kept.shape.assign(t.sizes().begin(), t.sizes().end());
    kept.is_key = !t.is_floating_point();
    kept.dtype = t.scalar_type();
  }
  // Which output of the op a recorded output is.
  void place(size_t output) { places_.push_back(output); }

  bool spent() const { return spent_; }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& s : saved_) s.reset_data();
    spent_ = true;
  }

  variable_list apply(variable_list&& grads) override {
    bool any = false;
    for (size_t i = 0; i < grads.size(); ++i) {
      if (!grads[i].defined()) continue;
      any = true;
      // Autograd's engine has checked the gradients; whoever calls a grad_fn by hand has not.
      const auto& expected = input_metadata(static_cast<uint32_t>(i));
      TORCH_CHECK(expected.is_same_shape(grads[i]) && grads[i].dtype() == expected.dtype() &&
                      grads[i].device() == expected.device(),
                  name(), ": gradient ", i, " does not have its output's shape, dtype and device");
    }
    if (!any) return variable_list(num_outputs());
    typename Op::Inputs saved = unpacked();
    variable_list placed = in_place(grads);
    // A hook on saved tensors may have returned others, of which Python knows whether they will do.
    bool sound = true;
    for (const Tensor& g : grads) sound = sound && (!g.defined() || in_memory(g));
    for (size_t i = 0; i < saved.size(); ++i) sound = sound && as_kept(saved[i], kept_[i]);
    typename Op::Needs needs;
    for (size_t i = 0; i < needs.size(); ++i) needs[i] = task_should_compute_output(i);
    if (sound && !at::GradMode::is_enabled() && undisturbed() && Op::can_differentiate(saved, needs))
      return Op::backward(spec_, saved, placed, needs, true);
    return through_python(in_python.gradients, nullptr, saved, placed, !sound);
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    for (size_t i = 0; i < saved_.size(); ++i) {
      args.collect(saved_[i], of_outputs_[i]);
      for (int64_t size : kept_[i].shape) args.collect(size);
    }
    // Constants. The order is among them, for it may follow from strides, which are no part of this.
    for (const IValue& option : Op::options_of(spec_)) args.collect(option, true);
  }

  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& swap) override {
    // The gradients at hand may be stand-ins of another shape (a sum of two is one): a call is recorded.
    for (SavedVariable& s : saved_) swap.before(s);
    variable_list found =
        through_python(recorded, swap.get_py_compiler(), unpacked(), in_place(grads), true);
    for (SavedVariable& s : saved_) swap.after(s);
    return found;
  }

  inline static OpInPython in_python;
  inline static PyObject* recorded = nullptr;

 private:
  struct Kept {
    Dims shape;
    at::ScalarType dtype = at::kFloat;
    bool defined = false, is_key = false;
  };

  variable_list in_place(const variable_list& grads) const {
    variable_list placed(Op::outputs);
    for (size_t i = 0; i < grads.size(); ++i) placed[places_[i]] = grads[i];
    return placed;
  }

  typename Op::Inputs unpacked() {
    std::lock_guard<std::mutex> lock(mutex_);
    typename Op::Inputs saved;
    for (const SavedVariable& s : saved_) saved.push_back(s.unpack(pointer_to<Node>(this)));
    return saved;
  }

  // Whether a tensor is as it was when it was saved, and can be computed with.
  bool as_kept(const Tensor& t, const Kept& kept) const {
    if (!t.defined()) return !kept.defined;
    if (kept.is_key) return is_key(t);
    return in_memory(t) && t.scalar_type() == kept.dtype && t.sizes() == IntArrayRef(kept.shape);
  }

  // Shape and dtype of each tensor that was saved, None where there was none.
  THPObjectPtr kept_as_tuple() const {
    THPObjectPtr all(PyTuple_New(static_cast<Py_ssize_t>(kept_.size())));
    for (size_t i = 0; i < kept_.size(); ++i) {
      PyObject* item = Py_NewRef(Py_None);
      if (kept_[i].defined) {
        Py_DECREF(item);
        auto* dtype = reinterpret_cast<PyObject*>(torch::getTHPDtype(kept_[i].dtype));
        THPObjectPtr shape(THPUtils_packInt64Array(kept_[i].shape.size(), kept_[i].shape.data()));
        item = PyTuple_Pack(2, shape.get(), dtype);
      }
      PyTuple_SET_ITEM(all.get(), static_cast<Py_ssize_t>(i), item);
    }
    return all;
  }

  // function("native", options, needs, grads, saved, kept), and two arguments more if there is a last one.
  // `kept` is None where nothing is left to check.
  variable_list through_python(PyObject* function, PyObject* last, const typename Op::Inputs& saved,
                               const variable_list& grads, bool to_check) {
    pybind11::gil_scoped_acquire ours;
    const size_t count = num_outputs();
    THPObjectPtr needs(PyTuple_New(static_cast<Py_ssize_t>(count)));
    for (size_t i = 0; i < count; ++i)
      PyTuple_SET_ITEM(needs.get(), static_cast<Py_ssize_t>(i),
                       PyBool_FromLong(task_should_compute_output(i)));
    const std::vector<IValue> all = Op::options_of(spec_);
    THPObjectPtr options(tuple_of_values(all.data(), all.size()));
    THPObjectPtr of_grads(tuple_of(grads)), of_saved(tuple_of(saved));
    THPObjectPtr kept(to_check ? kept_as_tuple() : THPObjectPtr(Py_NewRef(Py_None)));
    THPObjectPtr arguments(PyTuple_Pack(last ? 8 : 6, native, options.get(), needs.get(), of_grads.get(),
                                        of_saved.get(), kept.get(), last ? in_python.gradients : nullptr,
                                        last));
    THPObjectPtr found(called(function, arguments.get()));
    found = THPObjectPtr(PySequence_Tuple(found.get()));
    TORCH_CHECK(found && PyTuple_GET_SIZE(found.get()) == (Py_ssize_t)count);
    variable_list result(count);
    for (size_t i = 0; i < count; ++i) {
      PyObject* item = PyTuple_GET_ITEM(found.get(), static_cast<Py_ssize_t>(i));
      if (item != Py_None) result[i] = THPVariable_Unpack(item);
    }
    return result;
  }

  Spec spec_;
  c10::SmallVector<SavedVariable, Op::kept> saved_;
  c10::SmallVector<bool, Op::kept> of_outputs_;
  c10::SmallVector<Kept, Op::kept> kept_;
  c10::SmallVector<size_t, Op::outputs> places_;
  std::atomic<bool> spent_ = false;
};

template <class N, class... Args>
auto make_node(Args&&... args) {
  if constexpr (counted<Node>)
    return c10::make_intrusive<N>(std::forward<Args>(args)...);
  else
    return std::shared_ptr<N>(new N(std::forward<Args>(args)...), [](N* n) { deleteNode(n); });
}

}  // namespace fr::ops
