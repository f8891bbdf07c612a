"""Where the noise of a call comes from, and of how many samples it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..core.dtypes import compute_dtype
from ..core.mistakes import described
from ..core.modes import eager
from ..core.noise_options import Generators, NoiseOptions, SampleShape
from ..core.scalars import integer
from ..core.scales import SCALE_KINDS
from ..core.storage import check_given
from ..families import FAMILIES, base_number
from ..ops.elementwise import Spec, elementwise
from ..ops.layout import UNSETTLED, empty_ordered, memory_order
from ..ops.library import all_eager, as_tensor
from ..ops.noise import draw_key
from ..ops.sharded import is_sharded, shared_key
from ..rng import keys
from ..rng.torch_draws import DRAWS
from .arguments import check_rng, sample_count


class Sources(NamedTuple):
    """What the user said of it; see ``gaussian_latent``."""

    key: Tensor | None = None
    generator: torch.Generator | tuple[torch.Generator, ...] | None = None  # many: one an item
    rng: str = "philox"
    eps: Tensor | None = None
    sample_shape: tuple[int, ...] = ()
    like_loc: bool = True
    """Whether PyTorch's own noise lies in memory as the location, which ``randn_like`` does."""


class Drawing(NamedTuple):
    """How base noise is drawn."""

    base: str  # a name of ``rng.bases.BASES``: of a key
    torch: str  # a name of ``rng.torch_draws.DRAWS``: as PyTorch draws it
    number: float = 0.0


_FRESH = Sources()
# Of a Gaussian: no bounds of its scale, the standard prior, no free bits.
_STANDARD = (-math.inf, math.inf, 0.0, 1.0, -math.inf)

# Why DTensors take no such noise, by whether there is a list of generators.
_SHARDED = (
    'rng="torch" draws one number after the other from the generator of one device, which no shard '
    "can do for itself; leave it away, or give eps as a DTensor",
    "a list of generators has one for each item of the batch, and no rank has all items; give one "
    "key or generator",
)


def one_source(
    key: Tensor | None,
    generator: Generators | None,
    rng: str = "philox",
    eps: Tensor | None = None,
    sample_shape: SampleShape | None = None,
    num_samples: int | None = None,
    like_loc: bool = True,
) -> Sources:
    """Raise ValueError unless the noise has one source."""
    check_rng(rng)
    shape: tuple[int, ...] = ()
    if sample_shape is not None or num_samples is not None:
        shape = _sample_shape(sample_shape, num_samples)
    if key is None and generator is None and eps is None and rng == "philox":
        return Sources(None, None, rng, None, shape) if shape else _FRESH
    found = _checked(generator)
    if (key is not None) + (found is not None) + (eps is not None) > 1:
        raise ValueError("give at most one of key, generator and eps: each decides the noise")
    if rng == "torch" and (key is not None or eps is not None):
        raise ValueError('rng="torch" draws from a generator and takes neither key nor eps')
    return Sources(key, found, rng, eps, shape, like_loc)


def sources_of(key: Tensor | None, generator: Generators | None, noise: NoiseOptions) -> Sources:
    """The same of the families whose noise PyTorch draws as ``torch.distributions`` does."""
    if key is None and generator is None and not noise:
        return _FRESH
    return one_source(key, generator, **noise, like_loc=False)


def _checked(generator: Generators | None) -> torch.Generator | tuple[torch.Generator, ...] | None:
    """One generator, or one for each item of a batch. A list of one is that one."""
    if not isinstance(generator, (tuple, list)):
        keys.check_generator(generator)  # type: ignore[arg-type]
        return generator  # type: ignore[return-value]
    for at, one in enumerate(generator):
        if not hasattr(one, "initial_seed"):  # as keys.check_generator asks of one
            raise TypeError(
                "generator must be a torch.Generator, a list of them or None, got a list whose "
                f"item {at} is {described(one)}"
            )
    return generator[0] if len(generator) == 1 else tuple(generator)


def _sample_shape(shape: SampleShape | None, num_samples: int | None) -> tuple[int, ...]:
    """The dims in front of z."""
    if shape is None:
        return (sample_count(num_samples),)
    if num_samples is not None:
        raise ValueError(
            "give sample_shape or num_samples, which is its short form: got "
            f"sample_shape={shape} and num_samples={num_samples}"
        )
    sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
    found = tuple([integer("a size of sample_shape", n) for n in sizes])  # type: ignore[arg-type]
    if any(n < 0 for n in found) or math.prod(found) >= 1 << 63:
        raise ValueError(
            f"sample_shape must be of sizes from 0, fewer than 2^63 samples, got {found}"
        )
    return found


def made_in_op(sources: Sources) -> bool:
    """Whether the op makes the noise of a key, and needs none in memory."""
    return sources.rng == "philox" and sources.eps is None and type(sources.generator) is not tuple


