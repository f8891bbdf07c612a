"""Memory: what autograd keeps from the forward pass for the backward pass."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bench.ops.base import Compute, Tensors


def saved_bytes(compute: Compute, inputs: Tensors) -> int:
    """Bytes that the graph of `compute(*inputs)` keeps alive beyond the inputs themselves.

    Counted by storage: a view costs what it is a view of, and nothing is counted twice.
    """
    # The tensors are held until the count is done, or a freed address could come up again.
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = compute(*inputs)
    known = {t.untyped_storage().data_ptr() for t in inputs}
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    del outputs
    return sum(size for pointer, size in sizes.items() if pointer not in known)
