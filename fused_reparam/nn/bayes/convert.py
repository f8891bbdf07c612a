"""A trained network of PyTorch's layers, made Bayesian in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Never

from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...core.mistakes import described, names_mistakes
from ...core.scalars import flag
from ...functional.divergence import PriorArgument
from .convolution import BayesianConv1d, BayesianConv2d, BayesianConv3d
from .embedding import BayesianEmbedding
from .linear import BayesianLinear
from .lstm import BayesianLSTM
from .mean_field import MeanField
from .prior import Mixture, checked_prior, fitted

__all__ = ["bayesianize"]

_LAYERS: tuple[type[MeanField], ...] = (
    BayesianLinear,
    BayesianConv1d,
    BayesianConv2d,
    BayesianConv3d,
    BayesianEmbedding,
    BayesianLSTM,
)
_BY_LAYER = {layer._of: layer for layer in _LAYERS}


@names_mistakes
def bayesianize(
    model: nn.Module,
    *,
    filter: Callable[[str, nn.Module], bool] | None = None,
    prior_mean: Tensor | float = 0.0,
    prior_std: Tensor | float = 1.0,
    mixture: Mixture | None = None,
    rho_init: float = -5.0,
    prior: PriorArgument = None,
    recompute: bool = False,
    noise: str = "shared",
    **mistaken: Never,
) -> nn.Module:
    r"""Make the layers of a network Bayesian, in place: its weights become the means.

    ``torch.nn``'s Linear, Conv1d, Conv2d, Conv3d, Embedding and LSTM become
    :class:`BayesianLinear` and so on. Each layer stays the object that it was, with its hooks, and
    its weights become the means of Gaussians, the very parameters that they were: ``weight`` is
    now ``weight_mu``, and ``weight_rho`` is new. So layers that are used in several places stay
    one, and weights that layers share stay shared, their scales too; each layer draws them for
    itself, and :func:`kl_divergence` counts them once. A layer that is frozen has frozen scales.

    The network still loads the state dict that it had before: a ``weight`` in it is a mean, and
    the scales stay as they are. Make the optimizer afterwards, so that it has the scales.

    Subclasses of these layers, such as those in ``torch.nn.MultiheadAttention``, are left alone,
    and so are layers that are Bayesian already, and parameters of other modules.

    Args:
        model: any module. If it is such a layer itself, it becomes Bayesian.
        filter: called with the name and the module of each such layer; where it returns False the
            layer is left alone.
        prior, prior_mean, prior_std, mixture, rho_init, noise: see :class:`BayesianLinear`.
            ``rho_init`` sets the first sigma: -5 is 0.0067, -3 is 0.049.
        recompute: whether the linear layers draw their weights again in the backward pass instead
            of keeping them, see :class:`BayesianLinear`. Layers of other kinds keep theirs.

    Returns:
        The model.

    Raises:
        TypeError: the model is no module, or a layer can't be converted, for its weight is computed
            of others (weight norm, parametrizations, pruning), its gradients are sparse, or its
            dtype is none of the four. Nothing is converted then; leave the layer out by ``filter``.
        ValueError: the model has no layer to convert, or none that ``recompute`` is for, or the
            prior is wrong or does not fit one of the layers. Nothing is converted then.

    Source: Blundell et al., "Weight uncertainty in neural networks", 2015; from trained weights:
    Krishnan, Subedar and Tickoo, "Specifying weight priors in Bayesian deep neural networks with
    empirical Bayes", 2020.

    Example:
        >>> import torch
        >>> from fused_reparam import bayesianize, kl_divergence, sampling
        >>> nn = torch.nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> x, trained = torch.randn(16, 4), model.state_dict()
        >>> before = model(x)
        >>> bayesianize(model, prior_std=0.5, filter=lambda name, layer: name != "2")
        Sequential(
          (0): BayesianLinear(in_features=4, out_features=8, prior_std=0.5)
          (1): ReLU()
          (2): Linear(in_features=8, out_features=1, bias=True)
        )
        >>> model.load_state_dict(trained)
        <All keys matched successfully>
        >>> torch.equal(model.eval()(x), before)
        True
        >>> with torch.no_grad(), sampling(model):
        ...     spread = torch.stack([model(x) for _ in range(20)]).std(0)
    """
    checked = checked_prior(
        bayesianize,
        prior_mean=prior_mean,
        prior_std=prior_std,
        mixture=mixture,
        rho_init=rho_init,
        prior=prior,
        noise=noise,
        **mistaken,
    )
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {described(model)}")
    if filter is not None and not callable(filter):
        raise TypeError(
            f"filter must be a function of a layer's name and module, got {described(filter)}"
        )
    recompute = flag("recompute", recompute)
    found: list[tuple[type[MeanField], nn.Module]] = []
    for name, layer in model.named_modules():
        kind = _BY_LAYER.get(_without_parametrization(layer))
        if kind is None or (filter is not None and not filter(name, layer)):
            continue
        problem = kind._unfit(layer)
        if problem:
            raise TypeError(
                f"{type(model).__name__}'s layer {name!r} can't become a {kind.__name__}: "
                f"{problem}. Leave it out: filter=lambda name, layer: name != {name!r}"
            )
        found.append((kind, layer))
    if not found:
        raise ValueError(_nothing(model, filter is not None))
    if recompute and not any(kind is BayesianLinear for kind, _ in found):
        raise ValueError(
            "recompute=True is for torch.nn.Linear, and none is among the layers to convert: "
            + ", ".join(sorted({kind._of.__name__ for kind, _ in found}))
        )
    for _, layer in found:  # all before any is converted
        fitted(checked, {name: p for name, p in layer._parameters.items() if p is not None})
    scales = _scales_in(model)
    for kind, layer in found:
        kind._convert(layer, checked, scales)
        if recompute and isinstance(layer, BayesianLinear):
            layer.recompute = True
    return model


def _scales_in(model: nn.Module) -> dict[nn.Parameter, nn.Parameter]:
    """Those of the means of layers that are Bayesian already: others may share these."""
    layers = [layer for layer in model.modules() if isinstance(layer, MeanField)]
    pairs = (
        [layer._parameters.get(part) for part in parts]
        for layer in layers
        for parts in layer._weights.values()
    )
    return {mu: rho for mu, rho in pairs if mu is not None and rho is not None}


def _without_parametrization(layer: nn.Module) -> type:
    """The class of a layer before ``torch.nn.utils.parametrize`` gave it one of its own."""
    return type(layer).__mro__[1] if parametrize.is_parametrized(layer) else type(layer)


def _nothing(model: nn.Module, filtered: bool) -> str:
    names = ", ".join(layer.__name__ for layer in _BY_LAYER)
    bayesian = sum(isinstance(layer, MeanField) for layer in model.modules())
    return (
        f"bayesianize converts torch.nn's {names} themselves, and this {type(model).__name__} has "
        f"none{' that filter lets through' if filtered else ''}"
        + (f"; {bayesian} of its layers are Bayesian already" if bayesian else "")
    )
