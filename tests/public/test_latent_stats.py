"""What is logged of a latent: against the formulas in float64."""

import math

import pytest
import torch

from fused_reparam import gaussian_kl, latent_stats

KINDS = ("logvar", "log_std", "std", "var", "rho")


def _latent(shape, kind, dtype=torch.float32):
    """Two units of five are unused: their mean and sigma are those of the prior."""
    gen = torch.Generator().manual_seed(4)
    mu = torch.randn(shape, generator=gen, dtype=torch.float64)
    std = 0.2 + torch.rand(shape, generator=gen, dtype=torch.float64)
    mu[:, 1], mu[:, 3], std[:, 1], std[:, 3] = 0.0, 0.05, 1.0, 1.0
    scale = {
        "logvar": 2 * std.log(),
        "log_std": std.log(),
        "std": std,
        "var": std**2,
        "rho": std.expm1().log(),
    }[kind]
    return mu.to(dtype), scale.to(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(64, 5), (7, 5, 3, 2)])
def test_the_numbers_are_those_of_the_formulas(shape, kind):
    mu, scale = _latent(shape, kind)
    got = latent_stats(mu, **{kind: scale})
    mean = mu.double()
    std = {
        "logvar": lambda x: (0.5 * x).exp(),
        "log_std": torch.exp,
        "std": lambda x: x,
        "var": torch.sqrt,
        "rho": torch.nn.functional.softplus,
    }[kind](scale.double())
    kl = (0.5 * (mean**2 + std**2 - 1) - std.log()).transpose(0, 1).flatten(1).sum(1) / shape[0]
    spread = mean.transpose(0, 1).flatten(1).var(1, correction=0)
    assert list(got) == [
        "kl", "active_units", "active_units_by_mean", "posterior_var",
        *(f"kl_dim/{d}" for d in range(5)),
    ]  # fmt: skip
    assert all(type(value) is float for value in got.values())
    for d in range(5):
        assert math.isclose(got[f"kl_dim/{d}"], kl[d].item(), rel_tol=1e-5, abs_tol=1e-6)
    assert math.isclose(got["kl"], kl.sum().item(), rel_tol=1e-5)
    assert math.isclose(got["posterior_var"], (std**2).mean().item(), rel_tol=1e-5)
    assert got["active_units"] == (kl > 0.01).sum().item() == 3
    assert got["active_units_by_mean"] == (spread > 0.01).sum().item() == 3


def test_a_unit_whose_mean_is_constant_is_active_by_its_kl_alone():
    mu, logvar = torch.full((6, 2), 3.0), torch.zeros(6, 2)
    got = latent_stats(mu, logvar)
    assert (got["active_units"], got["active_units_by_mean"]) == (2, 0)
    assert latent_stats(mu, logvar, threshold=4.6)["active_units"] == 0  # its KL is 4.5
    assert latent_stats(mu[:1], logvar[:1])["active_units_by_mean"] == 0  # a batch of one


def test_options_are_those_of_the_kl():
    mu, std = _latent((9, 5), "std")
    for options in (
        {"std": std, "prior": (0.5, 2.0)},
        {"std": 0.5, "min_std": 0.25, "prior": (mu[0], std)},
        {"logvar": std, "clamp": (-0.1, 0.3)},
        {"rho": std[0], "min_std": 1.0},
    ):
        got = latent_stats(mu, **options)
        want = gaussian_kl(mu.double(), **_double(options), reduction="none").sum(0) / 9
        for d in range(5):
            assert math.isclose(got[f"kl_dim/{d}"], want[d].item(), rel_tol=1e-5, abs_tol=1e-6)
    assert latent_stats(mu, std=0.5, min_std=0.25)["posterior_var"] == 0.75**2
    assert latent_stats(mu, logvar=mu, clamp=(0.0, 0.0))["posterior_var"] == 1.0


def _double(options):
    def each(value):
        if isinstance(value, tuple):
            return tuple(map(each, value))
        return value.double() if isinstance(value, torch.Tensor) else value

    return {name: each(value) for name, value in options.items()}


@pytest.mark.parametrize("dim", [2, -1])
def test_units_along_another_dim(dim):
    mu, logvar = torch.randn(4, 3, 6, dtype=torch.float64), torch.zeros(4, 1, 6)
    got = latent_stats(mu, logvar.double(), dim=dim)
    want = (0.5 * mu**2).sum((0, 1)) / 4
    for d in range(6):
        assert math.isclose(got[f"kl_dim/{d}"], want[d].item(), rel_tol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_16_bit_inputs_are_those_of_float32(dtype):
    mu, logvar = _latent((4096, 5), "logvar", dtype)
    got, want = latent_stats(mu, logvar), latent_stats(mu.float(), logvar.float())
    for name in want:
        assert math.isclose(got[name], want[name], rel_tol=1e-5, abs_tol=1e-6), name


def test_errors_say_what_was_given():
    mu = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"dim=1.*shape \(3,\)"):
        latent_stats(mu[0], std=1.0)
    with pytest.raises(ValueError, match=r"dim=2.*shape \(2, 3\)"):
        latent_stats(mu, std=1.0, dim=2)
    with pytest.raises(ValueError, match="dim=0"):
        latent_stats(mu, std=1.0, dim=0)
    with pytest.raises(ValueError, match="dim=-2"):
        latent_stats(mu, std=1.0, dim=-2)
    with pytest.raises(ValueError, match=r"\(0, 3\)"):
        latent_stats(mu[:0], std=1.0)
    with pytest.raises(ValueError, match="exactly one of logvar"):
        latent_stats(mu)
    with pytest.raises(TypeError, match="logvar"):
        latent_stats(mu, logvr=mu)
    with pytest.raises(TypeError, match="mu must be"):
        latent_stats(1.0, std=mu)
