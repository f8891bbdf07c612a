"""One call of a public function, forward and backward, with what is right for its results.

The truth is the reference backend in float64, on the same inputs, key and uniform numbers. A
result's error is its distance from that, as a part of 1 + |truth|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

import fused_reparam as fr
from fused_reparam import noise
from fused_reparam.families import FAMILIES
from fused_reparam.rng import bases as streams
from fused_reparam.rng import keys as rng_keys
from fused_reparam.rng import stream as rng_stream

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
# Results of half precision are rounded once, and compared with the unrounded truth.
TOLERANCE = {
    "float32": 2e-5,
    "bfloat16": 1.1 * 2.0**-8,
    "float16": 1.1 * 2.0**-11,
    "float64": 1e-12,
}
# Keys whose counter's lower half, and whose whole counter, overflows within the first blocks.
CARRY32, CARRY64 = (2**63 + 11, 2**32 - 3), (5, 2**64 - 3)
_POSITIVE = {
    "std", "var", "scale", "prior_std", "unimix",
    *(word[:-1] for row in FAMILIES.values() for word in row.names.split() if word.endswith("+")),
}  # fmt: skip


class Result(NamedTuple):
    name: str
    error: float
    tolerance: float


@dataclass
class Case:
    """function(**{name: tensor of this shape}, **options), and its gradients.

    layouts: of the tensors in turn, see `laid_out`; gradients: how the outputs' gradients lie,
    "sum" for expanded ones, as `sum()` gives them; key_from: "host", or where kernels get their key
    from otherwise; big: with the 64-bit indices that tensors beyond 2^31 elements take;
    every_dtype: it is executed in each of them, whatever else is (see `coverage.chosen`); frozen:
    the tensors without gradients; unused: the outputs that get none; scaled: what the tensors'
    values are multiplied by in turn; bits: the first output has those of PyTorch's own operators.
    """

    name: str
    function: Callable
    tensors: tuple[str, ...]
    shape: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    key: tuple[int, int] | None = (7, 0)
    layouts: tuple[str, ...] = ()
    gradients: str = "dense"
    key_from: str = "host"
    big: bool = False
    every_dtype: bool = False
    frozen: tuple[str, ...] = ()
    unused: tuple[int, ...] = ()
    scaled: tuple[float, ...] = ()
    bits: bool = False

    def inputs(self, dtype: torch.dtype) -> list[Tensor]:
        layouts = dict(enumerate(self.layouts))
        return [
            laid_out(self.values(i).to(dtype), layouts.get(i, "dense"))
            for i in range(len(self.tensors))
        ]

    def values(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(31 + index)
        values = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        name = self.tensors[index]
        positive = name in _POSITIVE or (name == "mu" and "theta" in self.tensors)  # of counts
        values = 0.2 + values.abs() if positive else values
        if name in ("low", "high"):  # around the box
            values = (1.0 + values.abs()) * (1.0 if name == "high" else -1.0)
        if name in ("action", "y"):  # within the box, or between 0 and 1
            values = 0.9 * torch.tanh(values) if name == "action" else torch.sigmoid(values)
        return values * self.scaled[index] if self.scaled else values

    def call(self, tensors: list[Tensor]) -> tuple[Tensor, ...]:
        given: dict[str, Any] = dict(zip(self.tensors, tensors, strict=True))
        if "prior_loc" in given:
            scale = next(n for n in given if n.startswith("prior_") and n != "prior_loc")
            given["prior"] = given.pop("prior_loc"), {scale[6:]: given.pop(scale)}
        if self.key is not None:
            given["key"] = noise.key(*self.key)
        out = self.function(**given, **self.options)
        return out if isinstance(out, tuple) else (out,)

    def results(self, backend: str, dtype: torch.dtype, inputs: list[Tensor]) -> list:
        """Outputs and gradients of the inputs in this dtype; gradients come in the inputs' own."""
        leaves = [t.detach().to(dtype, copy=dtype != t.dtype) for t in inputs]
        trained = [t for t, n in zip(leaves, self.tensors, strict=True) if n not in self.frozen]
        for leaf in trained:
            leaf.requires_grad_()
        generator = torch.Generator().manual_seed(99)
        with fr.backend(backend):
            outputs = self.call(leaves)
            used = [o for i, o in enumerate(outputs) if i not in self.unused]
            given = [self.cotangent(o, inputs[0].dtype, generator) for o in used]
            grads = torch.autograd.grad(used, trained, given, allow_unused=True)
        return [*outputs, *grads]

    def cotangent(self, out: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
        if self.gradients == "sum":
            return torch.ones((), dtype=out.dtype).expand(out.shape)
        drawn = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        layout = self.gradients if out.shape == self.shape else "dense"
        return laid_out(drawn.to(dtype).to(out.dtype), layout)

    def computed(self, dtype: torch.dtype, inputs: list[Tensor]) -> list:
        """What the kernels make of them."""
        with keys_from(self.key_from), wide_indices(self.big):
            return self.results("triton", dtype, inputs)

    def run(self, dtype_name: str, slack: float = 1.0) -> list[Result]:
        """Each result with its error and what is allowed: the dtype's tolerance times `slack`, or
        twice the error of the same formula in the same dtype in plain PyTorch.
        """
        dtype = DTYPES[dtype_name]
        inputs = self.inputs(dtype)
        found = self.computed(dtype, inputs)
        with noise_of(dtype):
            exact = self.results("reference", torch.float64, inputs)
        trained = [name for name in self.tensors if name not in self.frozen]
        outputs = len(found) - len(trained)
        names = [f"output {i}" for i in range(outputs)] + [f"d {n}" for n in trained]
        made, plain = [], None
        if self.bits and dtype.itemsize > 2:  # which round at each step
            plain = self.results("reference", dtype, inputs)
            other = (found[0] != plain[0]).double().mean().item()
            made.append(Result("part of output 0 with other bits", other, 0.0))
        for i, (name, got, want) in enumerate(zip(names, found, exact, strict=True)):
            if got is None:  # a value that does not depend on an input
                assert want is None, f"{name}: no gradient"
                continue
            off, allowed = error(got, want), slack * TOLERANCE[dtype_name]
            if off > allowed:
                plain = plain or self.results("reference", dtype, inputs)
                allowed = max(allowed, 2.0 * slack * error(plain[i], want))
            made.append(Result(name, off, allowed))
        return made


def error(got: Tensor, want: Tensor) -> float:
    got, want = got.detach().double().reshape(-1), want.detach().double().reshape(-1)
    same = (got == want) | (got.isnan() & want.isnan())
    off = torch.where(same, 0.0, (got - want).abs() / (1 + want.abs()))
    if off.isnan().any():
        return math.inf
    return off.max().item() if off.numel() else 0.0


def laid_out(flat: Tensor, layout: str) -> Tensor:
    """The same values in another place in memory."""
    if layout == "dense":
        return flat
    if layout == "half":  # of a chunk along dim 1
        return torch.cat([flat, flat], 1).chunk(2, 1)[1]
    if layout == "channels_last":
        return flat.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return flat.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "row":
        return flat[:1].expand_as(flat)
    if layout == "column":
        return flat[:, :1].expand_as(flat)
    assert layout == "shifted", layout  # the alignment to 16 bytes is lost
    room = flat.new_empty(flat.numel() + 1)
    room[1:].copy_(flat.reshape(-1))
    return room[1:].view(flat.shape)


def stream32(key: Tensor, n: int) -> Tensor:
    """The noise of 32-bit words, by its formulas in float64 from float32 uniform numbers."""
    words = rng_stream.words(key, -(-n // 4))
    uniform = (words.float() * 2.0**-32 + 2.0**-33).double()
    radius, angle = torch.sqrt(-2.0 * torch.log(uniform[:, 0::2])), 2.0 * math.pi * uniform[:, 1::2]
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=2)
    return pairs.reshape(-1)[:n]


@contextmanager
def noise_of(dtype: torch.dtype) -> Iterator[None]:
    """The reference backend in float64 draws the noise of tensors of this dtype."""
    if dtype == torch.float64:
        yield
        return
    uniform = streams.uniform

    def uniform32(key, n, _):
        drawn = uniform(key, n, torch.float32)
        return streams.Uniform(drawn.v.double(), drawn.upper)

    with (
        mock.patch.object(rng_stream, "stream", lambda key, n, _: stream32(key, n)),
        mock.patch.object(streams, "uniform", uniform32),
    ):
        yield


# A generator's seed, its offset when a graph is replayed, and a call's place in the graph.
GRAPH_STATE = 2**63 + 9, 2**40, 8


@contextmanager
def keys_from(where: str) -> Iterator[None]:
    """Keys as CUDA tensors are given ("device"), or as a captured graph derives them ("graph"):
    then the forward pass writes down what the backward pass loads.
    """
    from fused_reparam.backends.triton import elementwise, gaussian, softmax

    written: list[Tensor] = []

    def key_of(key):
        if key is None:
            return gaussian._NO_KEY
        if where == "graph" and not written:
            seed, offset, place = GRAPH_STATE
            written.append(torch.zeros(2, dtype=torch.int64))
            state = (torch.tensor([rng_keys.as_int64(v)]) for v in (seed, offset))
            return real(noise.GraphKey(*state, place, written[0]))
        return gaussian._loaded(written[0] if written else key.contiguous())

    real = gaussian._key
    if where == "host":
        yield
        return
    with (
        mock.patch.object(gaussian, "_key", key_of),
        mock.patch.object(elementwise, "_key", key_of),
        mock.patch.object(softmax, "_key", key_of),
    ):
        yield


def graph_key() -> tuple[int, int]:
    """The key that a graph derives."""
    seed, offset, place = GRAPH_STATE
    return noise.derived_seed(seed, offset + place), 0


@contextmanager
def wide_indices(wanted: bool) -> Iterator[None]:
    """Tensors are cut as those are whose indices need 64 bits."""
    from fused_reparam.backends.triton import elementwise, gaussian, softmax
    from fused_reparam.ops.elementwise import forget

    if not wanted:
        yield
        return
    cached = [
        function
        for module in (gaussian, elementwise, softmax)
        for function in (module._forward, module._backward)
    ]
    layout_of, tile_of = gaussian.layout_of, softmax.tile_of

    def clear():
        forget()
        for function in cached:
            function.cache_clear()

    clear()
    try:
        with (
            mock.patch.object(
                gaussian, "layout_of", lambda *a: layout_of(*a)._replace(wide_index=True)
            ),
            mock.patch.object(softmax, "tile_of", lambda *a: tile_of(*a)._replace(wide_index=True)),
        ):
            yield
    finally:
        clear()
