// What the short ways of host.cpp share: when they may be taken, keys, saved tensors.
//
// A small call costs host time, not arithmetic: with checks, allocations and autograd node in Python a
// forward and backward pass of 256x6 takes 84 us, with them here 42, and inside a model, whose weights
// push Python's code out of the caches, the difference is larger (docs/performance.md). Whatever is
// unusual is declined, and goes the way through Python.
#pragma once

#include <torch/csrc/python_headers.h>

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <c10/core/SafePyObject.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/Generator.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/utils/object_ptr.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/csrc/utils/python_tuples.h>

#include <atomic>
#include <cstring>
#include <optional>
#include <type_traits>
#include <vector>

namespace fr::host {

using at::Tensor;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// The context variable that holds the backend asked for, and the name of this one.
inline PyObject *asked = nullptr, *native = nullptr;

// Whether nobody asked for another backend.
inline bool is_backend() {
  PyObject* name = nullptr;
  if (PyContextVar_Get(asked, nullptr, &name) < 0) throw python_error();
  const bool ok = name == nullptr || name == Py_None || PyUnicode_Compare(name, native) == 0;
  Py_XDECREF(name);
  return ok;
}

// Whether no transform, dispatch mode or tracer looks on; fused_reparam/modes.py has it in Python.
inline bool undisturbed() {
  return !c10::impl::TorchDispatchModeTLS::any_modes_set() &&
         !c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) &&
         !torch::jit::tracer::isTracing();
}

// Whether a tensor's storage holds all its elements: one may be shrunk behind its back.
inline bool held(const Tensor& t) {
  if (!t.has_storage()) return false;
  if (t.numel() == 0) return true;
  int64_t last = t.storage_offset();
  for (int64_t i = 0; i < t.dim(); ++i) last += (t.size(i) - 1) * t.stride(i);
  const int64_t needed = (last + 1) * static_cast<int64_t>(t.element_size());
  return t.storage().data() && static_cast<size_t>(needed) <= t.storage().nbytes();
}

// Whether a tensor's memory on the CPU holds its values: no subclass, no other layout, no negative bit.
inline bool plain(const Tensor& t) {
  constexpr c10::DispatchKeySet allowed({c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU,
                                         c10::DispatchKey::AutocastCPU,
                                         c10::DispatchKey::ADInplaceOrView});
  return t.defined() && (t.key_set().raw_repr() & ~allowed.raw_repr()) == 0 &&
         t.layout() == at::kStrided && held(t);
}

// The tensor in a Python object, if it is exactly that, plain, and carries no forward derivative.
inline const Tensor* plain_object(PyObject* object) {
  if (!THPVariable_CheckExact(object)) return nullptr;
  const Tensor& t = THPVariable_Unpack(object);
  return plain(t) && !t._fw_grad(0).defined() ? &t : nullptr;
}

// The library's number of a dtype; -1 for any that it does not compute.
inline int64_t dtype_code(const Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat: return 0;
    case at::kBFloat16: return 1;
    case at::kHalf: return 2;
    case at::kDouble: return 3;
    default: return -1;
  }
}

