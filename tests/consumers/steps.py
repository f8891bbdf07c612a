"""A whole training step of another package, as it is and patched, in one thread's processor time.

Blocks of steps run as they are and patched in turns. A block's time is its median step, without the
first two; a pair of blocks gives a ratio, and the pairs a median and quartiles.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from fused_reparam import integrations

PAIRS, STEPS, WARM = 24, 8, 2
BLOCK = WARM + STEPS
WIDTH = 1000


class Step(NamedTuple):
    """A training step, and the integration that is to make it faster."""

    name: str
    what: str
    consumer: str
    make: Callable[[], Callable[[], Any]]
    options: dict[str, Any] = {}  # noqa: RUF012


def _vae_of_scvi(likelihood: str) -> Callable[[], Any]:
    from scvi.module import VAE

    model = VAE(n_input=100, n_batch=1, gene_likelihood=likelihood)
    tensors = {
        "X": torch.poisson(2 * torch.rand(128, 100)),
        "batch": torch.zeros(128, 1, dtype=torch.long),
        "labels": torch.zeros(128, 1, dtype=torch.long),
    }  # fmt: skip
    return _trained(model, lambda: model(tensors)[2].loss)


def _vae_of_pythae() -> Callable[[], Any]:
    from pythae import models

    model = models.VAE(models.VAEConfig(input_dim=(1, 28, 28), latent_dim=16))
    data = {"data": torch.rand(128, 1, 28, 28)}
    return _trained(model, lambda: model(data).loss)


def _vae_of_diffusers() -> Callable[[], Any]:
    from diffusers import AutoencoderKL

    model = AutoencoderKL(block_out_channels=(32,), norm_num_groups=8)
    image = torch.randn(2, 3, 32, 32)

    def loss() -> torch.Tensor:
        posterior = model.encode(image).latent_dist
        found = model.decode(posterior.sample()).sample
        return (found - image).square().mean() + 1e-6 * posterior.kl().mean()

    return _trained(model, loss)


def _sac(layers: tuple[int, ...], batch: int) -> Callable[[], Any]:
    import gymnasium
    import numpy as np
    from gymnasium import spaces
    from stable_baselines3 import SAC

    class Noise(gymnasium.Env):
        observation_space = spaces.Box(-1.0, 1.0, (17,), np.float32)
        action_space = spaces.Box(-1.0, 1.0, (6,), np.float32)

        def reset(self, seed: int | None = None, **_: Any) -> Any:
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, _: Any) -> Any:
            return self.observation_space.sample(), 0.1, False, False, {}

    kwargs = {"net_arch": list(layers)}
    model = SAC("MlpPolicy", Noise(), device="cpu", learning_starts=200, policy_kwargs=kwargs)
    model.learn(300)
    return lambda: model.train(1, batch)


def _policy_of_torchrl() -> Callable[[], Any]:
    from torchrl.modules import TanhNormal

    net = torch.nn.Sequential(torch.nn.Linear(17, 64), torch.nn.ReLU(), torch.nn.Linear(64, 12))
    observed = torch.randn(256, 17)

    def loss() -> torch.Tensor:
        loc, scale = net(observed).chunk(2, -1)
        action, log_prob = TanhNormal(loc, scale.exp()).rsample_and_log_prob()
        return (0.2 * log_prob + action.square().sum(-1)).mean()

    return _trained(net, loss)


def _network_of_bayesian_torch(kind: str) -> Callable[[], Any]:
    from bayesian_torch import layers

    first, second = (getattr(layers, f"Linear{kind}")(WIDTH, WIDTH) for _ in range(2))
    x, y = torch.randn(2, 32, WIDTH)

    def loss() -> torch.Tensor:
        hidden, kl = first(x)
        found, other = second(torch.relu(hidden))
        return torch.nn.functional.mse_loss(found, y) + kl + other

    return _trained(torch.nn.ModuleList((first, second)), loss, torch.optim.SGD)


def _network_of_blitz() -> Callable[[], Any]:
    from blitz.modules import BayesianLinear
    from blitz.utils import variational_estimator

    layers = BayesianLinear(WIDTH, WIDTH), torch.nn.ReLU(), BayesianLinear(WIDTH, WIDTH)
    net = variational_estimator(torch.nn.Sequential)(*layers)
    x, y = torch.randn(2, 32, WIDTH)
    return _trained(
        net, lambda: net.sample_elbo(x, y, torch.nn.functional.mse_loss, 1, 1e-6), torch.optim.SGD
    )


def _trained(
    model: torch.nn.Module,
    loss: Callable[[], torch.Tensor],
    kind: type[torch.optim.Optimizer] = torch.optim.Adam,
) -> Callable[[], Any]:
    optimizer = kind(model.parameters(), lr=1e-4)  # type: ignore[call-arg]

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


_NETWORK = f"two Bayesian layers of width {WIDTH}, batch 32"
_CELLS = "VAE of 100 genes, latent 10, batch 128"
_DEFAULT = "SAC, two layers of 256, batch 256 (its defaults)"
_SMALL = "SAC, two layers of 32, batch 64"
STEPS_OF = (
    Step("stable_baselines3", _DEFAULT, "stable_baselines3", lambda: _sac((256, 256), 256)),
    Step(
        "stable_baselines3", _DEFAULT + ", `exact=True`", "stable_baselines3",
        lambda: _sac((256, 256), 256), {"exact": True},
    ),
    Step("stable_baselines3", _SMALL, "stable_baselines3", lambda: _sac((32, 32), 64)),
    Step(
        "stable_baselines3", _SMALL + ", `exact=True`", "stable_baselines3",
        lambda: _sac((32, 32), 64), {"exact": True},
    ),
    Step("torchrl", "a TanhNormal policy of one layer of 64, batch 256", "torchrl",
         _policy_of_torchrl),
    Step("scvi", _CELLS + ", zinb (its default)", "scvi", lambda: _vae_of_scvi("zinb")),
    Step("scvi", _CELLS + ", nb", "scvi", lambda: _vae_of_scvi("nb")),
    Step("scvi", _CELLS + ", zinb, `patch(\"torch_distributions\")`", "torch_distributions",
         lambda: _vae_of_scvi("zinb")),
    Step("pythae", "VAE of 28x28 pixels, latent 16, batch 128", "pythae", _vae_of_pythae),
    Step("diffusers", "AutoencoderKL, one block of 32, two images of 32x32", "diffusers",
         _vae_of_diffusers),
    Step("bayesian_torch", _NETWORK + ", Reparameterization", "bayesian_torch",
         lambda: _network_of_bayesian_torch("Reparameterization")),
    Step("bayesian_torch", _NETWORK + ", Flipout", "bayesian_torch",
         lambda: _network_of_bayesian_torch("Flipout")),
    Step("blitz", _NETWORK, "blitz", _network_of_blitz),
    Step("blitz", _NETWORK + ", `joint=True`", "blitz", _network_of_blitz, {"joint": True}),
)  # fmt: skip


def measure(one: Step) -> dict[str, Any]:
    """The step's time as it is, and how many times that of the patched one it is."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    step = one.make()
    ratios, stock = [], []
    for pair in range(PAIRS):
        times = {}
        for patched in (False, True) if pair % 2 else (True, False):
            if patched:
                with integrations.patch(one.consumer, **one.options) as report:
                    times[patched] = _block(step)
                    calls = report.calls
            else:
                times[patched] = _block(step)
        ratios.append(times[False] / times[True])
        stock.append(times[False])
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "what": one.what, "milliseconds": 1e3 * statistics.median(stock),
        "ratio": middle, "quartiles": [low, high], "pairs": PAIRS, "calls": calls,
    }  # fmt: skip


def _block(step: Callable[[], Any]) -> float:
    """The median step of a block."""
    times = []
    for _ in range(BLOCK):
        start = time.thread_time()
        step()
        times.append(time.thread_time() - start)
    return statistics.median(times[WARM:])
