"""The ``torch.library`` ops, one file per family: schema, fake kernel, autograd, vmap.

Importing this package registers them under ``torch.ops.fused_reparam``.
"""

from . import draw, draw_vmap, gaussian, gaussian_vmap, noise, rows, rows_vmap

__all__ = ["draw", "draw_vmap", "gaussian", "gaussian_vmap", "noise", "rows", "rows_vmap"]
