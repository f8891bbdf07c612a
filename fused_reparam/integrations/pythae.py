"""pythae: the step from an encoder to a decoder, and its KL.

The models whose loss is a reconstruction and a KL to the standard normal take both from one op, in
``forward``. Every model's ``_sample_gauss`` is served as well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import functional as fused
from .protocol import Report, Target, apply
from .servable import as_it_was, unserved


def patch(rng: str = "philox") -> Report:
    """Let the ops serve pythae's models.

    ``rng``, and what is returned: see :func:`fused_reparam.integrations.patch`.
    """
    return apply("pythae", "pythae", targets(rng), {"rng": rng})


def targets(rng: str) -> list[Target]:
    """Read in pythae 0.1.2."""
    return [
        *(_sample_gauss(folder, name, rng) for folder, name in SAMPLING),
        *(_forward(*row, rng=rng) for row in STANDARD),
    ]


SAMPLING = (
    ("adversarial_ae", "Adversarial_AE"), ("beta_tc_vae", "BetaTCVAE"), ("beta_vae", "BetaVAE"),
    ("ciwae", "CIWAE"), ("disentangled_beta_vae", "DisentangledBetaVAE"),
    ("factor_vae", "FactorVAE"), ("info_vae", "INFOVAE_MMD"), ("iwae", "IWAE"),
    ("miwae", "MIWAE"), ("msssim_vae", "MSSSIM_VAE"), ("piwae", "PIWAE"), ("rhvae", "RHVAE"),
    ("vae", "VAE"), ("vae_gan", "VAEGAN"), ("vae_iaf", "VAE_IAF"), ("vae_lin_nf", "VAE_LinNF"),
    ("vamp", "VAMP"), ("vq_vae", "VQVAE"),
)  # fmt: skip


def _module(folder: str) -> str:
    return f"pythae.models.{folder}.{folder}_model"


def _sample_gauss(folder: str, name: str, rng: str) -> Target:
    def sample_gauss(self: Any, mu: Any, std: Any) -> tuple[Tensor, Tensor] | str:
        why = unserved(mu, std)
        if why is not None:
            return why
        if mu.shape != std.shape:
            return "a mean and a scale of different shapes"
        return fused.gaussian_rsample(mu, std=std, rng=rng, return_eps=True)

    return Target(
        _module(folder), f"{name}._sample_gauss", "self, mu, std", "bc601cbac7c2", sample_gauss
    )


# Of a model: its losses per item made of the reconstruction's and the KL.
Finish = Callable[[Any, Tensor, Tensor, dict[str, Any]], Tensor]


def _sum(model: Any, recon: Tensor, kl: Tensor, options: dict[str, Any]) -> Tensor:
    return recon + kl


def _weighted(model: Any, recon: Tensor, kl: Tensor, options: dict[str, Any]) -> Tensor:
    return recon + model.beta * kl


def _to_capacity(model: Any, recon: Tensor, kl: Tensor, options: dict[str, Any]) -> Tensor:
    epoch = options.get("epoch", model.warmup_epoch)
    capacity = model.C * min(epoch / (model.warmup_epoch + 1), 1)
    return recon + model.beta * (kl - capacity).abs()


def _per_item(model: Any, recon_x: Tensor, x: Tensor) -> Tensor:
    """The reconstruction loss of each item, as the model's configuration has it."""
    recon_x, x = recon_x.reshape(len(x), -1), x.reshape(len(x), -1)
    if model.model_config.reconstruction_loss == "bce":
        return F.binary_cross_entropy(recon_x, x, reduction="none").sum(-1)
    return 0.5 * F.mse_loss(recon_x, x, reduction="none").sum(-1)


def _similarity(model: Any, recon_x: Tensor, x: Tensor) -> Tensor:
    return model.msssim(recon_x, x)  # type: ignore[no-any-return]


STANDARD: tuple[tuple[str, str, str, Callable[[Any, Tensor, Tensor], Tensor], Finish], ...] = (
    ("vae", "VAE", "bc828246abce", _per_item, _sum),
    ("beta_vae", "BetaVAE", "f8efd25fdef8", _per_item, _weighted),
    ("disentangled_beta_vae", "DisentangledBetaVAE", "4df339cfc520", _per_item, _to_capacity),
    ("msssim_vae", "MSSSIM_VAE", "30aa970e6b54", _similarity, _weighted),
)


def _forward(
    folder: str,
    name: str,
    known: str,
    per_item: Callable[[Any, Tensor, Tensor], Tensor],
    finish: Finish,
    rng: str,
) -> Target:
    module, parts = _module(folder), (f"{name}._sample_gauss", f"{name}.loss_function")
    own = [(module, part) for part in parts]

    def forward(self: Any, inputs: Any, **options: Any) -> Any:
        # What is asked here is asked before the encoder runs, which is not to run twice.
        found = type(self)._sample_gauss, type(self).loss_function
        if [(f.__module__, f.__qualname__) for f in found] != own:
            return "a subclass with a sample or a loss of its own"
        if "_sample_gauss" in self.__dict__ or "loss_function" in self.__dict__:
            return "an instance with a sample or a loss of its own"
        if self.model_config.reconstruction_loss not in ("bce", "mse"):
            return "another reconstruction loss"
        x = inputs["data"]
        why = unserved(next(self.encoder.parameters(), x))
        if why is not None:
            return why
        encoded = self.encoder(x)
        mu, logvar = encoded.embedding, encoded.log_covariance
        output = sys.modules["pythae.models.base.base_utils"].ModelOutput
        if unserved(mu, logvar) is not None or getattr(logvar, "shape", None) != mu.shape:
            # The original's steps, of what the encoder has given.
            z, _ = self._sample_gauss(mu, torch.exp(0.5 * logvar))
            recon_x = self.decoder(z)["reconstruction"]
            more = (options.get("epoch", self.warmup_epoch),) if finish is _to_capacity else ()
            loss, recon, kl = self.loss_function(recon_x, x, mu, logvar, z, *more)
            return output(recon_loss=recon, reg_loss=kl, loss=loss, recon_x=recon_x, z=z)
        z, kl = fused.gaussian_latent(mu, logvar, dims=(-1,), rng=rng)
        kl = as_it_was(kl, mu)
        recon_x = self.decoder(z)["reconstruction"]
        recon = per_item(self, recon_x, x)
        return output(
            recon_loss=recon.mean(0), reg_loss=kl.mean(0),
            loss=finish(self, recon, kl, options).mean(0), recon_x=recon_x, z=z,
        )  # fmt: skip

    return Target(module, f"{name}.forward", "self, inputs, kwargs", known, forward, parts)
