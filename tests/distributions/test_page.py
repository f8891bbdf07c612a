"""docs/distributions.md: its code runs, its table has every class, and says what is so."""

import copy
import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fused_reparam import distributions as D
from fused_reparam import noise
from tests.helpers.distribution_cases import CASES
from tests.helpers.paths import ROOT

KEY = noise.key(1)
PAGE = (ROOT / "docs" / "distributions.md").read_text()
ROWS = {
    name: cells
    for name, *cells in (
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in PAGE.splitlines()
        if line.startswith("| `")
    )
}


class Ops(TorchDispatchMode):
    """The names of the operators that a block calls."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names.append(op.name())
        return op(*args, **(kwargs or {}))


def ops_of(call):
    """How many of this package's a call takes, and those of PyTorch's that compute."""
    with torch.no_grad(), Ops() as ops:
        call()
    ours = [n for n in ops.names if n.startswith("fused_reparam")]
    idle = ("expand", "detach", "view", "alias", "_to_copy", "scalar_tensor", "full", "slice")
    return len(ours), [
        n for n in ops.names if not n.startswith(("fused_", *[f"aten::{i}" for i in idle]))
    ]


def test_its_code_runs():
    known = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, known)
    assert known["kl"].shape == (128, 20)


def test_every_class_has_a_row():
    ours = {n for n in D.__all__ if getattr(getattr(D, n), "__module__", "").startswith("fused_")}
    assert {name.strip("`") for name in ROWS} == ours


@pytest.mark.parametrize("name", [n for n in CASES if " " not in n])
def test_what_is_fused_is_one_op(name):
    sample, log_prob, with_kl = ROWS[f"`{name}`"]
    d = CASES[name].made(torch.float32, validate_args=False)
    value = d.sample()
    if sample in ("fused", "fused for `logits`"):
        assert ops_of(lambda: d.rsample(key=KEY)) == (1, [])
    assert ops_of(lambda: d.log_prob(value))[0] == (log_prob == "fused")
    priors = {
        "to the standard one": lambda: type(d)(0.0, 1.0),
        "to any of its kind": lambda: CASES[name].made(torch.float32, seed=1),
        "to any `Normal`": lambda: CASES[name].made(torch.float32, seed=1),
    }
    if with_kl in priors:
        prior = copy.deepcopy(priors[with_kl]())
        for parameter in prior.arg_constraints:
            if parameter in prior.__dict__:
                setattr(prior, parameter, getattr(prior, parameter).detach())
        z, kl = d.rsample_and_kl(prior)
        assert z.grad_fn is kl.grad_fn


def test_numbers_of_student_t():
    d = D.StudentT(3.0, torch.zeros(4), 1.0, validate_args=False)
    assert ops_of(lambda: d.rsample(key=KEY)) == (1, [])
