// The parameters of a call as they mostly are: fused_reparam/functional/arguments.py in C++.
#pragma once

#include "torch/layout.h"

namespace fr::ops {

// Whether a tensor, on any device, is of a dtype that is computed, and has strides, which are numbers.
inline bool is_dense(const Tensor& t) {
  return !t.is_nested() && t.layout() == at::kStrided && dtype_code(t) >= 0 &&
         !t.unsafeGetTensorImpl()->has_symbolic_sizes_strides();
}

inline bool broadcasts_to(IntArrayRef shape, IntArrayRef other) {
  if (other == shape) return true;
  if (other.size() > shape.size()) return false;
  const IntArrayRef behind = shape.slice(shape.size() - other.size());
  for (size_t i = 0; i < other.size(); ++i)
    if (other[i] != 1 && other[i] != behind[i]) return false;
  return true;
}

// parameters(named): the values of ((name, value), ...) as a list of tensors, where each is one of the dtype
// and device of the first, or of the second behind a number, and broadcasts to its shape, or is a number.
// Else None: whatever may mean more than its value (a subclass, a mode that overrides functions) is Python's.
inline PyObject* parameters(PyObject*, PyObject* named) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(PyTuple_CheckExact(named), "parameters: expected a tuple of names and values");
  const Py_ssize_t count = PyTuple_GET_SIZE(named);
  const auto value = [named](Py_ssize_t i) {
    PyObject* pair = PyTuple_GET_ITEM(named, i);
    TORCH_CHECK_TYPE(PyTuple_CheckExact(pair) && PyTuple_GET_SIZE(pair) == 2,
                     "parameters: expected a tuple of names and values");
    return PyTuple_GET_ITEM(pair, 1);
  };
  PyObject* first = nullptr;
  for (Py_ssize_t i = 0; i < std::min<Py_ssize_t>(count, 2) && !first; ++i)
    if (THPVariable_CheckExact(value(i))) first = value(i);
  if (!first || at::impl::torch_function_mode_enabled()) Py_RETURN_NONE;
  const Tensor& loc = THPVariable_Unpack(first);
  if (!is_dense(loc)) Py_RETURN_NONE;
  THPObjectPtr found(PyList_New(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* given = value(i);
    if (PyFloat_CheckExact(given)) {
      const Tensor number = at::scalar_tensor(PyFloat_AS_DOUBLE(given), loc.options());
      PyList_SET_ITEM(found.get(), i, THPVariable_Wrap(number));
      continue;
    }
    if (!THPVariable_CheckExact(given)) Py_RETURN_NONE;
    const Tensor& t = THPVariable_Unpack(given);
    if (!is_dense(t) || t.scalar_type() != loc.scalar_type() || t.device() != loc.device() ||
        !broadcasts_to(loc.sizes(), t.sizes()))
      Py_RETURN_NONE;
    PyList_SET_ITEM(found.get(), i, Py_NewRef(given));
  }
  return found.release();
  END_HANDLE_TH_ERRORS
}

}  // namespace fr::ops
