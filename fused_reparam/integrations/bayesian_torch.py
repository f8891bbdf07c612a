"""bayesian_torch's layers: weights drawn at each forward pass, with their KL to a prior.

``forward`` and ``kl_loss`` of the linear layer and the convolutions are served, of the
Reparameterization and the Flipout kind. An LSTM is made of two linear layers, which are served.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import functional as fused
from ..core.modes import eager
from .layers import Outputs, convolution, linear, transposed
from .protocol import Report, Target, apply
from .servable import as_it_was, unserved

# Of a Flipout layer, whose sample and KL are two ops: below it they take longer than operators.
_FEWEST = 2**15
_BASE = "bayesian_torch.layers.base_variational_layer"


def patch(rng: str = "philox") -> Report:
    """Let the ops serve bayesian_torch's layers.

    ``rng``, and what is returned: see :func:`fused_reparam.integrations.patch`. With "philox" the
    buffers ``eps_weight``, ``eps_kernel`` and ``eps_bias`` stay as they are: no noise is kept.
    """
    return apply("bayesian_torch", "bayesian-torch", targets(rng), {"rng": rng})


def targets(rng: str) -> list[Target]:
    """Read in bayesian_torch 0.5.0."""
    return [target for layer in LAYERS for target in _targets(layer, rng)]


class Layer(NamedTuple):
    """A class of layers."""

    name: str
    weight: str
    """What its weight is called: the parameters are ``mu_...`` and ``rho_...`` of it."""
    outputs: Outputs
    forward: str
    """The digest of ``forward``, and of ``kl_loss`` below."""
    kl_loss: str

    @property
    def flipout(self) -> bool:
        return self.name.endswith("Flipout")

    @property
    def module(self) -> str:
        kind = "flipout" if self.flipout else "variational"
        part = "linear" if self.name.startswith("Linear") else "conv"
        return f"bayesian_torch.layers.{kind}_layers.{part}_{kind}"


class Weights(NamedTuple):
    """Of a weight or a bias: its posterior, its prior, and the buffer of its noise."""

    mu: Tensor
    rho: Tensor
    prior_mean: Tensor
    prior_std: Tensor
    eps: Tensor

    def prior(self) -> tuple[Any, Any]:
        """Mean and standard deviation: numbers where each is one number throughout.

        The buffers are written through ``.data`` too, which no version counter shows, and so they
        are read each time. On a GPU that would wait for the device.
        """
        mean, std = _one_number(self.prior_mean), _one_number(self.prior_std)
        if mean is None or std is None or not std > 0.0:
            return self.prior_mean, self.prior_std
        return mean, std

    def noise(self, rng: str) -> dict[str, Any]:
        """What is to be given to the op: with "torch", noise drawn as before.

        A copy, as the next forward pass overwrites the buffer before a backward pass may come.
        """
        return {} if rng == "philox" else {"eps": self.eps.data.normal_().clone()}


def _one_number(t: Tensor) -> float | None:
    if not t.is_cpu or t.requires_grad or not t.numel() or not eager():
        return None
    low, high = (end.item() for end in torch.aminmax(t))
    return low if low == high else None


def _weights(layer: Any, name: str) -> list[Weights]:
    """The weight, and the bias where there is one."""
    found = [(name, "weight")]
    if layer.bias if name == "kernel" else layer.mu_bias is not None:
        found.append(("bias", "bias"))
    return [
        Weights(
            getattr(layer, f"mu_{part}"), getattr(layer, f"rho_{part}"),
            getattr(layer, f"prior_{prior}_mu"), getattr(layer, f"prior_{prior}_sigma"),
            getattr(layer, f"eps_{part}"),
        )
        for part, prior in found
    ]  # fmt: skip


def _why_not(layer: Any, weights: list[Weights]) -> str | None:
    if type(layer).kl_div is not sys.modules[_BASE].BaseVariationalLayer_.kl_div:
        return "a subclass with a KL of its own"
    if "kl_div" in layer.__dict__:
        return "an instance with a KL of its own"
    if layer.quant_prepare:
        return "prepared for quantization"
    for each in weights:
        why = unserved(*each)
        if why is not None:
            return why
        if any(getattr(t, "shape", None) != each.mu.shape for t in each):
            return "a prior or a scale of another shape than the mean"
    return None


def _kl(weights: list[Weights]) -> Tensor:
    """The KL averaged over a weight, and that averaged over a bias, added up."""
    kls = [
        fused.gaussian_kl(each.mu, rho=each.rho, prior=each.prior(), reduction="mean")
        for each in weights
    ]
    return as_it_was(sum(kls[1:], kls[0]), weights[0].mu)


def _targets(layer: Layer, rng: str) -> list[Target]:
    def kl_loss(self: Any) -> Tensor | str:
        weights = _weights(self, layer.weight)
        return _why_not(self, weights) or _kl(weights)

    serve = _flipout(layer, rng) if layer.flipout else _reparameterization(layer, rng)
    needs = (f"{layer.name}.kl_div",)
    given = "x" if layer.flipout else "input"
    return [
        Target(
            layer.module, f"{layer.name}.forward", f"self, {given}, return_kl", layer.forward,
            serve, needs,
        ),
        Target(layer.module, f"{layer.name}.kl_loss", "self", layer.kl_loss, kl_loss, needs),
    ]  # fmt: skip


def _reparameterization(layer: Layer, rng: str) -> Callable[..., Any]:
    def forward(self: Any, input: Any, return_kl: bool = True) -> Any:
        weights = _weights(self, layer.weight)
        why = _why_not(self, weights)
        if why is not None:
            return why
        if not return_kl or self.dnn_to_bnn_flag:
            drawn = [fused.gaussian_rsample(w.mu, rho=w.rho, **w.noise(rng)) for w in weights]
            return layer.outputs(self, input, drawn[0], *(drawn[1:] or (None,)))
        pairs = [
            fused.sample_weight(w.mu, w.rho, *w.prior(), "mean", **w.noise(rng)) for w in weights
        ]
        drawn, kls = [w for w, _ in pairs], [kl for _, kl in pairs]
        out = layer.outputs(self, input, drawn[0], *(drawn[1:] or (None,)))
        return out, as_it_was(sum(kls[1:], kls[0]), weights[0].mu)

    return forward


def _flipout(layer: Layer, rng: str) -> Callable[..., Any]:
    # The linear layer draws its signs after its weights, and the convolutions before.
    signs_first = layer.weight == "kernel"

    def forward(self: Any, x: Any, return_kl: bool = True) -> Any:
        weights = _weights(self, layer.weight)
        why = _why_not(self, weights)
        if why is not None:
            return why
        if weights[0].mu.numel() < _FEWEST:
            return "a Flipout layer of few weights, with which the original is quicker"

        def perturbations() -> list[Tensor]:
            return [fused.gaussian_rsample(0.0, rho=w.rho, **w.noise(rng)) for w in weights]

        drawn = [] if signs_first else perturbations()
        outputs = layer.outputs(self, x, weights[0].mu, self.mu_bias)
        sign_input = x.clone().uniform_(-1, 1).sign()
        sign_output = outputs.clone().uniform_(-1, 1).sign()
        if signs_first:
            drawn = perturbations()
        perturbed = layer.outputs(self, x * sign_input, drawn[0], *(drawn[1:] or (None,)))
        out = outputs + perturbed * sign_output
        return (out, _kl(weights)) if return_kl and not self.dnn_to_bnn_flag else out

    return forward


LAYERS = (
    Layer("LinearReparameterization", "weight", linear, "43b5365ac6bf", "848c785548b5"),
    Layer("Conv1dReparameterization", "kernel",
           convolution(F.conv1d), "9481cfb697ba", "aa0bf2a2bf95"),
    Layer("Conv2dReparameterization", "kernel",
           convolution(F.conv2d), "9cd05b1f9b4f", "aa0bf2a2bf95"),
    Layer("Conv3dReparameterization", "kernel",
           convolution(F.conv3d), "6c883507db1d", "aa0bf2a2bf95"),
    Layer("ConvTranspose1dReparameterization", "kernel",
           transposed(F.conv_transpose1d), "b6fa5d3f180f", "aa0bf2a2bf95"),
    Layer("ConvTranspose2dReparameterization", "kernel",
           transposed(F.conv_transpose2d), "7c204ed02ab2", "aa0bf2a2bf95"),
    Layer("ConvTranspose3dReparameterization", "kernel",
           transposed(F.conv_transpose3d), "da128e8f1334", "aa0bf2a2bf95"),
    Layer("LinearFlipout", "weight", linear, "6ce27860fd6d", "848c785548b5"),
    Layer("Conv1dFlipout", "kernel", convolution(F.conv1d), "ea0ad57a4636", "aa0bf2a2bf95"),
    Layer("Conv2dFlipout", "kernel", convolution(F.conv2d), "f97d594b442d", "aa0bf2a2bf95"),
    Layer("Conv3dFlipout", "kernel", convolution(F.conv3d), "754827354cbb", "aa0bf2a2bf95"),
    Layer("ConvTranspose1dFlipout", "kernel",
           transposed(F.conv_transpose1d), "ebaf73d7f061", "aa0bf2a2bf95"),
    Layer("ConvTranspose2dFlipout", "kernel",
           transposed(F.conv_transpose2d), "68fd8b306fbc", "aa0bf2a2bf95"),
    Layer("ConvTranspose3dFlipout", "kernel",
           transposed(F.conv_transpose3d), "54351ebc586c", "aa0bf2a2bf95"),
)  # fmt: skip
