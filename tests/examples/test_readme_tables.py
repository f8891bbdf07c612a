"""The tables of swaps: what stands at the left of a row and at its right are the same."""

import importlib.util
import re
import warnings

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import fused_reparam
from fused_reparam import distributions
from fused_reparam.integrations import patch
from tests.helpers.paths import ROOT

README = (ROOT / "README.md").read_text()
PAGE = (ROOT / "docs/reductions.md").read_text()  # where README's table of KLs is longer


def rows(head, page=README):
    """The cells of the table whose first line starts so, as they are written."""
    lines = page[page.index(f"| {head}") :].split("\n\n")[0].splitlines()[2:]
    assert lines
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]


def code(cell):
    return re.findall(r"`(.*?)`", cell)


REDUCTIONS = dict.fromkeys(rows("your old KL, with") + rows("your old KL, with", PAGE))
SWAPS = [(old, code(new)[0]) for old, new in rows("your code")]


@pytest.mark.parametrize(("old", "meaning", "reduction"), REDUCTIONS, ids=str)
def test_a_kl_by_hand_is_the_reduction_beside_it(old, meaning, reduction):
    torch.manual_seed(0)
    moments = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    if "two dims" in old:
        moments = torch.randn(3, 4, dtype=torch.float64)
    mu, logvar = moments.chunk(2, 1)
    k = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp())
    posterior = distributions.DiagonalGaussian(moments)
    q, p = Normal(mu, (0.5 * logvar).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu))
    (by_hand,) = code(old)[:1]
    wanted = eval(
        by_hand, {"torch": torch}, {"k": k, "mu": mu, "posterior": posterior, "q": q, "p": p}
    )
    (name,) = code(reduction)
    found = fused_reparam.gaussian_kl(mu, logvar, reduction=name.strip('"'))
    torch.testing.assert_close(found, wanted)


def test_lines_of_distributions():
    """Those that name one: imported and run, they give what the code beside them gives."""
    torch.manual_seed(0)
    mu, log_std = torch.randn(2, 6, 5, dtype=torch.float64)
    old, new = {"torch": torch}, {}
    imported, built, sampled = ((code(a)[0], b) for a, b in SWAPS if "patch(" not in b)
    exec(imported[0], old)
    exec(imported[1], new)
    for scope, line in zip((old, new), built, strict=True):
        scope |= {"mu": mu, "log_std": log_std}
        scope |= {"q": eval(line, scope), "p": scope["Normal"](torch.zeros_like(mu), 2.0)}
    for scope, line in zip((old, new), sampled, strict=True):
        exec(line, scope)
    torch.testing.assert_close(new["kl"], kl_divergence(old["q"], old["p"]))
    noise = (new["z"] - mu) / log_std.exp()
    assert abs(noise.mean()) < 0.5
    assert 0.6 < noise.std() < 1.4
    assert type(new["q"]) is distributions.Normal


@pytest.mark.parametrize("line", [new for _, new in SWAPS if "patch(" in new])
def test_a_patch_replaces_something(line):
    package = re.search(r'patch\("(\w+)"\)', line)[1]
    if package != "torch_distributions" and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with eval(line, {"patch": patch}) as report:
            assert "replaced" in {row.status for row in report.rows}
