// The short ways of small calls on the CPU as an extension of Python, compiled against the installed
// PyTorch: unlike the library, it needs more of PyTorch than its stable ABI has. Optional: without it
// the same is done in Python. It computes nothing itself; `start` gets the library's functions.
#include "host_draw.h"
#include "host_latent.h"

namespace fr::host {
namespace {

// start(asked, general, then the addresses of four functions of the library)
PyObject* start(PyObject*, PyObject* args) {
  PyObject *variable, *general;
  unsigned long long entries[4];
  if (!PyArg_ParseTuple(args, "OOKKKK", &variable, &general, entries, entries + 1, entries + 2,
                        entries + 3))
    return nullptr;
  asked = Py_NewRef(variable);
  native = PyUnicode_InternFromString("native");
  SavingNode::general = Py_NewRef(general);
  gaussian_forward = reinterpret_cast<LatentEntry>(entries[0]);
  gaussian_backward = reinterpret_cast<LatentEntry>(entries[1]);
  draw_forward = reinterpret_cast<DrawEntry>(entries[2]);
  draw_backward = reinterpret_cast<DrawEntry>(entries[3]);
  Py_RETURN_NONE;
}

// spent(tensor): whether a backward pass has freed what its node here had saved; None of other nodes.
PyObject* spent(PyObject*, PyObject* object) {
  HANDLE_TH_ERRORS
  auto* node = dynamic_cast<SavingNode*>(THPVariable_Unpack(object).grad_fn().get());
  if (!node) Py_RETURN_NONE;
  return PyBool_FromLong(node->spent());
  END_HANDLE_TH_ERRORS
}

PyMethodDef methods[] = {
    {"start", start, METH_VARARGS, nullptr},
    {"spent", spent, METH_O, nullptr},
    {"draw", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(draw)), METH_FASTCALL, nullptr},
    {"latent", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(latent)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "fused_reparam_host", nullptr, -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace fr::host

PyMODINIT_FUNC PyInit_fused_reparam_host() { return PyModule_Create(&fr::host::definition); }
