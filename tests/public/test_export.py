"""Exported in ``eval()``, a module is plain PyTorch: it runs without this package."""

import contextlib
import io
import textwrap

import pytest
import torch
from torch import nn

import fused_reparam as fr
from tests.helpers import fresh
from tests.helpers.module_cases import MODULES, SHAPE, flat, made
from tests.helpers.paths import environment

every = pytest.mark.parametrize("name", MODULES)
NAMELESS = pytest.mark.filterwarnings("ignore")


def assert_close(got, want):
    for g, w in zip(flat(got), flat(want), strict=True):
        torch.testing.assert_close(g, w)


def assert_plain(graph):
    foreign = [str(n.target) for n in graph.nodes if "fused_reparam" in str(n.target)]
    assert not foreign


@every
def test_an_exported_program_has_no_op_of_this_package(name):
    """Also by the tracer that reads Python's bytecode."""
    module, args = made(name)
    for strict in (False, True):
        program = torch.export.export(module, args, strict=strict)
        assert_plain(program.graph)
        assert_close(program.module()(*args), module(*args))


# One of each class, for the dtypes and for an exporter that takes seconds a module.
KINDS = (
    "prior", "moments", "tanh", "gates", "gumbel", "categorical", "one hot", "local", "mixture",
    "strided conv", "1-d", "3-d", "embedding", "lstm",
)  # fmt: skip
a_kind = pytest.mark.parametrize("name", KINDS)


def test_there_is_one_of_each_class():
    assert {type(made(name)[0]) for name in KINDS} == {
        type(made(name)[0]) for name in MODULES if name != "learned prior"
    }


@a_kind
def test_other_dtypes_agree(name):
    for dtype in (torch.bfloat16, torch.float64):
        module, args = made(name, dtype)
        assert_close(torch.export.export(module, args).module()(*args), module(*args))


@pytest.mark.parametrize("name", [n for n in KINDS if n != "moments"])
def test_the_batch_can_be_any(name):
    module, args = made(name)
    if "conv" in name:
        args = (torch.randn(2, *SHAPE),)
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = tuple({0: batch} for _ in args)
    program = torch.export.export(module, args, dynamic_shapes=shapes)
    assert_plain(program.graph)
    more = tuple(torch.cat((t, t - 0.5)) for t in args)
    assert_close(program.module()(*more), module(*more))


def test_saved_programs_load_without_this_package(tmp_path):
    saved = {}
    for name in KINDS:
        module, args = made(name)
        torch.export.save(torch.export.export(module, args), tmp_path / f"{name}.pt2")
        saved[name] = (args, flat(module(*args)))
    torch.save(saved, tmp_path / "calls.pt")
    code = textwrap.dedent(f"""
        import sys
        sys.modules["fused_reparam"] = None
        import torch
        for name, (args, want) in torch.load({str(tmp_path / "calls.pt")!r}).items():
            found = torch.export.load({str(tmp_path)!r} + f"/{{name}}.pt2").module()(*args)
            found = found if isinstance(found, tuple) else (found,)
            for g, w in zip(found, want, strict=True):
                torch.testing.assert_close(g, w)
        print("all agree")
    """)
    done = fresh.run(code, environment())
    assert "all agree" in done.stdout, done.stderr


@NAMELESS
@every
def test_a_trace_loads_without_an_op_of_this_package(name):
    module, args = made(name)
    traced = torch.jit.trace(module, args)
    assert "fused_reparam::" not in str(traced.inlined_graph)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    assert_close(torch.jit.load(file)(*args), module(*args))


@NAMELESS
@a_kind
def test_onnx_runtime_agrees(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript, onnxruntime")
    pytest.importorskip("onnxscript")
    module, args = made(name)
    path = str(tmp_path / "model.onnx")
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(module, args, path, dynamo=True)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    named = zip(session.get_inputs(), args, strict=True)
    found = session.run(None, {i.name: t.numpy() for i, t in named})
    for got, want in zip(found, flat(module(*args)), strict=True):
        torch.testing.assert_close(torch.from_numpy(got), want.detach(), rtol=1e-4, atol=1e-5)


def test_in_training_the_export_still_draws():
    model = nn.Sequential(fr.BayesianLinear(5, 3), fr.FusedGumbelSoftmax())
    x = torch.randn(2, 5)
    program = torch.export.export(model, (x,)).module()
    assert not torch.equal(program(x), program(x))
