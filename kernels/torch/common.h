// What the ops' kernels in C++ (torch/extension.cpp) share: which tensors they can read as they are, and
// calls into Python.
//
// A small call costs host time, not arithmetic: with checks, layout, allocations and autograd node in
// Python a forward and backward pass of 256x6 takes 84 us, with them here 42, and inside a model, whose
// weights push Python's code out of the caches, the difference is larger (docs/performance.md).
#pragma once

#include <torch/csrc/python_headers.h>

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <ATen/core/ivalue.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/utils/object_ptr.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <string>
#include <vector>

#include "common/c_api.h"
#include "common/interface.h"

namespace fr::ops {

using at::IntArrayRef;
using at::Tensor;
using c10::IValue;
using torch::autograd::variable_list;
using Dims = c10::SmallVector<int64_t, 6>;

// As fused_reparam/ops/operands.py has it: of more, Python says that they are too many.
constexpr int64_t most_elements = int64_t{1} << 58;

// The context variable that holds the backend asked for, and the name of this one.
inline PyObject *asked = nullptr, *native = nullptr;

// Whether nobody asked for another backend. Whoever calls holds the interpreter.
inline bool is_backend() {
  PyObject* name = nullptr;
  if (PyContextVar_Get(asked, nullptr, &name) < 0) throw python_error();
  const bool ok = name == nullptr || name == Py_None || PyUnicode_Compare(name, native) == 0;
  Py_XDECREF(name);
  return ok;
}

// Whether no transform, dispatch mode or tracer looks on; fused_reparam/core/modes.py has it in Python.
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
inline bool in_memory(const Tensor& t) {
  constexpr c10::DispatchKeySet allowed({c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU,
                                         c10::DispatchKey::AutocastCPU,
                                         c10::DispatchKey::ADInplaceOrView});
  return t.defined() && (t.key_set().raw_repr() & ~allowed.raw_repr()) == 0 &&
         t.layout() == at::kStrided && held(t);
}

// The library's number of a dtype; -1 for any that it does not compute.
inline int64_t dtype_code(const Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat: return static_cast<int64_t>(Dtype::f32);
    case at::kBFloat16: return static_cast<int64_t>(Dtype::bf16);
    case at::kHalf: return static_cast<int64_t>(Dtype::f16);
    case at::kDouble: return static_cast<int64_t>(Dtype::f64);
    default: return -1;
  }
}

// Of terms such as a KL.
inline at::TensorOptions term_options(const Tensor& t) {
  return t.options().dtype(t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

inline bool is_key(const Tensor& t) {
  return in_memory(t) && t.dim() == 1 && t.size(0) == 2 && t.is_contiguous() &&
         (t.scalar_type() == at::kUInt64 || t.scalar_type() == at::kLong);
}

// The tensor of an argument that may be None, if this file can compute with it.
inline bool read(const IValue& value, Tensor& to) {
  if (value.isNone()) return true;
  if (!value.isTensor()) return false;
  to = value.toTensor();
  return in_memory(to) && !to._fw_grad(0).defined();
}

inline bool wants_gradient(const Tensor& t) {
  return t.defined() && t.requires_grad() && at::GradMode::is_enabled();
}

// ---- how terms of each element are reduced ------------------------------------------------------------

enum class Reduction { none, sample, sum, mean, batchmean, last };
// As fused_reparam/core/reductions.py names them, in the same order. Behind these comes the sum over all
// dims but the leading ones, by their number: "keep0", "keep1", ...
constexpr const char* reduction_names[] = {"none", "sample", "sum", "mean", "batchmean", "last"};
constexpr auto first_keeping = static_cast<int64_t>(std::size(reduction_names));

inline std::optional<Reduction> reduction_of(const std::string& name) {
  for (size_t i = 0; i < std::size(reduction_names); ++i)
    if (name == reduction_names[i]) return static_cast<Reduction>(i);
  for (int64_t count = 0; count < 64 && name.starts_with("keep"); ++count)
    if (name.compare(4, std::string::npos, std::to_string(count)) == 0)
      return static_cast<Reduction>(first_keeping + count);
  return std::nullopt;
}
inline IValue name_of(std::optional<Reduction> reduction) {
  if (!reduction) return IValue();
  const auto number = static_cast<int64_t>(*reduction);
  if (number >= first_keeping) return IValue("keep" + std::to_string(number - first_keeping));
  return IValue(reduction_names[number]);
}

// Whether values of so many dims can be reduced so.
inline bool reducible(std::optional<Reduction> reduction, int64_t dims) {
  return !reduction || static_cast<int64_t>(*reduction) - first_keeping < dims;
}

inline int64_t kept_dims(int64_t dims, Reduction reduction) {
  if (static_cast<int64_t>(reduction) >= first_keeping) return static_cast<int64_t>(reduction) - first_keeping;
  switch (reduction) {
    case Reduction::none: return dims;
    case Reduction::last: return dims > 0 ? dims - 1 : 0;
    case Reduction::sample: return dims < 1 ? dims : 1;
    default: return 0;
  }
}

// The factor of a sum of elements, of which there are some.
inline double factor_of(IntArrayRef shape, Reduction reduction) {
  if (reduction == Reduction::mean) return 1.0 / static_cast<double>(c10::multiply_integers(shape));
  if (reduction == Reduction::batchmean && !shape.empty()) return 1.0 / static_cast<double>(shape[0]);
  return 1.0;
}

// ---- Python ------------------------------------------------------------------------------------------

// Lets other threads run Python meanwhile, where this one holds the interpreter.
class Others {
 public:
  Others() {
    if (PyGILState_Check()) released_.emplace();
  }

 private:
  std::optional<pybind11::gil_scoped_release> released_;
};

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

inline PyObject* to_python(const IValue& value) {
  if (value.isNone()) return Py_NewRef(Py_None);
  if (value.isTensor()) return wrapped(value.toTensor());
  if (value.isBool()) return PyBool_FromLong(value.toBool());
  if (value.isInt()) return PyLong_FromLongLong(value.toInt());
  if (value.isSymInt()) return py::cast(value.toSymInt()).release().ptr();  // a compiler's, for the samples
  if (value.isDouble()) return PyFloat_FromDouble(value.toDouble());
  if (value.isString()) {
    const std::string& text = value.toStringRef();
    return PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
  }
  TORCH_CHECK(value.isList(), "an op of fused_reparam got ", value.tagKind());
  const auto items = value.toListRef();
  THPObjectPtr list(PyList_New(static_cast<Py_ssize_t>(items.size())));
  for (size_t i = 0; i < items.size(); ++i)
    PyList_SET_ITEM(list.get(), static_cast<Py_ssize_t>(i), to_python(items[i]));
  return list.release();
}

inline THPObjectPtr tuple_of_values(const IValue* args, size_t count) {
  THPObjectPtr tuple(PyTuple_New(static_cast<Py_ssize_t>(count)));
  for (size_t i = 0; i < count; ++i)
    PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(i), to_python(args[i]));
  return tuple;
}

inline THPObjectPtr called(PyObject* function, PyObject* arguments) {
  THPObjectPtr found(PyObject_CallObject(function, arguments));
  if (!found) {
    python_error error;
    error.persist();
    throw std::move(error);
  }
  return found;
}

// ---- the library -------------------------------------------------------------------------------------

template <class Call>
void run(int (*entry)(const Call*), const Call& call) {
  const Others others;
  TORCH_CHECK(!entry(&call), "the native library failed");
}

}  // namespace fr::ops
