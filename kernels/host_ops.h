// The ops themselves, which a compiled model calls: their kernels on the CPU for the calls that have a
// short way: 128x20 takes 6.3 us forward and 7.6 backward, by the short way in Python 14 and 18.
// What is unusual goes to the op's kernels in Python, as everything does without this file.
#pragma once

#include <ATen/core/ivalue.h>
#include <torch/library.h>

#include <string>
#include <unordered_map>

#include "host_draw.h"
#include "host_latent.h"
#include "host_rows.h"

namespace fr::host {

using c10::IValue;
using torch::jit::Stack;

// An op's Autograd kernel in Python, and plan(arguments) -> bytes, or None where there is no short way.
struct InPython {
  PyObject *kernel = nullptr, *plan = nullptr;
};

inline PyObject* to_python(const IValue& value) {
  if (value.isNone()) return Py_NewRef(Py_None);
  if (value.isTensor()) return wrapped(value.toTensor());
  if (value.isBool()) return PyBool_FromLong(value.toBool());
  if (value.isInt()) return PyLong_FromLongLong(value.toInt());
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

inline THPObjectPtr call_python(PyObject* function, const IValue* args, size_t count) {
  THPObjectPtr tuple(PyTuple_New(static_cast<Py_ssize_t>(count)));
  for (size_t i = 0; i < count; ++i)
    PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(i), to_python(args[i]));
  THPObjectPtr found(PyObject_CallObject(function, tuple.get()));
  if (!found) {
    python_error error;
    error.persist();
    throw std::move(error);
  }
  return found;
}

// What a plan depends on: the shapes, the strides and the options.
class PlanKey {
 public:
  void add(int64_t x) { bytes_.append(reinterpret_cast<const char*>(&x), sizeof x); }
  void add(double x) { bytes_.append(reinterpret_cast<const char*>(&x), sizeof x); }
  void add(at::IntArrayRef list) {
    add(static_cast<int64_t>(list.size()));
    for (int64_t x : list) add(x);
  }
  void add(const std::string& text) {
    add(static_cast<int64_t>(text.size()));
    bytes_ += text;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// The plan of an op's arguments, which Python is asked for once. Whoever calls holds the interpreter.
template <class Plan>
std::optional<Plan> plan_of(const PlanKey& key, PyObject* function, const IValue* args, size_t count) {
  static auto* plans = new std::unordered_map<std::string, std::optional<Plan>>;
  const auto known = plans->find(key.bytes());
  if (known != plans->end()) return known->second;
  THPObjectPtr bytes(call_python(function, args, count));
  std::optional<Plan> plan;
  if (bytes.get() != Py_None) {
    plan = from_bytes<Plan>(bytes.get());
  }
  if (plans->size() >= 4096) plans->clear();
  plans->emplace(key.bytes(), plan);
  return plan;
}

// The tensor among an op's arguments that can be computed with at once: no derivative of it is wanted.
inline const Tensor* ready(const IValue& value) {
  if (!value.isTensor()) return nullptr;
  const Tensor& t = value.toTensor();
  const bool ok = t.defined() && plain(t) && !t._fw_grad(0).defined() &&
                  !(at::GradMode::is_enabled() && t.requires_grad());
  return ok ? &t : nullptr;
}

inline Tensor or_nothing(const Tensor& t, const Tensor& like) {
  return t.defined() ? t : at::empty({0}, like.options());
}

inline InPython latent_in_python, latent_backward_in_python, draw_in_python, draw_backward_in_python,
    rows_in_python, rows_backward_in_python;

struct LatentArguments {
  std::vector<Tensor> inputs;
  Tensor key;
  LatentPlan plan;
};

// loc, scale, key, eps, order, kind, low, high, reduction, sample, dim
constexpr size_t latent_count = 11;

inline std::optional<LatentArguments> latent_arguments(const IValue* args) {
  const Tensor *loc = ready(args[0]), *key = ready(args[2]);
  if (!undisturbed() || !loc || dtype_code(*loc) < 0 || !key || !is_key(*key) || !args[3].isNone() ||
      !args[4].toListRef().empty() || !args[9].toBool())
    return std::nullopt;
  LatentArguments found{{*loc}, *key, {}};
  PlanKey of;
  of.add(static_cast<int64_t>(args[1].isNone()));
  of.add(loc->sizes());
  of.add(loc->strides());
  if (!args[1].isNone()) {
    const Tensor* scale = ready(args[1]);
    if (!scale || scale->scalar_type() != loc->scalar_type()) return std::nullopt;
    found.inputs.push_back(*scale);
    of.add(scale->sizes());
    of.add(scale->strides());
  }
  of.add(args[5].toInt());
  of.add(args[6].toDouble());
  of.add(args[7].toDouble());
  of.add(static_cast<int64_t>(args[8].isNone()));
  if (!args[8].isNone()) of.add(args[8].toStringRef());
  of.add(args[10].toInt());
  pybind11::gil_scoped_acquire ours;
  if (!is_backend()) return std::nullopt;
  const auto plan = plan_of<LatentPlan>(of, latent_in_python.plan, args, latent_count);
  if (!plan || !fits(*plan, found.inputs)) return std::nullopt;
  found.plan = *plan;
  return found;
}

inline bool latent_op(const IValue* args, std::vector<Tensor>& results) {
  const auto given = latent_arguments(args);
  if (!given) return false;
  LatentResult found = latent_forward(given->plan, given->inputs, given->key);
  if (!found.kl.defined()) found.kl = at::empty({0}, value_options(given->inputs[0]));
  results = {found.z, found.kl};
  return true;
}

inline bool latent_backward_op(const IValue* args, std::vector<Tensor>& results) {
  const Tensor *grad_z = ready(args[0]), *grad_kl = ready(args[1]);
  const auto needs = args[2 + latent_count].toListRef();
  // An op's result is never one of its operands, as loc's gradient without a KL would be.
  if (!grad_z || !grad_kl || !grad_z->is_contiguous() || needs.size() != 3 || !needs[0].toBool() ||
      needs[2].toBool())
    return false;
  const auto given = latent_arguments(args + 2);
  if (!given) return false;
  const std::vector<Tensor>& inputs = given->inputs;
  const Tensor& loc = inputs[0];
  if (!given->plan.with_kl || (inputs.size() == 2 && !needs[1].toBool()) ||
      grad_z->scalar_type() != loc.scalar_type() ||
      grad_z->sizes() != at::IntArrayRef(shape_of_z(given->plan, inputs)) || grad_kl->dim() != 0 ||
      grad_kl->scalar_type() != value_options(loc).dtype())
    return false;
  const variable_list found = latent_backward(given->plan, given->key, inputs.data(), inputs.size(),
                                              *grad_z, *grad_kl, true, true);
  results = {found[0], or_nothing(inputs.size() == 2 ? found[1] : Tensor(), loc), or_nothing({}, loc)};
  return true;
}

struct DrawArguments {
  std::vector<Tensor> params;
  Tensor key;
  DrawPlan plan;
};

// p0 to p3, key, eps, order, family, kind, prior_kind, numbers, samples, sample, keep, weight
constexpr size_t draw_params = 4, draw_values = 2, draw_count = 15;

inline std::optional<DrawArguments> draw_arguments(const IValue* args) {
  const Tensor *loc = ready(args[0]), *key = ready(args[4]);
  if (!undisturbed() || !loc || dtype_code(*loc) < 0 || !key || !is_key(*key) || !args[5].isNone() ||
      !args[6].toListRef().empty() || !args[12].toBool())
    return std::nullopt;
  DrawArguments found{{}, *key, {}};
  for (size_t i = 0; i < draw_params; ++i) {
    if (args[i].isNone()) continue;
    const Tensor* p = ready(args[i]);
    if (!p || !p->is_contiguous() || p->scalar_type() != loc->scalar_type() ||
        p->sizes() != loc->sizes())
      return std::nullopt;
    found.params.push_back(*p);
  }
  PlanKey of;
  of.add(static_cast<int64_t>(found.params.size()));
  of.add(loc->sizes());
  of.add(args[7].toStringRef());
  for (size_t i : {8, 9, 11, 13}) of.add(args[i].toInt());
  for (const IValue& x : args[10].toListRef()) of.add(x.toDouble());
  of.add(args[14].toDouble());
  pybind11::gil_scoped_acquire ours;
  if (!is_backend()) return std::nullopt;
  const auto plan = plan_of<DrawPlan>(of, draw_in_python.plan, args, draw_count);
  if (!plan || !fits(*plan, found.params)) return std::nullopt;
  found.plan = *plan;
  return found;
}

inline bool draw_op(const IValue* args, std::vector<Tensor>& results) {
  const auto given = draw_arguments(args);
  if (!given) return false;
  results = draw_forward(given->plan, given->key, given->params);
  while (results.size() < 1 + draw_values) results.push_back(or_nothing({}, given->params[0]));
  return true;
}

inline bool draw_backward_op(const IValue* args, std::vector<Tensor>& results) {
  const IValue* inputs = args + 1 + draw_values;
  const auto wanted = inputs[draw_count].toListRef();
  if (wanted.size() != draw_params + 1 || wanted[draw_params].toBool()) return false;
  const auto given = draw_arguments(inputs);
  if (!given) return false;
  const Tensor& loc = given->params[0];
  variable_list grads(1 + draw_values);
  bool any = false;
  for (size_t j = 0; j < grads.size(); ++j) {
    if (args[j].isNone()) continue;
    const Tensor* g = ready(args[j]);
    const auto expected = j ? value_options(loc).dtype() : loc.dtype();
    if (!g || j > static_cast<size_t>(given->plan.values) || g->dtype() != expected ||
        g->sizes() != at::IntArrayRef(j ? given->plan.shape_of_value(loc) : given->plan.shape_of_z(loc)))
      return false;
    grads[j] = *g;
    any = true;
  }
  if (!any || (grads[0].defined() && !grads[0].is_contiguous())) return false;
  std::vector<bool> needs;
  for (size_t i = 0; i < given->params.size(); ++i) needs.push_back(wanted[i].toBool());
  results = draw_backward(given->plan, given->key, given->params.data(), grads, needs, false);
  results.resize(draw_params + 1);
  for (Tensor& t : results) t = or_nothing(t, loc);
  return true;
}

// order, mode, tau, unimix, dim, want_y, want_soft, want_kl
constexpr size_t rows_spec = 8;

// The plan of contiguous logits, or of what is shaped like them.
inline std::optional<RowsPlan> rows_plan(const IValue* spec, const Tensor& like) {
  const int64_t mode = spec[1].toInt(), dim = spec[4].toInt();
  const RowsPlan plan{mode, spec[2].toDouble(), spec[3].toDouble(), dim,
                      spec[7].toBool() ? kEach : kNone, 1};
  if (!undisturbed() || dtype_code(like) < 0 || !like.is_contiguous() || like.numel() == 0 ||
      !spec[0].toListRef().empty() || !fits(plan, like))
    return std::nullopt;
  pybind11::gil_scoped_acquire ours;
  if (!is_backend()) return std::nullopt;
  return plan;
}

// logits, key, noise, and the above
inline bool rows_op(const IValue* args, std::vector<Tensor>& results) {
  const Tensor *logits = ready(args[0]), *key = ready(args[1]);
  const IValue* spec = args + 3;
  if (!logits || !key || !is_key(*key) || !args[2].isNone() || !spec[5].toBool() ||
      (spec[6].toBool() && spec[1].toInt() != kHard))
    return false;
  const auto plan = rows_plan(spec, *logits);
  if (!plan) return false;
  RowsResult found = rows_forward(*plan, *key, *logits, spec[6].toBool());
  if (!found.kl.defined()) found.kl = at::empty({0}, value_options(*logits));
  results = {found.y, or_nothing(found.soft, *logits), found.kl};
  return true;
}

// grad_y, grad_kl, logits, soft, and the above
inline bool rows_backward_op(const IValue* args, std::vector<Tensor>& results) {
  const Tensor* given[4];
  for (int i = 0; i < 4; ++i) {
    given[i] = ready(args[i]);
    if (!given[i] && !args[i].isNone()) return false;
  }
  const auto [grad_y, grad_kl, logits, soft] = given;
  const Tensor* like = logits ? logits : soft;
  if (!like) return false;
  const auto plan = rows_plan(args + 4, *like);
  if (!plan || (!grad_y && !grad_kl)) return false;
  for (const Tensor* t : {grad_y, soft})
    if (t && (t->scalar_type() != like->scalar_type() || t->sizes() != like->sizes() ||
              !t->is_contiguous()))
      return false;
  const bool reads_logits = grad_kl || plan->mode == kOneHot;
  if ((reads_logits && !logits) || (grad_y && plan->mode != kOneHot && !soft)) return false;
  if (grad_kl && (grad_kl->dtype() != value_options(*like).dtype() ||
                  grad_kl->sizes() != at::IntArrayRef(without_classes(*plan, *like))))
    return false;
  const auto or_none = [](const Tensor* t) { return t ? *t : Tensor(); };
  results = {rows_backward(*plan, or_none(logits), or_none(soft), or_none(grad_y), or_none(grad_kl))};
  return true;
}

inline Tensor draw_key_op(const Tensor&) {
  return random_bits(std::nullopt).view(at::kUInt64);
}

template <InPython& python, bool (*quick)(const IValue*, std::vector<Tensor>&)>
void kernel(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  const size_t count = op.schema().arguments().size();
  const IValue* args = stack->data() + (stack->size() - count);
  std::vector<Tensor> results;
  if (!quick(args, results)) {
    pybind11::gil_scoped_acquire ours;
    THPObjectPtr found(call_python(python.kernel, args, count));
    if (!PyTuple_Check(found.get())) {
      TORCH_CHECK(THPVariable_Check(found.get()), "a kernel in Python gave no tensor");
      results.push_back(THPVariable_Unpack(found.get()));
    } else {
      for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(found.get()); ++i)
        results.push_back(THPVariable_Unpack(PyTuple_GET_ITEM(found.get(), i)));
    }
  }
  torch::jit::drop(*stack, count);
  for (Tensor& t : results) stack->emplace_back(std::move(t));
}

template <InPython& python, bool (*quick)(const IValue*, std::vector<Tensor>&)>
void serve_one(torch::Library& library, PyObject* ops, const char* name) {
  PyObject* pair = PyDict_GetItemString(ops, name);
  TORCH_CHECK(pair, "no kernel in Python of ", name);
  if (!PyArg_ParseTuple(pair, "OO", &python.kernel, &python.plan)) throw python_error();
  Py_INCREF(python.kernel);
  Py_INCREF(python.plan);
  library.impl(name, torch::dispatch(c10::DispatchKey::AutogradCPU,
                                     torch::CppFunction::makeFromBoxedFunction<&kernel<python, quick>>()));
}

constexpr const char* served[] = {"gaussian_latent",      "gaussian_latent_backward",
                                  "draw",                 "draw_backward",
                                  "relaxed_categories",   "relaxed_categories_backward"};

// serve(ops): by name, each op's kernel and plan in Python. From now on calls of the ops come here.
inline PyObject* serve(PyObject*, PyObject* ops) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(PyDict_Check(ops), "serve: expected a dict of kernels by name");
  TORCH_CHECK_VALUE(!latent_in_python.kernel, "serve: the ops are served already");
  for (const char* name : served) {
    PyObject* pair = PyDict_GetItemString(ops, name);
    TORCH_CHECK_TYPE(pair && PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2 &&
                         PyCallable_Check(PyTuple_GET_ITEM(pair, 0)),
                     "serve: expected a kernel and a plan of ", name);
  }
  // Never removed, as the modules of Python are not.
  auto& library = *new torch::Library(torch::Library::IMPL, "fused_reparam", std::nullopt, __FILE__,
                                      __LINE__);
  library.impl("draw_key", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(draw_key_op)));
  serve_one<latent_in_python, latent_op>(library, ops, "gaussian_latent");
  serve_one<latent_backward_in_python, latent_backward_op>(library, ops, "gaussian_latent_backward");
  serve_one<draw_in_python, draw_op>(library, ops, "draw");
  serve_one<draw_backward_in_python, draw_backward_op>(library, ops, "draw_backward");
  serve_one<rows_in_python, rows_op>(library, ops, "relaxed_categories");
  serve_one<rows_backward_in_python, rows_backward_op>(library, ops, "relaxed_categories_backward");
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

}  // namespace fr::host
