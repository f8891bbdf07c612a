"""Autograd inside an op's kernel, where it is off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def recording() -> Iterator[None]:
    """Let autograd record, though the dispatcher may have passed it already."""
    with (
        torch.enable_grad(),
        torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False),
    ):
        yield
