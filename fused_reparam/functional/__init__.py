"""What a user calls: checks the arguments, finds the noise, calls an op. One file per kind.

What a file names in its ``__all__`` is public, here and in ``fused_reparam``.
"""

from typing import TYPE_CHECKING

from . import categorical as _categorical
from . import categorical_log_prob as _categorical_log_prob
from . import count_likelihoods as _count_likelihoods
from . import gaussian as _gaussian
from . import gaussian_from_moments as _gaussian_from_moments
from . import gaussian_kl as _gaussian_kl
from . import gaussian_log_prob as _gaussian_log_prob
from . import heavy_tails as _heavy_tails
from . import kl as _kl
from . import likelihoods as _likelihoods
from . import loc_scale as _loc_scale
from . import log_normal as _log_normal
from . import positive as _positive
from . import relaxed_log_prob as _relaxed_log_prob
from . import sample_weight as _sample_weight
from . import tanh_normal as _tanh_normal
from . import unit_interval as _unit_interval
from .categorical import *
from .categorical_log_prob import *
from .count_likelihoods import *
from .gaussian import *
from .gaussian_from_moments import *
from .gaussian_kl import *
from .gaussian_log_prob import *
from .heavy_tails import *
from .kl import *
from .likelihoods import *
from .loc_scale import *
from .log_normal import *
from .positive import *
from .relaxed_log_prob import *
from .sample_weight import *
from .tanh_normal import *
from .unit_interval import *

if not TYPE_CHECKING:  # which sees what is imported above, and of this only that it is no literal
    _FILES = (
        _categorical, _categorical_log_prob, _count_likelihoods, _gaussian, _gaussian_from_moments,
        _gaussian_kl, _gaussian_log_prob, _heavy_tails, _kl, _likelihoods, _loc_scale, _log_normal,
        _positive, _relaxed_log_prob, _sample_weight, _tanh_normal, _unit_interval,
    )  # fmt: skip
    __all__ = [name for file in _FILES for name in file.__all__]
