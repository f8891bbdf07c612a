"""What a differentiable op says of itself: its schema, and what is computed.

``differentiable.py`` makes ops of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from .functions import Call, Tensors


class Definition(ABC):
    """An op: pure functions of its tensors and its spec, the schema's other arguments.

    Tensors come as tuples of fixed length, None where one is absent; a spec is a NamedTuple.
    """

    name: ClassVar[str]
    inputs: ClassVar[str]
    """The tensors of the schema."""
    saved: ClassVar[str]
    """What the backward pass gets of them and of the outputs, as a schema."""
    outputs: ClassVar[tuple[str, ...]]
    gradients: ClassVar[tuple[int, ...]]
    """Which inputs have a gradient."""
    options: ClassVar[str]
    """The spec as a schema."""
    Spec: ClassVar[type]
    variable_options: ClassVar[tuple[str, ...]]
    """What of the spec no layout depends on."""

    @abstractmethod
    def settled(self, tensors: Tensors, spec: Any) -> Any:
        """The spec with all that it leaves to the inputs, or to what was saved of them.

        Gradients are of the spec that a forward pass had: a hook on saved tensors may change their
        strides.
        """

    @abstractmethod
    def check(self, inputs: Tensors, spec: Any) -> None:
        """Raise TypeError or ValueError unless the op can compute this."""

    @abstractmethod
    def check_backward(
        self, grads: Tensors, kept: Tensors, spec: Any, needs: Sequence[bool]
    ) -> None:
        """The same of the backward op."""

    @abstractmethod
    def allocate(self, inputs: Tensors, spec: Any) -> Tensors:
        """Uninitialised outputs."""

    @abstractmethod
    def allocate_gradients(self, kept: Tensors, spec: Any, needs: Sequence[bool]) -> Tensors:
        """Uninitialised gradients, None where not needed."""

    @abstractmethod
    def layout(self, tensors: Tensors, spec: Any) -> Any:
        """What follows from shapes and strides of the inputs, or of what was saved of them: found
        once for all calls like it, whose variable options (None here) may differ.
        """

    @abstractmethod
    def forward(self, call: Call, inputs: Tensors) -> Tensors:
        """The outputs, by the call's backend; None for what is not wanted."""

    @abstractmethod
    def backward(self, call: Call, grads: Tensors, kept: Tensors, needs: Sequence[bool]) -> Tensors:
        """The gradients that are needed, of those inputs that have one; None for the others."""

    @abstractmethod
    def double_backward(
        self, cotangents: Tensors, grads: Tensors, kept: Tensors, spec: Any
    ) -> Tensors:
        """The gradients of ``backward`` for its tensors, as differentiable PyTorch code."""

    @abstractmethod
    def keep(self, inputs: Tensors, outputs: Tensors, spec: Any) -> Tensors:
        """What is saved for the backward pass."""

    @abstractmethod
    def of_shards(self, inputs: Tensors, spec: Any) -> Tensors:
        """The outputs of DTensors, differentiable: by a call of the op for this rank's shard."""

    def incoming(self, grads: Tensors, spec: Any) -> Tensors:
        """The gradients of the outputs that count."""
        return grads

    def tangents(self, found: Tensors, spec: Any) -> Tensors:
        """Those of the outputs, from those of what ``incoming`` keeps."""
        return found

    def spec_with_gradient(self, spec: Any) -> Any:
        """The spec of a forward pass that a backward pass may follow."""
        return spec

    def visible(self, outputs: Tensors, spec: Any) -> Tensors:
        """The outputs that a caller sees."""
        return outputs

    def passed(self, grads: Tensors, kept: Tensors, spec: Any) -> tuple[int, Tensor] | None:
        """A gradient that is an incoming one as it is: which one, and that."""
        return None

    def in_plain_operators(self, inputs: Tensors, spec: Any) -> Tensors:
        """The outputs where no noise is drawn: an exported model needs no op of this package."""
        raise NotImplementedError
