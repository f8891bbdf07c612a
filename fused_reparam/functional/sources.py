"""Where the noise of a call comes from."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.modes import eager
from ..core.scales import SCALE_KINDS
from ..core.storage import TENSOR_TYPES, check_given
from ..ops.elementwise import Spec, elementwise
from ..ops.layout import UNSETTLED, empty_ordered, memory_order
from ..ops.library import all_eager, as_tensor
from ..ops.noise import draw_key
from ..rng import keys
from .arguments import check_rng, given_noise


class Sources(NamedTuple):
    """What the user said of it; see ``gaussian_latent``."""

    key: Tensor | None = None
    generator: torch.Generator | None = None
    rng: str = "philox"
    eps: Tensor | None = None


_FRESH = Sources()
# Of a Gaussian: no bounds of its scale, the standard prior, no free bits.
_STANDARD = (-math.inf, math.inf, 0.0, 1.0, -math.inf)


def one_source(
    key: Tensor | None, generator: torch.Generator | None, rng: str, eps: Tensor | None
) -> Sources:
    """Raise ValueError unless the noise has one source."""
    check_rng(rng)
    if key is None and generator is None and eps is None and rng == "philox":
        return _FRESH
    keys.check_generator(generator)
    if (key is not None) + (generator is not None) + (eps is not None) > 1:
        raise ValueError("give at most one of key, generator and eps: each decides the noise")
    if rng == "torch" and (key is not None or eps is not None):
        raise ValueError('rng="torch" draws from a generator and takes neither key nor eps')
    return Sources(key, generator, rng, eps)


def key_source(key: Tensor | None, generator: torch.Generator | None) -> Sources:
    """The same of a function that takes no other."""
    if key is None and generator is None:
        return _FRESH
    keys.check_generator(generator)
    if key is not None and generator is not None:
        raise ValueError("give at most one of key and generator: each decides the noise")
    return Sources(key, generator)


def key_of(sources: Sources, like: Tensor) -> Any:
    """The key given, checked, or a fresh one."""
    key = sources.key
    if key is None:
        return _drawn_key(like, sources.generator)
    keys.check_key(key)
    check_given("key", key)
    if not key.is_cpu or (not like.is_cpu and not all_eager(like)):
        key = keys.on_device(key, like.device)
    return key


def given_or_torch(
    sources: Sources, like: Tensor, shape: torch.Size, order: list[int]
) -> tuple[None, Tensor]:
    """No key: the noise itself, given or PyTorch's own, of a sample of a shape and memory order."""
    if sources.eps is not None:
        return None, given_noise(sources.eps, like, shape)
    return None, _torch_noise(like, shape, order, sources.generator)


def made_of(key: Any, z: Tensor) -> Tensor:
    """The normals that an op made of a key for a sample."""
    key = keys.on_device(as_tensor(key), z.device)
    if torch._C._get_tracing_state() is not None:
        # Sizes are tensors there, which no op's schema takes for integers: a standard Gaussian's
        # sample is the noise, and gets its shape from tensors.
        zeros, ones = torch.zeros_like(z), torch.ones_like(z)
        spec = Spec(UNSETTLED, "gaussian", SCALE_KINDS.index("std"), 0, _STANDARD, 0, True, None)
        return elementwise((zeros, ones), key, None, spec)[0]
    return torch.ops.fused_reparam.normal(key, z.shape, memory_order(z), z.dtype)


def _drawn_key(like: Tensor, generator: torch.Generator | None) -> Any:
    """A fresh key, or what the op draws one by as its backend takes it at least cost."""
    if not like.is_cpu and not torch.compiler.is_compiling():
        return keys.Fresh(generator)
    if eager():  # nothing but the backend sees the key
        # A subclass would take the op for one of its own.
        if generator is None and type(like) in TENSOR_TYPES:
            return draw_key(like)
        return keys.random_bits(like.device, generator)
    return keys.draw_key(like.device, generator)


def _torch_noise(
    loc: Tensor, shape: torch.Size, order: list[int], generator: torch.Generator | None
) -> Tensor:
    same = loc.dim() == len(shape) and loc.shape == shape
    like = loc if same else empty_ordered(shape, order, loc.dtype, loc.device)
    if generator is None:
        return torch.randn_like(like)
    return torch.empty_like(like).normal_(generator=generator)
