"""``torch.jit.script`` of what calls this package: one line says that it can't, and what can."""

import pytest
import torch
from torch import nn

import fused_reparam as fr
from tests.helpers.module_cases import MODULES, made
from tests.helpers.public_cases import EVERY

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch calls its compiler deprecated
REFUSED = (
    r"^torch\.jit\.script can't compile the functions and modules of fused_reparam: use "
    r"torch\.jit\.trace, torch\.export or torch\.compile$"
)
refused = pytest.raises(RuntimeError, match=REFUSED)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_refused_in_one_line(name):
    module, _ = made(name)
    for training in (True, False):
        with refused:
            torch.jit.script(module.train(training))
        with refused:
            torch.jit.script(nn.Sequential(nn.Identity(), nn.Sequential(module)))


@EVERY
def test_a_function_is_refused_in_one_line(case):
    with refused:
        torch.jit.script(case.function)


def calls_by_name(x):
    return fr.gumbel_softmax(x) + 1.0


def calls_what_calls(x):
    return calls_by_name(x)


@pytest.mark.parametrize("function", [calls_by_name, calls_what_calls])
def test_a_function_that_calls_one_is_refused_in_one_line(function):
    with refused:
        torch.jit.script(function)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 3)

    def forward(self, x):
        return fr.gaussian_rsample(self.line(x), 0.0)


def test_a_module_that_calls_a_function_is_refused_in_one_line():
    with refused:
        torch.jit.script(Model())


def test_an_ignored_function_may_call_ours():
    @torch.jit.ignore
    def outside(x: torch.Tensor) -> torch.Tensor:
        return fr.gumbel_softmax(x, hard=True)

    def function(x: torch.Tensor) -> torch.Tensor:
        return outside(x) + 1.0

    assert torch.equal(torch.jit.script(function)(torch.zeros(4, 3)).sum(-1), torch.full((4,), 4.0))
