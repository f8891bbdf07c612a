// The ops' kernels on the CPU under PyTorch's dispatcher: with a node where a gradient is wanted
// (AutogradCPU), and without (CPU). What they can't serve (other tensors, modes, transforms, wrong
// arguments, of which Python says what is wrong) goes to the op's kernels in Python.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <torch/csrc/DynamicTypes.h>
#include <torch/library.h>

#include "torch/elementwise.h"
#include "torch/node.h"
#include "torch/noise.h"
#include "torch/sampled_linear.h"
#include "torch/softmax.h"

namespace fr::ops {

using torch::jit::Stack;

inline bool asked_for() {
  if (PyGILState_Check()) return is_backend();
  pybind11::gil_scoped_acquire ours;
  return is_backend();
}

// Replaces an op's arguments by results; what is absent has no elements. It is a tensor of its own in each call,
// for an autograd Function around the op would record itself in it.
inline void give(Stack* stack, size_t count, variable_list&& found, const at::TensorOptions& options) {
  torch::jit::drop(*stack, count);
  for (Tensor& t : found) stack->emplace_back(t.defined() ? std::move(t) : at::detail::empty_cpu({0}, options));
}

// `dtype_at`: the argument that is a dtype, which a stack holds as a number.
inline void by_python(PyObject* function, Stack* stack, size_t count, size_t dtype_at = SIZE_MAX) {
  pybind11::gil_scoped_acquire ours;
  const IValue* args = stack->data() + (stack->size() - count);
  THPObjectPtr arguments(tuple_of_values(args, count));
  if (dtype_at < count && args[dtype_at].isInt()) {
    PyObject* dtype = Py_NewRef(reinterpret_cast<PyObject*>(torch::getTHPDtype(args[dtype_at].toScalarType())));
    PyTuple_SetItem(arguments.get(), static_cast<Py_ssize_t>(dtype_at), dtype);
  }
  THPObjectPtr found(called(function, arguments.get()));
  torch::jit::drop(*stack, count);
  if (THPVariable_Check(found.get())) {
    stack->emplace_back(THPVariable_Unpack(found.get()));
    return;
  }
  TORCH_CHECK(PyTuple_Check(found.get()), "a kernel in Python gave no tensors");
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(found.get()); ++i)
    stack->emplace_back(THPVariable_Unpack(PyTuple_GET_ITEM(found.get(), i)));
}

template <class Op>
bool forward_here(Stack* stack, bool with_autograd) {
  constexpr size_t count = Op::inputs + Op::options;
  const IValue* args = stack->data() + (stack->size() - count);
  if (!undisturbed()) return false;
  typename Op::Inputs in(Op::inputs);
  for (size_t i = 0; i < Op::inputs; ++i)
    if (!read(args[i], in[i])) return false;
  typename Op::Spec spec{};
  typename Op::Parameters p;
  if (!Op::parse(args + Op::inputs, spec) || !Op::check(spec, in, p) || !asked_for()) return false;
  bool differentiable = false;
  for (size_t i : Op::differentiable) differentiable = differentiable || wants_gradient(in[i]);
  const Others others;
  if (!with_autograd || !differentiable) {
    give(stack, count, Op::forward(spec, in, p), in[0].options());
    return true;
  }
  const typename Op::Spec whole = Op::with_gradient(spec);
  variable_list found = Op::forward(whole, in, p);
  auto node = make_node<OpNode<Op>>(whole);
  torch::autograd::edge_list edges;
  edges.reserve(Op::differentiable.size());
  for (size_t i : Op::differentiable)
    edges.push_back(in[i].defined() ? torch::autograd::impl::gradient_edge(in[i]) : torch::autograd::Edge());
  node->set_next_edges(std::move(edges));
  for (size_t i = 0; i < Op::outputs; ++i) {
    if (!found[i].defined()) continue;
    torch::autograd::set_history(found[i], node);
    node->place(i);
  }
  Op::keep(*node, whole, in, found);
  for (size_t i = 0; i < Op::outputs; ++i)
    if (!Op::visible(spec, i)) found[i] = Tensor();
  give(stack, count, std::move(found), in[0].options());
  return true;
}

// Whether what was saved, and gradients, are those of one call.
inline bool suits(Elementwise::Spec& spec, const Elementwise::Inputs& kept, const variable_list& grads) {
  Elementwise::Parameters p;
  return Elementwise::check(spec, kept, p) && Elementwise::check_grads(spec, kept, p, grads);
}
inline bool suits(GumbelSoftmax::Spec& spec, const GumbelSoftmax::Inputs& kept, const variable_list& grads) {
  GumbelSoftmax::Parameters p;
  return GumbelSoftmax::check_kept(spec, kept, grads, p);
}

inline bool suits(SampledLinear::Spec& spec, const SampledLinear::Inputs& kept, const variable_list& grads) {
  SampledLinear::Parameters p;
  return SampledLinear::check(spec, kept, p) && SampledLinear::check_grads(spec, kept, p, grads);
}

