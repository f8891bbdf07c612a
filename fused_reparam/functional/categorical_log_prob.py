"""The log-likelihood of classes: of tokens, labels, pixels of few colours."""

from __future__ import annotations

from typing import Never

import torch
from torch import Tensor

from ..core.dtypes import compute_dtype
from ..core.mistakes import described, names_mistakes, not_a_tensor
from ..core.storage import check_given
from ..core.tracers import fx, special
from ..ops.sharded import beside
from .arguments import class_dim
from .reduction import Dims, reduced, summed

__all__ = ["categorical_log_prob"]

_INTEGERS = frozenset((
    torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint64, torch.uint32, torch.uint16, torch.uint8,
))  # fmt: skip


@names_mistakes
def categorical_log_prob(
    index: Tensor,
    logits: Tensor,
    dim: int = -1,
    *,
    reduction: str = "none",
    dims: Dims = None,
    **mistaken: Never,
) -> Tensor:
    r"""Log-likelihood of classes under a categorical distribution.

    .. math::
        \log p(i) = \ell_i - \log \sum_j e^{\ell_j} \text{ per variable, reduced}

    That of ``torch.distributions.Categorical(logits=logits).log_prob(index)``, and the negative of
    ``cross_entropy(logits, index, reduction="none")``. It is composed of PyTorch's operators, whose
    ``log_softmax`` is fused already: for the backward pass it keeps one tensor of the logits' size,
    in the dtype of the result.

    Args:
        index: of the class of each variable, from 0 on; a tensor of any integer dtype, of the
            logits' shape without ``dim``, or one that broadcasts with it: labels (B,) against
            samples of logits (S, B, C).
        logits: unnormalized log-probabilities, at least one dim; float32, float64, float16 or
            bfloat16. -inf is a class of probability 0, whose log-likelihood is -inf.
        dim: of the classes, a dim of the logits.
        reduction: over the other dims, "none" by default, see :func:`categorical_latent`.
        dims: in place of a reduction, the dims of the variables to sum over, see
            :func:`categorical_latent`.

    Returns:
        float32 tensor (float64 for float64 logits) of the variables' broadcast shape, or what the
        reduction leaves of it.

    Raises:
        TypeError: an index that is no integer tensor, or logits that are no floating tensor.
        ValueError: shapes that don't broadcast, devices that differ, an unknown reduction.
        RuntimeError: on a CPU, an index that is no class. On a GPU, where a check would have to
            wait for all that is queued, PyTorch's kernel stops the program instead.

    Source: Bishop, "Pattern recognition and machine learning", 2006, section 4.3.4.

    Example:
        >>> import torch
        >>> from fused_reparam import categorical_log_prob
        >>> tokens, logits = torch.zeros(4, 16, dtype=torch.int64), torch.zeros(4, 16, 1000)
        >>> log_likelihood = categorical_log_prob(tokens, logits, dims=-1)
        >>> log_likelihood.shape, round(log_likelihood[0].item(), 2)
        (torch.Size([4]), -110.52)
        >>> pixels = torch.zeros(4, 8, 8, dtype=torch.uint8)
        >>> categorical_log_prob(pixels, torch.zeros(4, 256, 8, 8), dim=1).shape
        torch.Size([4, 8, 8])
    """
    if not isinstance(index, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(categorical_log_prob, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    over = summed(reduction, dims, "none")
    _check_index(index)
    dim = class_dim("logits", logits, dim)
    variables, at = logits.shape[:dim] + logits.shape[dim + 1 :], dim - logits.dim()
    check_given("logits", logits)
    if not index.dim():
        index = beside(index, logits)
    log_shares = torch.log_softmax(logits, at, dtype=compute_dtype(logits.dtype))
    if index.device != logits.device or index.dim() != len(variables) or index.shape != variables:
        shape = _broadcast(index, logits, variables)
        index = index.expand(shape)
        front = len(shape) - len(variables) + dim
        log_shares = log_shares.expand(*shape[:front], logits.shape[dim], *shape[front:])
    chosen = log_shares.gather(at, index.long().unsqueeze(at))
    return reduced(chosen.squeeze(at), over)


def _broadcast(index: Tensor, logits: Tensor, variables: torch.Size) -> torch.Size:
    """The shape of an index and of the logits' variables together."""
    if index.device != logits.device:
        raise ValueError(
            f"index and logits must be on one device, got index on {index.device} and logits on "
            f"{logits.device}"
        )
    try:
        return torch.broadcast_shapes(index.shape, variables)
    except RuntimeError:
        raise ValueError(
            f"index must broadcast with the variables of logits {tuple(logits.shape)}, which are "
            f"{tuple(variables)}, got {tuple(index.shape)}"
        ) from None


def _check_index(index: Tensor) -> None:
    """Raise TypeError unless it is a dense tensor of integers."""
    if not isinstance(index, Tensor):
        raise TypeError(f"index must be a tensor of integers, got {not_a_tensor(index)}")
    if index.is_nested or index.layout is not torch.strided or index.dtype not in _INTEGERS:
        raise TypeError(
            f"index must be a dense tensor of integers, one class for each variable, got "
            f"{described(index)}"
        )
    check_given("index", index)
