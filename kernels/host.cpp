// The short ways of small calls on the CPU as an extension of Python, compiled against the installed
// PyTorch: unlike the library, it needs more of PyTorch than its stable ABI has. Optional: without it
// the same is done in Python. It computes nothing itself; `start` gets the library's functions.
#include "host_ops.h"

namespace fr::host {
namespace {

// start(asked, general, recorded, then the addresses of six functions of the library)
PyObject* start(PyObject*, PyObject* args) {
  PyObject *variable, *general, *recorded;
  unsigned long long entries[6];
  if (!PyArg_ParseTuple(args, "OOOKKKKKK", &variable, &general, &recorded, entries, entries + 1, entries + 2,
                        entries + 3, entries + 4, entries + 5))
    return nullptr;
  if (!PyContextVar_CheckExact(variable) || !PyCallable_Check(general) || !PyCallable_Check(recorded)) {
    PyErr_SetString(PyExc_TypeError, "start: expected a context variable and two functions");
    return nullptr;
  }
  for (unsigned long long entry : entries)
    if (!entry) {
      PyErr_SetString(PyExc_ValueError, "start: expected the addresses of six functions, got 0");
      return nullptr;
    }
  if (asked && (asked != variable || reinterpret_cast<unsigned long long>(gaussian_forward) != entries[0])) {
    PyErr_SetString(PyExc_ValueError, "start: the module is started already, with other functions");
    return nullptr;
  }
  asked = Py_NewRef(variable);
  native = PyUnicode_InternFromString("native");
  SavingNode::general = Py_NewRef(general);
  SavingNode::recorded = Py_NewRef(recorded);
  gaussian_forward = reinterpret_cast<LatentEntry>(entries[0]);
  gaussian_backward = reinterpret_cast<LatentEntry>(entries[1]);
  draw_forward_entry = reinterpret_cast<DrawEntry>(entries[2]);
  draw_backward_entry = reinterpret_cast<DrawEntry>(entries[3]);
  softmax_forward = reinterpret_cast<SoftmaxEntry>(entries[4]);
  softmax_backward = reinterpret_cast<SoftmaxEntry>(entries[5]);
  Py_RETURN_NONE;
}

// spent(tensor): whether a backward pass has freed what its node here had saved; None of other nodes.
PyObject* spent(PyObject*, PyObject* object) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(THPVariable_Check(object), "spent: expected a tensor");
  auto* node = dynamic_cast<SavingNode*>(THPVariable_Unpack(object).grad_fn().get());
  if (!node) Py_RETURN_NONE;
  return PyBool_FromLong(node->spent());
  END_HANDLE_TH_ERRORS
}

PyMethodDef methods[] = {
    {"start", start, METH_VARARGS, nullptr},
    {"serve", serve, METH_O, nullptr},
    {"spent", spent, METH_O, nullptr},
    {"draw", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(draw)), METH_FASTCALL, nullptr},
    {"latent", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(latent)), METH_FASTCALL, nullptr},
    {"rows", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(rows)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "fused_reparam_host", nullptr, -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace fr::host

PyMODINIT_FUNC PyInit_fused_reparam_host() { return PyModule_Create(&fr::host::definition); }
