"""docs/modules.md: its table is executed, and its code runs."""

import inspect
import re

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import fused_reparam as fr
from tests.helpers.bayes_layers import leaves
from tests.helpers.paths import ROOT

PAGE = (ROOT / "docs" / "modules.md").read_text()
ROWS = [
    [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]


def parameters(layer, part):
    names = [n for n, _ in layer.named_parameters() if n.endswith(f"_{part}")]
    return [getattr(layer, n) for n in names]


def drawn(layer):
    pairs = zip(parameters(layer, "mu"), parameters(layer, "rho"), strict=True)
    return [fr.sample_weight(*pair)[0] for pair in pairs]


def lstm(x, *weights):
    plain = nn.LSTM(4, 3, device="meta")
    names = [n for n, _ in plain.named_parameters()]
    return functional_call(plain, dict(zip(names, weights, strict=True)), (x,))


BITS, DECODER = torch.eye(6, 5), nn.Linear(4, 5)


def elbo(latent):
    z, kl = latent
    lost = F.binary_cross_entropy_with_logits(DECODER(z), BITS, reduction="sum")
    log_likelihood = -lost / len(BITS)
    return log_likelihood - kl, log_likelihood, kl


def names():
    generator = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(2, 6, 4, generator=generator)
    return vars(fr) | {
        "mu": mu, "logvar": logvar, "moments": torch.cat((mu, logvar), 1), "logits": mu, "x": mu,
        "log_std": 0.5 * logvar, "zeros": torch.zeros(6, 4), "index": torch.tensor([2, 0, 2]),
        "volume": torch.randn(6, 3, 3, 3, generator=generator),
        "drawn": drawn, "lstm": lstm, "means": lambda layer: parameters(layer, "mu"),
        "variances": lambda layer: [F.softplus(p) ** 2 for p in parameters(layer, "rho")],
        "linear": F.linear, "conv1d": F.conv1d, "conv2d": F.conv2d, "conv3d": F.conv3d,
        "embedding": lambda x, table: F.embedding(x, table), "one_hot": F.one_hot,
        "sigmoid": torch.sigmoid, "softmax": torch.softmax,
        "bits": BITS, "decoder": DECODER, "elbo": elbo,
    }  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row(row):
    module, called_with, in_training, in_eval = row
    known = names()
    torch.manual_seed(1)
    layer = known["layer"] = eval(module, known)
    args = eval(f"({called_with},)", known)
    for training, want in ((True, in_training), (False, in_eval)):
        layer.train(training)
        found = []
        for compute in (lambda: layer(*args), lambda want=want: eval(want, known)):
            torch.manual_seed(7)
            found.append(leaves(compute()))
        for got, right in zip(*found, strict=True):
            torch.testing.assert_close(got, right)
    state = torch.get_rng_state()
    layer(*args)
    draws = not torch.equal(torch.get_rng_state(), state)
    assert draws == isinstance(layer, fr.FusedELBO), "but for its ELBO, nothing is drawn in eval"


def test_every_module_has_a_row():
    of_the_page = {re.match(r"\w+", row[0])[0] for row in ROWS}
    public = {n for n in fr.__all__ if inspect.isclass(getattr(fr, n)) and n != "backend"}
    assert of_the_page == public


def test_its_code_runs(capsys):
    known = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, known)
    assert known["spread"].shape == (16, 1)
    assert "BayesianLinear(in_features=4, out_features=8, prior_std=0.5" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted({re.match(r"\w+", row[0])[0] for row in ROWS}))
def test_a_docstring_says_what_eval_gives(name):
    said = inspect.getdoc(getattr(fr, name))
    assert "``eval()``" in said
    assert "fused_reparam.sampling" in said
    assert "ELBO" in said
