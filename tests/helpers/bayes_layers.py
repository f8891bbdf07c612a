"""One table of Bayesian layers beside PyTorch's own, for what must hold of each of them."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import fused_reparam as fr


def floats(*shape):
    def make(dtype):
        generator = torch.Generator().manual_seed(2)
        return (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype),)

    return make


def indices(_):
    return (torch.tensor([[0, 4, 4], [2, 5, 1]]),)


def with_state(*shapes):
    def make(dtype):
        x, h, c = (floats(*shape)(dtype)[0] for shape in shapes)
        return x, (h, c)

    return make


def packed(dtype):
    (x,) = floats(5, 3, 4)(dtype)
    return (pack_padded_sequence(x, torch.tensor([2, 5, 3]), enforce_sorted=False),)


def packed_with_state(dtype):
    (x,) = packed(dtype)
    return x, tuple(floats(1, 3, size)(dtype)[0] for size in (6, 6))


# Name: PyTorch's class, ours, arguments, options, the call's arguments.
TABLE = {
    "linear": (nn.Linear, fr.BayesianLinear, (4, 3), {}, floats(2, 4)),
    "no bias": (nn.Linear, fr.BayesianLinear, (4, 3, False), {}, floats(2, 4)),
    "1-d": (nn.Conv1d, fr.BayesianConv1d, (4, 6, 3), {"stride": 2, "groups": 2}, floats(2, 4, 9)),
    "1-d same": (
        nn.Conv1d, fr.BayesianConv1d, (4, 6, 3),
        {"padding": "same", "padding_mode": "circular", "bias": False, "dilation": 2},
        floats(2, 4, 9),
    ),
    "2-d": (
        nn.Conv2d, fr.BayesianConv2d, (4, 6, (3, 2)),
        {"stride": 2, "padding": (1, 2), "padding_mode": "reflect"}, floats(2, 4, 9, 8),
    ),
    "3-d": (nn.Conv3d, fr.BayesianConv3d, (2, 3, (1, 3, 2)), {"padding": 1}, floats(2, 2, 4, 5, 3)),
    "3-d replicate": (
        nn.Conv3d, fr.BayesianConv3d, (2, 3, 2),
        {"stride": (1, 2, 1), "padding": (1, 0, 2), "padding_mode": "replicate", "groups": 1},
        floats(2, 4, 5, 3),
    ),
    "embedding": (nn.Embedding, fr.BayesianEmbedding, (6, 3), {}, indices),
    "counted embedding": (
        nn.Embedding, fr.BayesianEmbedding, (6, 3), {"scale_grad_by_freq": True}, indices
    ),
    "lstm": (nn.LSTM, fr.BayesianLSTM, (4, 6), {}, floats(5, 3, 4)),
    "deep lstm": (
        nn.LSTM, fr.BayesianLSTM, (4, 6, 2), {"bidirectional": True, "batch_first": True},
        with_state((3, 5, 4), (4, 3, 6), (4, 3, 6)),
    ),
    "projected lstm": (
        nn.LSTM, fr.BayesianLSTM, (4, 6, 2), {"proj_size": 2, "bias": False}, floats(5, 3, 4)
    ),
    "lstm without a batch": (
        nn.LSTM, fr.BayesianLSTM, (4, 6), {"proj_size": 2}, with_state((5, 4), (1, 2), (1, 6))
    ),
    "packed lstm": (nn.LSTM, fr.BayesianLSTM, (4, 6), {"bidirectional": True}, packed),
    "packed lstm with a state": (nn.LSTM, fr.BayesianLSTM, (4, 6), {}, packed_with_state),
}  # fmt: skip
NAMES = {
    fr.BayesianLinear: "from_linear", fr.BayesianConv1d: "from_conv1d",
    fr.BayesianConv2d: "from_conv2d", fr.BayesianConv3d: "from_conv3d",
    fr.BayesianEmbedding: "from_embedding", fr.BayesianLSTM: "from_lstm",
}  # fmt: skip


def theirs(name, dtype=torch.float32):
    """PyTorch's layer, and what it is called with."""
    kind, _, sizes, options, inputs = TABLE[name]
    torch.manual_seed(0)
    return kind(*sizes, **options, dtype=dtype), inputs(dtype)


def ours(name, dtype=torch.float32, **prior):
    """Our layer, which starts with the same weights, and what it is called with."""
    _, kind, sizes, options, inputs = TABLE[name]
    torch.manual_seed(0)
    return kind(*sizes, **options, **prior, dtype=dtype), inputs(dtype)


def converted(layer, **prior):
    """Our layer, made of one of PyTorch's."""
    kind = next(ours for theirs, ours, *_ in TABLE.values() if theirs is type(layer))
    return getattr(kind, NAMES[kind])(layer, **prior)


def leaves(found):
    """All tensors of a result: an LSTM's come in tuples, some in a packed sequence."""
    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, nn.utils.rnn.PackedSequence):
        return [found.data]
    return [t for part in found for t in leaves(part)]
