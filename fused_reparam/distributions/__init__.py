"""``torch.distributions`` whose samples, densities and divergences are fused where they can be.

``from fused_reparam import distributions`` takes the place of ``from torch import distributions``:
what is not fused here is PyTorch's own.
"""

from typing import TYPE_CHECKING

from torch import distributions as _torch
from torch.distributions import *
from torch.distributions import constraints as constraints
from torch.distributions import transforms as transforms

from . import categories as _categories
from . import diagonal_gaussian as _diagonal_gaussian
from . import kl as _kl  # noqa: F401  (registers divergences)
from . import loc_scale as _loc_scale
from . import normal as _normal
from . import positive as _positive
from . import tanh_normal as _tanh_normal
from . import unit_interval as _unit_interval
from .categories import *
from .diagonal_gaussian import *
from .loc_scale import *
from .normal import *
from .positive import *
from .tanh_normal import *
from .unit_interval import *

if not TYPE_CHECKING:  # see functional/__init__.py
    _FILES = (
        _categories,
        _diagonal_gaussian,
        _loc_scale,
        _normal,
        _positive,
        _tanh_normal,
        _unit_interval,
    )
    __all__ = sorted(
        {
            "constraints",
            "transforms",
            *_torch.__all__,
            *(name for file in _FILES for name in file.__all__),
        }
    )
