"""The Bayesian LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Never, Self, Unpack, overload

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn.utils.rnn import PackedSequence

from ...core.mistakes import described, names_mistakes, unknown
from ...core.scalars import integer
from ...core.tracers import fx, node_of
from ...functional import arguments
from ...functional.divergence import PriorArgument
from ..stochastic import changed
from .mean_field import MeanField
from .prior import Mixture, PriorOptions, no_prior

__all__ = ["BayesianLSTM"]

State = tuple[Tensor, Tensor]


class _Sizes(NamedTuple):
    """Of a layer, all that its forward pass reads beside the weights."""

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    training: bool


class BayesianLSTM(MeanField):
    r"""An LSTM with weights ``w = mu + softplus(rho) * eps``, drawn once for each forward pass.

    One draw serves the whole batch and all steps. In ``eval()`` mode the weights are their means,
    of which a loss is no ELBO; :func:`fused_reparam.sampling` lets them be drawn. The KL and the
    prior are as in :class:`BayesianLinear`.

    ``torch.compile`` leaves the recurrence to PyTorch's own kernel, as it does for
    ``torch.nn.LSTM``, so that ``fullgraph=True`` refuses it.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device, dtype: as ``torch.nn.LSTM`` has them.
        prior, prior_mean, prior_std, mixture, rho_init, noise: see :class:`BayesianLinear`.

    Shape:
        as ``torch.nn.LSTM``: ``layer(x)`` or ``layer(x, (h0, c0))`` of (steps, batch, input_size),
        (batch, steps, input_size) with ``batch_first``, (steps, input_size), or of a packed
        sequence; it returns ``(y, (h, c))``. Parameters: each of ``torch.nn.LSTM``'s, as
        ``weight_ih_l0``, is two: ``weight_ih_l0_mu, weight_ih_l0_rho``.

    Raises:
        ValueError, TypeError: as ``torch.nn.LSTM`` and :class:`BayesianLinear` do.

    Source: Fortunato, Blundell and Vinyals, "Bayesian recurrent neural networks", 2017.

    Example:
        >>> import torch
        >>> from fused_reparam import BayesianLSTM
        >>> layer = BayesianLSTM(3, 5, num_layers=2, batch_first=True)
        >>> y, (h, c) = layer(torch.randn(4, 7, 3))
        >>> y.shape, h.shape
        (torch.Size([4, 7, 5]), torch.Size([2, 4, 5]))
    """

    _of = nn.LSTM
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int

    @names_mistakes
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        prior_mean: Tensor | float = 0.0,
        prior_std: Tensor | float = 1.0,
        mixture: Mixture | None = None,
        rho_init: float = -5.0,
        prior: PriorArgument = None,
        noise: str = "shared",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **mistaken: Never,
    ) -> None:
        if mistaken:
            raise unknown(type(self), mistaken)
        layer = nn.LSTM(
            integer("input_size", input_size),
            integer("hidden_size", hidden_size),
            integer("num_layers", num_layers),
            bias,
            batch_first,
            arguments.number("dropout", dropout),
            bidirectional,
            integer("proj_size", proj_size),
            device,
            dtype,
        )
        super().__init__(
            layer, prior=prior, prior_mean=prior_mean, prior_std=prior_std, mixture=mixture,
            rho_init=rho_init, noise=noise,
        )  # fmt: skip

    @classmethod
    def from_lstm(cls, layer: nn.LSTM, **options: Unpack[PriorOptions]) -> Self:
        """A layer whose means are copies of a ``torch.nn.LSTM``'s weights.

        Arguments and errors are those of :meth:`BayesianLinear.from_linear`.

        Example:
            >>> import torch
            >>> from fused_reparam import BayesianLSTM
            >>> trained, x = torch.nn.LSTM(3, 5), torch.randn(7, 2, 3)
            >>> torch.equal(BayesianLSTM.from_lstm(trained).eval()(x)[0], trained(x)[0])
            True
        """
        return cls._from(layer, options)

    @overload
    def forward(self, x: Tensor, hx: State | None = None) -> tuple[Tensor, State]: ...
    @overload
    def forward(
        self, x: PackedSequence, hx: State | None = None
    ) -> tuple[PackedSequence, State]: ...
    def forward(
        self, x: Tensor | PackedSequence, hx: State | None = None
    ) -> tuple[Tensor | PackedSequence, State]:
        """Outputs and last states by freshly drawn weights; in eval, by the means."""
        sizes = [getattr(self, name) for name in _Sizes._fields]
        return lstm(x, hx, self._draw(), sizes)  # type: ignore[arg-type]

    def flatten_parameters(self) -> None:
        """Nothing: for code that calls it of a ``torch.nn.LSTM``. Drawn weights are new tensors."""

    if TYPE_CHECKING:  # PyTorch's own returns Any
        __call__ = forward

    extra_repr = changed(__init__, prior=no_prior)

    @staticmethod
    def _names_in(layer: nn.Module) -> list[str]:
        return layer._flat_weights_names  # type: ignore[return-value]


def lstm(
    x: Tensor | PackedSequence,
    hx: State | None,
    weights: list[Tensor],
    sizes: Sequence[int | float],
) -> tuple[Tensor | PackedSequence, State]:
    """What ``torch.nn.LSTM`` of these sizes gives with these weights."""
    if not isinstance(x, (Tensor, PackedSequence)) or fx._is_fx_tracing_flag:
        node = node_of(lstm, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    of = _Sizes(*sizes)  # type: ignore[arg-type]
    order = back = steps = None
    if isinstance(x, PackedSequence):
        data, steps, order, back = x
        batch = int(steps[0])
    else:
        data = _with_batch(x, of)
        batch = data.size(0 if of.batch_first else 1)
    _check_input(data, weights[0], of)
    if hx is None:
        shapes = _state_shapes(batch, of)
        hx = data.new_zeros(shapes[0]), data.new_zeros(shapes[1])
    else:
        _check_pair(hx)
        if not isinstance(x, PackedSequence) and x.dim() == 2:
            hx = hx[0].unsqueeze(1), hx[1].unsqueeze(1)
        _check_state(hx, batch, of)
        hx = _permuted(hx, order)
    options = of.bias, of.num_layers, of.dropout, of.training, of.bidirectional
    run = _outside_of_graphs if _compiling() else torch.lstm
    if steps is not None:
        y, h, c = run(data, steps, hx, weights, *options)
        return PackedSequence(y, steps, order, back), _permuted((h, c), back)
    y, h, c = run(data, hx, weights, *options, of.batch_first)
    if isinstance(x, Tensor) and x.dim() == 2:
        return y.squeeze(0 if of.batch_first else 1), (h.squeeze(1), c.squeeze(1))
    return y, (h, c)


def _compiling() -> bool:
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


# PyTorch's compiler takes its own recurrent modules out of graphs; here it is their kernel. The
# public torch.compiler.disable would import the compiler with this file.
@_disable_dynamo
def _outside_of_graphs(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.lstm(*arguments)


def _with_batch(x: Tensor, of: _Sizes) -> Tensor:
    """An input with a dim for its batch."""
    if not isinstance(x, Tensor):
        raise TypeError(f"an LSTM takes a tensor or a packed sequence, got {described(x)}")
    if x.dim() not in (2, 3):
        raise ValueError(
            "an LSTM's input must have two dims (steps, input_size) or three, with the batch, got "
            f"{described(x)}"
        )
    return x if x.dim() == 3 else x.unsqueeze(0 if of.batch_first else 1)


def _check_input(data: Tensor, weight: Tensor, of: _Sizes) -> None:
    if data.size(-1) != of.input_size:
        raise ValueError(
            f"an LSTM's input must have input_size={of.input_size} in its last dim, got "
            f"{described(data)}"
        )
    if data.dtype != weight.dtype and not torch.is_autocast_enabled(data.device.type):
        raise ValueError(
            f"an LSTM's input must be of its weights' dtype {weight.dtype}, got {described(data)}"
        )


def _state_shapes(batch: int, of: _Sizes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of h and of c."""
    layers = of.num_layers * (2 if of.bidirectional else 1)
    return (layers, batch, of.proj_size or of.hidden_size), (layers, batch, of.hidden_size)


def _check_pair(hx: State) -> None:
    pair = isinstance(hx, (tuple, list)) and len(hx) == 2
    if not pair or not all(isinstance(state, Tensor) for state in hx):
        raise TypeError(f"an LSTM's states must be two tensors (h0, c0), got {described(hx)}")


def _check_state(hx: State, batch: int, of: _Sizes) -> None:
    for name, state, shape in zip(("h0", "c0"), hx, _state_shapes(batch, of), strict=True):
        if state.dim() != 3 or tuple(state.shape) != shape:
            raise ValueError(f"an LSTM's {name} must be of shape {shape}, got {described(state)}")


def _permuted(hx: State, order: Tensor | None) -> State:
    """States in the order of a packed sequence's batch."""
    return hx if order is None else (hx[0].index_select(1, order), hx[1].index_select(1, order))
