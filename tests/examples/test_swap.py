"""README's swap: a script that follows it to the letter trains the very model that it had."""

import re
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import binary_cross_entropy

import fused_reparam as fr
from tests.helpers.paths import ROOT

README = (ROOT / "README.md").read_text()
SWAP = README[README.index("## The swap") : README.index("## Does it run fused?")]
PAGE = (ROOT / "docs/reductions.md").read_text()  # where the table of reductions is longer
ROW = re.compile(r"^\| (.*?) \| .*? \| `\"(\w+)\"` \|$", re.MULTILINE)
IN_README = ROW.findall(SWAP)
ROWS = list(dict.fromkeys([*IN_README, *ROW.findall(PAGE)]))
BLOCKS = re.findall(r"```python\n(.*?)```", SWAP, re.DOTALL)


def moments(dims):
    shape = (6, 5) if dims == 2 else (6, 5, 3, 2)
    return torch.randn(2, *shape).unbind()


def old_kl(row, mu, logvar):
    """The number that a row's code gives, on the names that the row uses."""
    k = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp())
    normal = torch.distributions.Normal
    names = {
        "torch": torch,
        "mu": mu,
        "k": k,
        "posterior": SimpleNamespace(kl=lambda: k.sum(dim=(1, 2, 3))),
        "q": normal(mu, torch.exp(0.5 * logvar)),
        "p": normal(torch.zeros_like(mu), torch.ones_like(mu)),
    }
    return eval(re.match(r"`(.*?)`", row).group(1), names)


@pytest.mark.parametrize(("row", "reduction"), ROWS)
def test_each_row_of_the_table(row, reduction, backend):
    mu, logvar = moments(4 if "four dims" in row or "posterior" in row else 2)
    _, kl = fr.FusedGaussianLatent(reduction=reduction)(mu, logvar)
    expected = old_kl(row, mu.double(), logvar.double())
    assert kl.shape == expected.shape
    torch.testing.assert_close(kl.double(), expected, rtol=2e-6, atol=2e-6)


def test_the_tables_name_every_reduction():
    assert {reduction for _, reduction in ROWS} == {"sum", "batchmean", "mean", "sample", "none"}
    assert [reduction for _, reduction in IN_README] == ["sum", "batchmean", "mean", "sample"]


def test_the_loss_and_its_gradients_are_the_old_ones(backend):
    """The best-known script sums both terms of its loss; its numbers come out, step for step."""
    scope = {}
    swapped = BLOCKS[0].replace('Latent(reduction="sum")', 'Latent(reduction="sum", rng="torch")')
    assert swapped != BLOCKS[0]
    swapped = swapped.replace(
        "\nz, kl =", "\nmu, logvar = (v.requires_grad_() for v in (mu, logvar))\nz, kl ="
    )
    swapped = swapped.replace("\nz, kl =", "\ntorch.manual_seed(1)\nz, kl =")
    exec(swapped, scope)
    ours = torch.autograd.grad(scope["loss"], [scope["mu"], scope["logvar"]])

    mu, logvar = (scope[name].detach().requires_grad_() for name in ("mu", "logvar"))
    torch.manual_seed(1)
    std = torch.exp(0.5 * logvar)
    z = mu + torch.randn_like(std) * std
    bce = binary_cross_entropy(scope["decoder"](z), scope["x"], reduction="sum")
    loss = bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    theirs = torch.autograd.grad(loss, [mu, logvar])

    torch.testing.assert_close(scope["loss"], loss, rtol=2e-6, atol=0)
    for mine, old in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, old, rtol=2e-5, atol=2e-6)


def test_the_held_out_elbo_is_of_samples():
    """The second snippet draws although the model is in eval(), and leaves it in eval()."""
    scope = {}
    exec(BLOCKS[0], scope)
    exec(BLOCKS[1], scope)
    assert not torch.equal(scope["z"], scope["mu"])
    assert not any(module.training for module in scope["model"].modules())
    logits, x = scope["decoder"](scope["z"]), scope["x"]
    expected = binary_cross_entropy(logits, x, reduction="sum") + fr.gaussian_kl(
        scope["mu"], scope["logvar"], reduction="sum"
    )
    torch.testing.assert_close(scope["negative_elbo"], expected, rtol=1e-6, atol=0)


def test_the_mean_looks_better_than_the_model_is():
    """Why a loss in eval() is no ELBO: with noise that matters, the mean's is far lower."""
    torch.manual_seed(0)
    mu, logvar = torch.randn(512, 20), torch.zeros(512, 20)
    latent = fr.FusedGaussianLatent()
    error_of_a_sample = (latent(mu, logvar)[0] - mu).square().mean()
    error_of_the_mean = (latent.eval()(mu, logvar)[0] - mu).square().mean()
    assert error_of_the_mean == 0
    assert abs(error_of_a_sample - 1) < 0.05


def test_the_install_lines_name_what_the_build_needs():
    """Without build isolation nothing is installed for a build but what is there already."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    first, second = re.findall(r"^pip install (.*?)\s+#", README, re.MULTILINE)[:2]
    assert second == "--no-build-isolation ."
    for needed in (*project["build-system"]["requires"], "torch"):
        assert needed in first
