"""Fused reparameterized sampling for PyTorch: noise, sample and KL in one pass each way."""

from typing import TYPE_CHECKING

from . import distributions as distributions
from . import functional as _functional
from . import integrations as integrations
from . import nn as _nn
from . import noise as noise
from . import ops as _ops  # noqa: F401  (registers torch.ops.fused_reparam)
from ._version import __version__ as __version__
from .backends import dispatch as _dispatch
from .backends.cpu import memory as _memory
from .functional import *
from .nn import *

backend = _dispatch.backend
current_backend = _dispatch.current
empty_cache = _memory.empty_cache
memory_stats = _memory.memory_stats

if not TYPE_CHECKING:  # see functional/__init__.py
    __all__ = ["__version__", "backend", "current_backend", "distributions", "empty_cache"]
    __all__ += ["integrations", "memory_stats", "noise", *_functional.__all__, *_nn.__all__]
