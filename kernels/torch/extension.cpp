// The ops' CPU kernels and autograd nodes as an extension of Python, compiled against the installed PyTorch:
// unlike the library, they need more of PyTorch than its stable ABI has. Optional: without it the same is
// done in Python. It computes nothing itself; `start` gets the library's functions and the ops.
#include "torch/bound.h"
#include "torch/kernels.h"
#include "torch/parameters.h"

namespace fr::ops {
namespace {

template <class Entry>
void set_entry(Entry& entry, unsigned long long address) {
  TORCH_CHECK_VALUE(address, "start: expected the addresses of five functions, got 0");
  entry = reinterpret_cast<Entry>(address);
}

// families: by name, the fields of FamilyFacts
void set_families(PyObject* families) {
  PyObject *name, *row;
  Py_ssize_t at = 0;
  while (PyDict_Next(families, &at, &name, &row)) {
    const char* text = PyUnicode_AsUTF8(name);
    long long base, transform, hard, term, parameters, constants, terms, base_number;
    int scaled, sampled, linear, given;
    if (!text || !PyArg_ParseTuple(row, "LLLLLLLLpppp", &base, &transform, &hard, &term, &parameters,
                                   &constants, &terms, &base_number, &scaled, &sampled, &linear, &given))
      throw python_error();
    TORCH_CHECK_VALUE(parameters >= 1 && parameters <= 4 && constants >= 0 && constants <= 6 && terms >= 0 &&
                          terms <= 2 && base_number >= -1 && base_number < constants,
                      "start: the family ", text, " has more than a call has room for");
    Elementwise::families[text] = {text,        base,        transform,    hard,
                                   term,        parameters,  constants,    terms,
                                   base_number, scaled != 0, sampled != 0, linear != 0,
                                   given != 0};
  }
}

// bases: their codes by name
void set_bases(PyObject* bases) {
  PyObject *name, *code;
  Py_ssize_t at = 0;
  while (PyDict_Next(bases, &at, &name, &code)) {
    const char* text = PyUnicode_AsUTF8(name);
    const long long number = PyLong_AsLongLong(code);
    if (!text || PyErr_Occurred()) throw python_error();
    Noise::bases[text] = number;
  }
}

// start(asked, recorded, families, bases, ops, then the addresses of the library's functions: elementwise
// forward and backward, softmax forward and backward, base noise). From now on calls of the ops come here.
PyObject* start(PyObject*, PyObject* args) {
  HANDLE_TH_ERRORS
  PyObject *variable, *recorded, *families, *bases, *by_name;
  unsigned long long entries[5];
  if (!PyArg_ParseTuple(args, "OOO!O!O!KKKKK", &variable, &recorded, &PyDict_Type, &families, &PyDict_Type,
                        &bases, &PyDict_Type, &by_name, entries, entries + 1, entries + 2, entries + 3,
                        entries + 4))
    return nullptr;
  TORCH_CHECK_TYPE(PyContextVar_CheckExact(variable) && PyCallable_Check(recorded),
                   "start: expected a context variable and a function");
  TORCH_CHECK_VALUE(!asked, "start: the module is started already");
  set_entry(Elementwise::forward_entry, entries[0]);
  set_entry(Elementwise::backward_entry, entries[1]);
  set_entry(GumbelSoftmax::forward_entry, entries[2]);
  set_entry(GumbelSoftmax::backward_entry, entries[3]);
  set_entry(Noise::entry, entries[4]);
  set_families(families);
  set_bases(bases);
  native = PyUnicode_InternFromString("native");
  OpNode<Elementwise>::recorded = OpNode<GumbelSoftmax>::recorded = OpNode<SampledLinear>::recorded =
      Py_NewRef(recorded);
  asked = Py_NewRef(variable);  // before the first kernel that looks at it
  // Never removed, as the modules of Python are not.
  auto& library = *new torch::Library(torch::Library::IMPL, "fused_reparam", std::nullopt, __FILE__, __LINE__);
  library.impl("draw_key", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(draw_key)));
  library.impl("draw_key",
               torch::dispatch(c10::DispatchKey::AutogradCPU, torch::CppFunction::makeFallthrough()));
  serve<Elementwise>(library, by_name);
  serve<GumbelSoftmax>(library, by_name);
  serve<SampledLinear>(library, by_name);
  serve_noise(library, by_name);
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

// spent(tensor): whether a backward pass has freed what its node here had saved; None of other nodes.
PyObject* spent(PyObject*, PyObject* object) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(THPVariable_Check(object), "spent: expected a tensor");
  const auto function = THPVariable_Unpack(object).grad_fn();
  if (auto* node = dynamic_cast<OpNode<Elementwise>*>(function.get())) return PyBool_FromLong(node->spent());
  if (auto* node = dynamic_cast<OpNode<GumbelSoftmax>*>(function.get())) return PyBool_FromLong(node->spent());
  if (auto* node = dynamic_cast<OpNode<SampledLinear>*>(function.get())) return PyBool_FromLong(node->spent());
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

PyMethodDef methods[] = {
    {"bound", bound, METH_VARARGS, nullptr},
    {"parameters", parameters, METH_O, nullptr},
    {"start", start, METH_VARARGS, nullptr},
    {"spent", spent, METH_O, nullptr},
    {"bound_cache", bound_cache, METH_O, nullptr},
    {"empty_cache", empty_cache, METH_NOARGS, nullptr},
    {"memory_stats", memory_stats, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "fused_reparam_torch", nullptr, -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace fr::ops

PyMODINIT_FUNC PyInit_fused_reparam_torch() { return PyModule_Create(&fr::ops::definition); }
