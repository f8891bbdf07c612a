"""The Bayesian layers' first parameters are PyTorch's, and wrong priors are refused."""

import math
import warnings

import pytest
import torch
from torch import nn

from fused_reparam import BayesianConv2d, BayesianLinear, kl_divergence
from tests.helpers.bayes_cases import MIXTURE, close, wanted


@pytest.mark.parametrize("sizes", [(4, 3), (1, 1), (0, 3), (4, 0)])
def test_linear_starts_as_pytorchs(sizes):
    starts, said = [], []
    for make in (nn.Linear, BayesianLinear):
        torch.manual_seed(0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            layer = make(*sizes)
        said.append([str(w.message) for w in caught])
        starts.append([p for n, p in layer.named_parameters() if not n.endswith("rho")])
        y = layer(torch.ones(2, sizes[0]))
        assert y.shape == (2, sizes[1])
    assert said[0] == said[1]
    for a, b in zip(*starts, strict=True):
        assert torch.equal(a, b)
    right, grads = wanted(layer, 0.0, 1.0)
    torch.testing.assert_close(layer.kl().double(), right)
    found = torch.autograd.grad(layer.kl(), [*layer.parameters()])
    close(found, grads, rtol=1e-5, atol=1e-6)


def test_convolutions_start_as_pytorchs():
    for sizes in ((2, 3, (3, 2)), (2, 0, 3)):
        starts = []
        for make in (nn.Conv2d, BayesianConv2d):
            torch.manual_seed(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                layer = make(*sizes)
            starts.append([p for n, p in layer.named_parameters() if not n.endswith("rho")])
        for a, b in zip(*starts, strict=True):
            assert torch.equal(a, b)


WRONG = [
    ({"prior_std": -1.0}, ValueError, "prior_std must be positive, got -1.0"),
    ({"prior_std": 0}, ValueError, "prior_std must be positive, got 0"),
    ({"prior_std": 1e-39}, ValueError, "prior_std must be at least 1.18e-38, got 1e-39"),
    ({"prior_std": math.nan}, ValueError, "prior_std must be finite, got nan"),
    ({"prior_std": "1"}, TypeError, "prior_std must be a number, got '1' of type str"),
    ({"prior_std": torch.ones(2)}, ValueError, "prior_std must broadcast to the layer's weight"),
    ({"prior_mean": math.inf}, ValueError, "prior_mean must be finite, got inf"),
    ({"prior_mean": None}, TypeError, "prior_mean must be a number, got None"),
    ({"rho_init": math.nan}, ValueError, "rho_init must be finite, got nan"),
    ({"rho_init": True}, TypeError, "rho_init must be a number, got True of type bool"),
    (
        {"mixture": MIXTURE, "prior_std": 0.5},
        ValueError,
        "give prior_std or mixture, got prior_std=0.5 and (0.3, 1.5, 0.05)",
    ),
    ({"mixture": (0.3, 1.0)}, ValueError, "mixture must be three numbers (share, std1, std2)"),
    ({"mixture": 0.3}, ValueError, "mixture must be three numbers (share, std1, std2), got 0.3"),
    ({"mixture": (1.5, 1.0, 0.1)}, ValueError, "mixture share must lie between 0 and 1, got 1.5"),
    (
        {"mixture": (0.5, torch.ones(7), 0.1)},
        ValueError,
        "mixture_std1 must broadcast to the layer's weight",
    ),
    ({"mixture": (math.nan, 1.0, 0.1)}, ValueError, "mixture share must be finite, got nan"),
    ({"mixture": (0.3, 1.0, -0.1)}, ValueError, "mixture std must be positive, got -0.1"),
    ({"mixture": (0.3, "a", 0.1)}, TypeError, "mixture std must be a number, got 'a'"),
]


@pytest.mark.parametrize("make", [BayesianLinear, lambda *s, **o: BayesianConv2d(*s, 3, **o)])
@pytest.mark.parametrize(("options", "kind", "said"), WRONG)
def test_wrong_priors(make, options, kind, said):
    with pytest.raises(kind) as caught:
        make(4, 3, **options)
    assert said in str(caught.value)


def test_wrong_combinations():
    with pytest.raises(ValueError, match="give one of local_reparameterization and mixture="):
        BayesianLinear(4, 3, mixture=MIXTURE, local_reparameterization=True)
    with pytest.raises(ValueError, match="this Linear has none"):
        kl_divergence(nn.Linear(2, 2))
