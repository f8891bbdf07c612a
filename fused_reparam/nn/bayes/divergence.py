"""The KL of a whole model: of each sampled weight once, whichever layers share it."""

from torch import Tensor, nn

from ...core.mistakes import described
from .mean_field import MeanField
from .ranks import total

__all__ = ["kl_divergence"]


def kl_divergence(model: nn.Module) -> Tensor:
    """The KL divergence of all sampled weights of a model to their priors: what the loss adds.

    The sum of ``layer.kl()`` over all Bayesian layers in it, such as :class:`BayesianLinear`.
    Divide by the number of examples where the loss is a mean over them.

    Args:
        model: any module; layers that appear twice are counted once, and so are weights whose
            means and scales are parameters of several layers.

    Returns:
        A 0-d tensor, float32 or float64, on the first layer's device. Of sharded weights, as FSDP2
        leaves them outside a forward pass, it is the whole KL on every rank: each adds up its
        shards', and one number is sent; all ranks must ask for it.

    Raises:
        ValueError: the model has no such layer.

    Source: Blundell et al., "Weight uncertainty in neural networks", 2015, equation 2.

    Example:
        >>> import torch
        >>> from fused_reparam import BayesianLinear, kl_divergence
        >>> layer = BayesianLinear(2, 2)
        >>> bool(kl_divergence(torch.nn.Sequential(layer, layer)) == layer.kl())
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {described(model)}")
    layers = [layer for layer in model.modules() if isinstance(layer, MeanField)]
    if not layers:
        raise ValueError(
            "kl_divergence adds up the KL of Bayesian layers (BayesianLinear, BayesianConv2d and "
            f"others), and this {type(model).__name__} has none"
        )
    counted: dict[tuple[int, int | str], tuple[MeanField, str]] = {}
    for layer in layers:
        for name in layer._weights:
            shared, one = layer._identity(name), (layer, name)
            # An embedding has no KL for its row for padding, of which another layer may make use.
            if shared not in counted or _size(*counted[shared]) < _size(*one):
                counted[shared] = one
    kls: list[Tensor] = []
    for layer in layers:
        names = [n for n in layer._weights if counted[layer._identity(n)] == (layer, n)]
        if len(names) < len(layer._weights):
            kls += layer._kls(names)
        else:
            kls.append(layer.kl())
    return total(kls)


def _size(layer: MeanField, name: str) -> int:
    """How many numbers of a weight are in a layer's KL."""
    return sum(mu.numel() for mu, *_ in layer._parts(*layer._parameters_of(name)))
