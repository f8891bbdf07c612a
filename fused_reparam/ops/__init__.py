"""The ``torch.library`` ops, a file per op: what each computes; ``differentiable`` makes them ops.

Importing this package registers them under ``torch.ops.fused_reparam``.
"""

from . import elementwise, elementwise_vmap, noise, sampled_linear, softmax, softmax_vmap

__all__ = ["elementwise", "elementwise_vmap", "noise", "sampled_linear", "softmax", "softmax_vmap"]
