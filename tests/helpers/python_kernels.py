"""The ops by their kernels in Python, in a process that has those in C++."""

from contextlib import contextmanager
from unittest import mock

from fused_reparam.ops.differentiable import DifferentiableOp


@contextmanager
def python_kernels():
    """Calls of public functions, and their backward passes, do not reach the extension."""

    def call(op, inputs, spec):
        return op._autograd(*inputs, *spec)

    with mock.patch.object(DifferentiableOp, "__call__", call):
        yield
