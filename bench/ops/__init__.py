"""The ops that the bench knows: one file each. A new op is one file and one name here."""

from bench.ops import (
    gaussian_kl,
    gaussian_latent,
    gaussian_latent_from_moments,
    gaussian_rsample,
    normal,
)
from bench.ops.base import Op

_MODULES = (
    gaussian_latent,
    gaussian_rsample,
    gaussian_kl,
    gaussian_latent_from_moments,
    normal,
)
OPS: dict[str, Op] = {module.OP.name: module.OP for module in _MODULES}
