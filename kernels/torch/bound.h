// Calls of an op from Python: the arguments are read here and handed to the dispatcher, as the functions that
// PyTorch generates for its own operators do. `torch.ops` matches arguments to a schema step by step, for
// every kind of op, which takes longer than the kernel of a small call.
//
// It is the same op under the same dispatcher. What may mean more than its value (a subclass of a tensor, an
// argument of another type), and all while a mode, a transform or a tracer looks on, goes to Python.
#pragma once

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "torch/common.h"

namespace fr::ops {

inline bool unpack(PyObject* object, Tensor& to) {
  if (!THPVariable_CheckExact(object)) return false;  // a Parameter is a Tensor here
  to = THPVariable_Unpack(object);
  return true;
}
inline bool unpack(PyObject* object, int64_t& to) {
  int overflow = 0;
  if (!PyLong_CheckExact(object)) return false;
  to = PyLong_AsLongLongAndOverflow(object, &overflow);
  return !overflow;
}
inline bool unpack(PyObject* object, double& to) {
  if (!PyFloat_CheckExact(object)) return false;
  to = PyFloat_AS_DOUBLE(object);
  return true;
}
inline bool unpack(PyObject* object, bool& to) {
  to = object == Py_True;
  return PyBool_Check(object);
}
inline bool unpack(PyObject* object, std::string& to) {
  if (!PyUnicode_CheckExact(object) || !PyUnicode_IS_COMPACT_ASCII(object)) return false;
  const auto length = static_cast<size_t>(PyUnicode_GET_LENGTH(object));
  to.assign(static_cast<const char*>(PyUnicode_DATA(object)), length);
  return true;
}
template <class T>
bool unpack(PyObject* object, c10::List<T>& to) {
  if (!PyTuple_CheckExact(object) && !PyList_CheckExact(object)) return false;
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(object);
  to.reserve(static_cast<size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    T item{};
    if (!unpack(PySequence_Fast_GET_ITEM(object, i), item)) return false;
    to.push_back(item);
  }
  return true;
}

// An op with what its schema says of its arguments.
struct Bound {
  struct Argument {
    bool (*read)(PyObject*, IValue&) = nullptr;
    bool optional = false;
  };

  c10::OperatorHandle op;
  PyObject* otherwise;
  std::vector<Argument> arguments;

  Bound(const char* name, PyObject* function)
      : op(c10::Dispatcher::singleton().findSchemaOrThrow(name, "")), otherwise(Py_NewRef(function)) {
    for (const c10::Argument& argument : op.schema().arguments()) {
      const auto optional = argument.type()->cast<c10::OptionalType>();
      const c10::Type& type = optional ? *optional->getElementType() : *argument.type();
      find_reader<Tensor, int64_t, double, bool, std::string, c10::List<int64_t>, c10::List<double>>(type);
      arguments.back().optional = optional != nullptr;
    }
  }

  // Whether all arguments are read.
  bool read(PyObject* const* args, Py_ssize_t count, torch::jit::Stack& stack) const {
    if (static_cast<size_t>(count) != arguments.size() || at::impl::torch_function_mode_enabled() ||
        !undisturbed())
      return false;
    stack.resize(arguments.size());
    for (size_t i = 0; i < arguments.size(); ++i) {
      const auto& [read, optional] = arguments[i];
      if (!(optional && args[i] == Py_None) && !read(args[i], stack[i])) return false;
    }
    return true;
  }

  static PyObject* call(PyObject* capsule, PyObject* const* args, Py_ssize_t count) {
    HANDLE_TH_ERRORS
    const auto* bound = static_cast<const Bound*>(PyCapsule_GetPointer(capsule, nullptr));
    torch::jit::Stack stack;
    if (!bound->read(args, count, stack))
      return PyObject_Vectorcall(bound->otherwise, args, static_cast<size_t>(count), nullptr);
    bound->op.callBoxed(stack);  // which lets others run while it computes
    if (stack.size() == 1) return wrapped(stack[0].toTensor());
    THPObjectPtr found(PyTuple_New(static_cast<Py_ssize_t>(stack.size())));
    for (size_t i = 0; i < stack.size(); ++i)
      PyTuple_SET_ITEM(found.get(), static_cast<Py_ssize_t>(i), wrapped(stack[i].toTensor()));
    return found.release();
    END_HANDLE_TH_ERRORS
  }

 private:
  template <class T>
  static bool read_as(PyObject* object, IValue& to) {
    T found{};
    if (!unpack(object, found)) return false;
    to = IValue(std::move(found));
    return true;
  }
  template <class... Types>
  void find_reader(const c10::Type& type) {
    Argument& added = arguments.emplace_back();
    ((type == *c10::getTypePtr<Types>() ? void(added.read = &read_as<Types>) : void()), ...);
    TORCH_CHECK_VALUE(added.read, "bound: no argument of an op is of the type ", type.str());
  }
};

// bound(name, otherwise): a function that calls the op of this name, or what takes any arguments.
inline PyObject* bound(PyObject*, PyObject* args) {
  HANDLE_TH_ERRORS
  const auto call = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Bound::call));
  static PyMethodDef definition = {"op", call, METH_FASTCALL, nullptr};
  const char* name;
  PyObject* otherwise;
  if (!PyArg_ParseTuple(args, "sO", &name, &otherwise)) return nullptr;
  THPObjectPtr capsule(PyCapsule_New(new Bound(name, otherwise), nullptr, nullptr));  // as lasting as the op
  return capsule ? PyCFunction_New(&definition, capsule.get()) : nullptr;
  END_HANDLE_TH_ERRORS
}

}  // namespace fr::ops