template <class Op>
bool backward_here(Stack* stack, bool with_autograd) {
  constexpr size_t count = Op::outputs + Op::kept + Op::options + 1;
  const IValue* args = stack->data() + (stack->size() - count);
  if (!undisturbed()) return false;
  variable_list grads(Op::outputs);
  typename Op::Inputs kept(Op::kept);
  for (size_t i = 0; i < Op::outputs + Op::kept; ++i) {
    Tensor& t = i < Op::outputs ? grads[i] : kept[i - Op::outputs];
    if (!read(args[i], t) || (with_autograd && wants_gradient(t))) return false;
  }
  typename Op::Spec spec{};
  const IValue* options = args + Op::outputs + Op::kept;
  const auto wanted = args[count - 1].toBoolList();
  typename Op::Needs needs;
  if (wanted.size() != needs.size()) return false;
  for (size_t i = 0; i < needs.size(); ++i) needs[i] = wanted[i];
  if (!Op::parse(options, spec) || !suits(spec, kept, grads) || !Op::can_differentiate(kept, needs) ||
      !asked_for())
    return false;
  const Others others;
  variable_list found = Op::backward(spec, kept, grads, needs, false);
  for (const Tensor& t : kept)
    if (t.defined()) {
      give(stack, count, std::move(found), t.options());
      return true;
    }
  return false;
}

template <class Op, bool backward, bool with_autograd>
void kernel(const c10::OperatorHandle&, c10::DispatchKeySet, Stack* stack) {
  const OpInPython& python = OpNode<Op>::in_python;
  if constexpr (backward) {
    if (backward_here<Op>(stack, with_autograd)) return;
    by_python(with_autograd ? python.autograd_backward : python.compute_backward, stack,
              Op::outputs + Op::kept + Op::options + 1);
  } else {
    if (forward_here<Op>(stack, with_autograd)) return;
    by_python(with_autograd ? python.autograd : python.compute, stack, Op::inputs + Op::options);
  }
}

template <class Op>
void serve(torch::Library& library, PyObject* ops) {
  PyObject* op = PyDict_GetItemString(ops, Op::name);
  TORCH_CHECK_VALUE(op, "serve: expected an op ", Op::name);
  OpInPython& python = OpNode<Op>::in_python;
  const std::pair<const char*, PyObject**> methods[] = {
      {"_compute", &python.compute},
      {"_autograd", &python.autograd},
      {"_compute_backward", &python.compute_backward},
      {"_autograd_backward", &python.autograd_backward},
      {"gradients_by", &python.gradients}};
  for (const auto& [name, method] : methods) {
    *method = PyObject_GetAttrString(op, name);
    if (!*method) throw python_error();
  }
  const auto implement = [&](const char* name, c10::DispatchKey key, auto function) {
    library.impl(name, torch::dispatch(key, std::move(function)));
  };
  const std::string backward = std::string(Op::name) + "_backward";
  using c10::DispatchKey;
  using torch::CppFunction;
  implement(Op::name, DispatchKey::AutogradCPU, CppFunction::makeFromBoxedFunction<&kernel<Op, false, true>>());
  implement(Op::name, DispatchKey::CPU, CppFunction::makeFromBoxedFunction<&kernel<Op, false, false>>());
  implement(backward.c_str(), DispatchKey::AutogradCPU,
            CppFunction::makeFromBoxedFunction<&kernel<Op, true, true>>());
  implement(backward.c_str(), DispatchKey::CPU, CppFunction::makeFromBoxedFunction<&kernel<Op, true, false>>());
}

// The ops of the noise stream, and their kernels in Python.
inline PyObject *normal_in_python = nullptr, *base_noise_in_python = nullptr;

template <bool any_base>
void noise_kernel(const c10::OperatorHandle&, c10::DispatchKeySet, Stack* stack) {
  if (noise_here(stack, any_base)) return;
  by_python(any_base ? base_noise_in_python : normal_in_python, stack, any_base ? 6 : 4, 3);
}

inline void serve_noise(torch::Library& library, PyObject* ops) {
  normal_in_python = Py_XNewRef(PyDict_GetItemString(ops, "normal"));
  base_noise_in_python = Py_XNewRef(PyDict_GetItemString(ops, "base_noise"));
  TORCH_CHECK_VALUE(normal_in_python && base_noise_in_python, "serve: expected ops normal and base_noise");
  using torch::CppFunction;
  library.impl("normal", torch::dispatch(c10::DispatchKey::CPU,
                                         CppFunction::makeFromBoxedFunction<&noise_kernel<false>>()));
  library.impl("base_noise", torch::dispatch(c10::DispatchKey::CPU,
                                             CppFunction::makeFromBoxedFunction<&noise_kernel<true>>()));
}

// A fresh key: the numbers that `keys.random_bits` would have drawn, without torch.randint's way to them.
inline Tensor draw_key(const Tensor&) {
  Tensor key = at::cpu::empty({2}, at::kUInt64);
  const at::Generator& usual = at::detail::getDefaultCPUGenerator();
  auto* generator = at::check_generator<at::CPUGeneratorImpl>(usual);
  std::lock_guard<std::mutex> lock(generator->mutex_);
  for (uint64_t *bits = key.data_ptr<uint64_t>(), *end = bits + 2; bits < end; ++bits)
    *bits = generator->random64() % static_cast<uint64_t>(INT64_MAX);
  return key;
}

}  // namespace fr::ops
