"""The ``torch.library`` ops, one file per family: schema, fake kernel, autograd, vmap.

Importing this package registers them under ``torch.ops.fused_reparam``.
"""

from . import gaussian, gaussian_vmap, noise

__all__ = ["gaussian", "gaussian_vmap", "noise"]
