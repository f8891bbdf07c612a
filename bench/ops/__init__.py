"""The ops that the bench knows: one file each. A new op is one file and one line here."""

from bench.ops import gaussian_latent
from bench.ops.base import Op

OPS: dict[str, Op] = {op.name: op for op in (gaussian_latent.OP,)}