inline at::TensorOptions value_options(const Tensor& t) {
  return t.options().dtype(t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

inline bool is_key(const Tensor& t) {
  return plain(t) && t.dim() == 1 && t.size(0) == 2 && t.is_contiguous() &&
         (t.scalar_type() == at::kUInt64 || t.scalar_type() == at::kLong);
}

// A fresh key as noise.random_bits draws it.
inline Tensor random_bits(std::optional<at::Generator> source) {
  return at::randint(INT64_MAX, {2}, source, at::TensorOptions().dtype(at::kLong).device(at::kCPU));
}

// The key given, or a fresh one; nothing where either is not as expected.
inline std::optional<Tensor> key_of(PyObject* key, PyObject* generator) {
  if (key != Py_None) {
    const Tensor* t = plain_object(key);
    return t && is_key(*t) ? std::optional<Tensor>(*t) : std::nullopt;
  }
  std::optional<at::Generator> source;
  if (generator != Py_None) {
    if (!THPGenerator_Check(generator)) return std::nullopt;
    source = THPGenerator_Unwrap(generator);
  }
  return random_bits(source);
}

// A function of the module has been called with this many arguments.
inline void expect_arguments(const char* name, Py_ssize_t count, Py_ssize_t expected) {
  TORCH_CHECK_TYPE(count == expected, name, ": expected ", expected, " arguments, got ", count);
}

// A plan as Python packs it.
template <class Plan>
Plan from_bytes(PyObject* object) {
  TORCH_CHECK_TYPE(PyBytes_Check(object) && PyBytes_GET_SIZE(object) == sizeof(Plan),
                   "the plan must be bytes, ", sizeof(Plan), " of them");
  Plan plan;
  std::memcpy(&plan, PyBytes_AS_STRING(object), sizeof plan);
  return plan;
}

template <class Call>
void run(int (*entry)(const Call*), const Call& call) {
  int failed;
  if (PyGILState_Check()) {
    pybind11::gil_scoped_release others;
    failed = entry(&call);
  } else {
    failed = entry(&call);
  }
  TORCH_CHECK(!failed, "the native library failed");
}

inline PyObject* wrapped(const Tensor& t) {
  return t.defined() ? THPVariable_Wrap(t) : Py_NewRef(Py_None);
}

template <class List>
PyObject* tuple_of(const List& tensors) {
  PyObject* tuple = PyTuple_New(static_cast<Py_ssize_t>(tensors.size()));
  if (!tuple) throw python_error();
  for (size_t i = 0; i < tensors.size(); ++i)
    PyTuple_SET_ITEM(tuple, static_cast<Py_ssize_t>(i), wrapped(tensors[i]));
  return tuple;
}

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

// What the kinds of nodes have in common: saved tensors (the key or an undefined tensor first), and for a
// backward pass that is unusual the way through Python: `general(spec, needs, grads, saved)`.
class SavingNode : public Node {
 public:
  SavingNode(at::ScalarType dtype, PyObject* spec)
      : dtype_(dtype), spec_(Py_NewRef(spec), getPyInterpreter()) {}

  // What the node itself has made can be kept when it has become its output.
  void keep(const Tensor& t, bool is_output = false) {
    saved_.emplace_back(t, is_output);
    kept_.emplace_back(t.defined() ? t.sizes() : at::IntArrayRef());
    of_outputs_.push_back(is_output && t.defined());
  }

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
      // The engine has seen to it; a call of grad_fn by hand has not.
      const auto& expected = input_metadata(static_cast<uint32_t>(i));
      TORCH_CHECK(expected.is_same_shape(grads[i]) && grads[i].dtype() == expected.dtype(), name(),
                  ": gradient ", i, " does not have its output's shape and dtype");
    }
    if (!any) return variable_list(num_outputs());
    const std::vector<Tensor> saved = unpacked();
    // A hook on saved tensors may have returned others, of which Python knows whether they will do.
    bool sound = true;
    for (const Tensor& g : grads) sound = sound && (!g.defined() || plain(g));
    for (size_t i = 0; i < saved.size(); ++i)
      sound = sound && (!saved[i].defined() || as_kept(saved[i], i));
    if (sound && !at::GradMode::is_enabled() && undisturbed() && suits(saved, grads))
      return compute(saved, grads);
    return through_python(general, nullptr, saved, grads, !sound);
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    for (size_t i = 0; i < saved_.size(); ++i) {
      args.collect(saved_[i], of_outputs_[i]);
      for (int64_t size : kept_[i]) args.collect(size);
    }
    collect_plan(args);
  }

  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& swap) override {
    // The gradients at hand may be stand-ins of another shape (a sum of two is one): a call is recorded.
    for (SavedVariable& s : saved_) swap.before(s);
    variable_list found = through_python(recorded, swap.get_py_compiler(), unpacked(), grads, true);
    for (SavedVariable& s : saved_) swap.after(s);
    return found;
  }

  inline static PyObject *general = nullptr, *recorded = nullptr;

 protected:
  // Whether `compute` can do it; all tensors are plain and of the dtype expected.
  virtual bool suits(const std::vector<Tensor>& saved, const variable_list& grads) const = 0;
  virtual variable_list compute(const std::vector<Tensor>& saved, const variable_list& grads) = 0;
  virtual void collect_plan(torch::dynamo::autograd::CompiledNodeArgs& args) const = 0;

 private:
  std::vector<Tensor> unpacked() {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<Tensor> saved;
    saved.reserve(saved_.size());
    for (const SavedVariable& s : saved_) saved.push_back(s.unpack(pointer_to<Node>(this)));
    return saved;
  }

  // Whether a tensor is as it was when it was saved, and can be computed with.
  bool as_kept(const Tensor& t, size_t i) const {
    if (i == 0) return is_key(t);
    return plain(t) && t.scalar_type() == dtype_ && t.sizes() == at::IntArrayRef(kept_[i]);
  }

  // The shapes of what was saved, as a tuple of tuples.
  PyObject* kept_shapes() const {
    PyObject* shapes = PyTuple_New(static_cast<Py_ssize_t>(kept_.size()));
    if (!shapes) throw python_error();
    for (size_t i = 0; i < kept_.size(); ++i)
      PyTuple_SET_ITEM(shapes, static_cast<Py_ssize_t>(i),
                       THPUtils_packInt64Array(kept_[i].size(), kept_[i].data()));
    return shapes;
  }

  // function(spec, needs, grads, saved, dtype, shapes), and the last argument if there is one. The shapes
  // of what was saved are None where nothing is left to check.
  variable_list through_python(PyObject* function, PyObject* last, const std::vector<Tensor>& saved,
                               const variable_list& grads, bool to_check) {
    pybind11::gil_scoped_acquire ours;
    const size_t count = num_outputs();
    THPObjectPtr needs(PyTuple_New(static_cast<Py_ssize_t>(count)));
    for (size_t i = 0; i < count; ++i)
      PyTuple_SET_ITEM(needs.get(), static_cast<Py_ssize_t>(i),
                       PyBool_FromLong(task_should_compute_output(i)));
    THPObjectPtr of_grads(tuple_of(grads)), of_saved(tuple_of(saved)), shapes(to_check ? kept_shapes() : Py_NewRef(Py_None));
    PyObject* dtype = reinterpret_cast<PyObject*>(torch::getTHPDtype(dtype_));
    THPObjectPtr found(PyObject_CallFunctionObjArgs(function, spec_.ptr(getPyInterpreter()), needs.get(),
                                                    of_grads.get(), of_saved.get(), dtype, shapes.get(),
                                                    last, nullptr));
    if (!found) {
      python_error error;
      error.persist();
      throw std::move(error);
    }
    found = THPObjectPtr(PySequence_Tuple(found.get()));
    TORCH_CHECK(found && PyTuple_GET_SIZE(found.get()) == (Py_ssize_t)count);
    variable_list result(count);
    for (size_t i = 0; i < count; ++i) {
      PyObject* item = PyTuple_GET_ITEM(found.get(), static_cast<Py_ssize_t>(i));
      if (item != Py_None) result[i] = THPVariable_Unpack(item);
    }
    return result;
  }

  std::vector<SavedVariable> saved_;
  std::vector<bool> of_outputs_;
  std::vector<at::DimVector> kept_;  // the shapes of what was saved
  at::ScalarType dtype_;
  c10::SafePyObject spec_;
  std::atomic<bool> spent_ = false;
};

template <class N, class... Args>
auto make_node(Args&&... args) {
  if constexpr (counted<Node>)
    return c10::make_intrusive<N>(std::forward<Args>(args)...);
  else
    return std::shared_ptr<N>(new N(std::forward<Args>(args)...), [](N* n) { deleteNode(n); });
}

// Make a node the source of outputs.
template <class N, class... Args>
auto record(const std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs, Args&&... args) {
  auto node = make_node<N>(std::forward<Args>(args)...);
  node->set_next_edges(torch::autograd::collect_next_edges(inputs));
  for (const Tensor& t : outputs) torch::autograd::set_history(t, node);
  return node;
}

inline bool wants_gradient(const std::vector<Tensor>& inputs) {
  if (!at::GradMode::is_enabled()) return false;
  for (const Tensor& t : inputs)
    if (t.requires_grad()) return true;
  return false;
}

}  // namespace fr::host
