"""The older exporter, ``torch.onnx.export(dynamo=False)``, of modules in ``eval()``."""

import contextlib
import inspect
import io

import pytest
import torch
from torch import nn

from tests.helpers.loops import where
from tests.helpers.module_cases import MODULES, flat, made

runtime = pytest.importorskip(
    "onnxruntime", reason="needs onnx and onnxruntime", exc_type=ImportError
)
pytestmark = pytest.mark.filterwarnings("ignore")
# PyTorch kills the process at the padding of a circular convolution, nn.Conv2d's too.
ABLE = [name for name in MODULES if name != "circular conv"]


class Model(nn.Module):
    """The exporter gives keyword-only arguments by position, which no module takes that has some.

    That is so of the module that it exports, not of those in it.
    """

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *args):
        return self.layer(*args)


def exported(model, args, **options):
    file = io.BytesIO()
    with contextlib.redirect_stdout(io.StringIO()):  # PyTorch prints the graph where it fails
        torch.onnx.export(model, args, file, dynamo=False, **options)
    return runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])


def assert_agrees(session, args, module):
    named = zip(session.get_inputs(), args, strict=True)
    found = session.run(None, {i.name: t.numpy() for i, t in named})
    for got, want in zip(found, flat(module(*args)), strict=True):
        torch.testing.assert_close(torch.from_numpy(got), want.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ABLE)
def test_onnx_runtime_agrees(name):
    for opset in [13, 20]:
        with where(opset):
            module, args = made(name)
            assert_agrees(exported(Model(module).eval(), args, opset_version=opset), args, module)


@pytest.mark.parametrize("name", ["linear", "mixture", "local", "conv"])
def test_layers_without_keywords_need_no_model_around_them(name):
    module, args = made(name)
    assert_agrees(exported(module, args), args, module)


def test_an_action_far_out_and_near_zero():
    module, _ = made("tanh")
    mean = torch.tensor([0.0, 1e-30, -1e-4, 0.2, -0.24, 0.26, 9.0, -40.0, 88.0]).unsqueeze(0)
    args = (mean, torch.zeros_like(mean))
    assert_agrees(exported(Model(module).eval(), args), args, module)


def test_pytorch_itself_refuses_keyword_only_arguments():
    """Where this fails, the tests above need no model around the layer."""

    class Layer(nn.Module):
        def forward(self, x, *, key=None):
            return x + 1.0 if key is None else x

    assert inspect.signature(Layer.forward).parameters["key"].kind.name == "KEYWORD_ONLY"
    with pytest.raises(TypeError, match="positional argument"):
        exported(Layer(), (torch.zeros(3),))