def key_of(sources: Sources, like: Tensor) -> Any:
    """The key given, checked, or a fresh one."""
    key = sources.key
    if key is None:
        return _drawn_key(like, sources.generator)  # type: ignore[arg-type]
    keys.check_key(key)
    check_given("key", key)
    if not key.is_cpu or (not like.is_cpu and not all_eager(like)):
        key = keys.on_device(key, like.device)
    return key


def drawn_noise(
    sources: Sources, like: Tensor, draw: Drawing, shape: torch.Size, order: list[int]
) -> Tensor:
    """The noise itself where the op makes none: PyTorch's own, or of a key for each item.

    ``shape``, ``order``: those of the sample, and of its dims in memory. The noise of keys is as
    precise as an op makes it: float32 for the 16-bit dtypes.
    """
    generator = sources.generator
    check_not_sharded(like, generator)
    if not isinstance(generator, tuple):
        return _torch_noise(sources, like, draw, shape, order, generator)
    at = len(sources.sample_shape)
    check_items(generator, shape[at:])
    # As the item would be drawn alone.
    item = torch.Size((*shape[:at], 1, *shape[at + 1 :]))
    drawn = [
        _torch_noise(sources, like, draw, item, order, one)
        if sources.rng == "torch"
        else _noise_of_key(like, draw, item, order, one)
        for one in generator
    ]
    return torch.cat(drawn, at) if drawn else like.new_empty(shape)


def check_not_sharded(like: Tensor, generator: Any) -> None:
    """Raise NotImplementedError for a DTensor, whose noise no generator draws number by number."""
    if is_sharded(like):
        raise NotImplementedError(
            "a DTensor takes its noise from a key, by index in the whole: "
            + _SHARDED[isinstance(generator, tuple)]
        )


def drawing_of(family: str, constants: Sequence[float]) -> Drawing:
    row = FAMILIES[family]
    return Drawing(row.base, row.draw or row.base, base_number(family, constants))


def check_items(generators: tuple[torch.Generator, ...], shape: Sequence[int]) -> None:
    """Raise ValueError unless there is one generator for each item of a batch."""
    if not len(shape) or shape[0] != len(generators):
        raise ValueError(
            "a list of generators has one for each item of the batch, dim 0 of shape "
            f"{tuple(shape)}, got {len(generators)}"
        )


def _noise_of_key(
    like: Tensor, draw: Drawing, shape: torch.Size, order: list[int], generator: torch.Generator
) -> Tensor:
    key = keys.draw_key(like.device, generator)
    return torch.ops.fused_reparam.base_noise(  # type: ignore[no-any-return]
        key, shape, order, compute_dtype(like.dtype), draw.base, draw.number
    )


def _torch_noise(
    sources: Sources,
    like: Tensor,
    draw: Drawing,
    shape: torch.Size,
    order: list[int],
    generator: torch.Generator | None,
) -> Tensor:
    """The numbers that PyTorch would draw for a sample, in the dtype of its location."""
    keys.check_traceable(generator)
    device = keys.drawn_on(like.device, generator)
    if not sources.like_loc:
        out = like.new_empty(shape, device=device)
        noise = DRAWS[draw.torch](out, generator, draw.number)
        return noise if device == like.device else noise.to(like.device)
    same = like.dim() == len(shape) and like.shape == shape
    if generator is None:
        return torch.randn_like(
            like if same else empty_ordered(shape, order, like.dtype, like.device)
        )
    if same:
        out = torch.empty_like(like, device=device)
    elif order:
        out = empty_ordered(shape, order, like.dtype, device)
    else:  # of each example where a vmap draws for them
        out = like.new_empty(shape, device=device)
    return out.normal_(generator=generator).to(like.device)


def made_of(key: Any, z: Tensor) -> Tensor:
    """The normals that an op made of a key for a sample."""
    key = keys.on_device(as_tensor(key), z.device)
    if torch._C._get_tracing_state() is not None or is_sharded(z):
        # Of a DTensor the op knows which indices it has. Sizes are tensors while tracing, which no
        # op's schema takes for integers: a standard Gaussian's sample is the noise, and gets its
        # shape from tensors.
        zeros, ones = torch.zeros_like(z), torch.ones_like(z)
        spec = Spec(UNSETTLED, "gaussian", SCALE_KINDS.index("std"), 0, _STANDARD, 0, True, None)
        return elementwise((zeros, ones), key, None, spec)[0]
    return torch.ops.fused_reparam.normal(key, z.shape, memory_order(z), z.dtype)


def _drawn_key(like: Tensor, generator: torch.Generator | None) -> Any:
    """A fresh key, or what the op draws one by as its backend takes it at least cost."""
    if not is_compiling():
        if not like.is_cpu:
            return keys.Fresh(generator)
        if generator is None:
            return draw_key.call(like)
    # In eager mode nothing but the backend sees the key.
    draw = keys.draw_key if is_compiling() or not eager() else keys.random_bits
    drawn = draw(like.device, generator)
    return shared_key(drawn, [like]) if is_sharded(like) else drawn
