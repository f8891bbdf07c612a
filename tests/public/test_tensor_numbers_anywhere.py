"""Numbers that are tensors beside samples of any shape, noise from anywhere, and in layers."""

import pytest
import torch

import fused_reparam as fr
from tests.helpers.number_tensors import BOUNDS, KEY, SHAPE, as_tuple, values

np = pytest.importorskip("numpy")

ALIKE = {
    "tau": lambda x, a, **o: fr.categorical_latent(x, 0.5 * a, reduction="sum", **o),
    "tau of classes": lambda x, a, **o: fr.gumbel_softmax(x, a if type(a) is float else a[0], **o),
    "unimix": lambda x, a, **o: fr.one_hot_categorical(x, 0.5 * a, **o),
    "gates": lambda x, a, **o: fr.relaxed_bernoulli(x, a, **o),
    "df": lambda x, a, **o: fr.loc_scale_rsample(x, 1.0, "student_t", df=3.0 * a, **o),
    "bounds": lambda x, a, **o: fr.tanh_normal_rsample(x, std=0.5, low=-a, high=1.5 * a, **o),
    "free bits": lambda x, a, **o: fr.gaussian_latent(
        x, std=0.5, free_bits=a, free_bits_per="element", **o
    ),
    "prior": lambda x, a, **o: fr.weibull_latent(x.exp(), 2.0, prior_scale=a, **o),
}


def generators():
    return [torch.Generator().manual_seed(i) for i in range(3)]


@pytest.mark.parametrize("name", ALIKE)
def test_samples_of_any_shape_and_noise_from_anywhere(backend, name):
    """Of a tensor the results of the same number."""
    x, call = values(1).to(memory_format=torch.contiguous_format), ALIKE[name]
    numbers = torch.full((5, 1), 0.7)
    if name == "tau of classes":
        numbers = torch.full((1, 4), 0.7)
    for options in (
        {"key": KEY, "sample_shape": (2, 3)}, {"key": KEY, "sample_shape": 2},
        {"key": KEY, "sample_shape": (0,)}, {"rng": "torch"}, {"rng": "torch", "sample_shape": 2},
        {"generator": generators}, {"eps": values(3).abs()},
    ):  # fmt: skip
        outcomes = []
        for number in (0.7, numbers):
            torch.manual_seed(5)
            made = {k: v() if callable(v) else v for k, v in options.items()}
            outcomes.append(as_tuple(call(x, number, **made)))
        for got, want in zip(*outcomes, strict=True):
            torch.testing.assert_close(
                got, want, rtol=1e-5, atol=1e-5, msg=lambda m, o=options: f"{o}: {m}"
            )


def test_tensors_of_other_dtypes_and_forms(backend):
    x = values(1)
    want = fr.gumbel_softmax(x, 2.0, key=KEY)
    for tau in (torch.tensor(2), torch.tensor(2.0, dtype=torch.float64), torch.tensor([2.0]),
                torch.tensor(2.0).half(), np.float32(2.0), np.array(2.0)):  # fmt: skip
        assert torch.equal(fr.gumbel_softmax(x, tau, key=KEY), want)


def test_nobody_reads_a_tensor():
    """On a device without memory all is as it would be, and nothing is asked of it."""
    x, one = torch.zeros(SHAPE, device="meta"), torch.ones((), device="meta")
    row = torch.ones(4, device="meta")
    for found in (
        fr.gumbel_softmax(x, one), fr.gumbel_softmax(x, row), fr.one_hot_categorical(x, one),
        fr.relaxed_bernoulli(x, row), fr.loc_scale_rsample(x, 1.0, "student_t", df=row),
        fr.tanh_normal_rsample(x, std=1.0, low=-row, high=one)[0],
        fr.gaussian_latent(x, std=1.0, prior=(row, one), free_bits=one, beta=one)[0],
        fr.exponential_latent(x, prior_rate=row)[0],
    ):  # fmt: skip
        assert found.shape == x.shape and found.is_meta  # noqa: PT018
    # A tensor without dims on the CPU goes to the device by value.
    assert fr.gumbel_softmax(x, torch.tensor(0.5)).is_meta


def test_layers_hold_tensors():
    x = values(1)
    layer = fr.FusedTanhNormal(low=BOUNDS[0], high=torch.tensor(BOUNDS[1]))
    assert set(layer.state_dict()) == {"low", "high"}
    ends = {"low": BOUNDS[0], "high": BOUNDS[1]}
    for training in (True, False):
        got = layer.train(training)(x, 0.0, key=KEY)
        noise = {"key": KEY} if training else {"eps": torch.zeros_like(x)}
        for g, w in zip(got, fr.tanh_normal_rsample(x, log_std=0.0, **ends, **noise), strict=True):
            assert torch.equal(g, w)
    for make in (fr.FusedGumbelSoftmax, fr.FusedCategoricalLatent, fr.FusedRelaxedBernoulli):
        layer = make(torch.nn.Parameter(torch.tensor(0.5)))
        for training in (True, False):
            layer.tau.grad = None
            as_tuple(layer.train(training)(x))[0].square().sum().backward()
            assert layer.tau.grad.abs() > 0
        assert "tau" in make(torch.tensor(0.5)).state_dict()
    layer = fr.FusedOneHotCategorical(torch.tensor(0.3))
    assert torch.equal(layer(x, key=KEY), fr.one_hot_categorical(x, 0.3, key=KEY))


def test_layers_hold_tensors_of_their_kl():
    x = values(1)
    layer = fr.FusedGaussianLatent(free_bits=torch.nn.Parameter(torch.tensor(50.0)))
    layer(x, x)[1].backward()
    assert layer.free_bits.grad == 1.0
    floors = torch.full((x.shape[-1],), 0.5)
    layer = fr.FusedGaussianLatent(free_bits=floors, free_bits_per="element")
    assert list(layer.state_dict()) == ["free_bits"]
    wanted = fr.gaussian_kl(x, x, free_bits=0.5, free_bits_per="element")
    torch.testing.assert_close(layer(x, x)[1], wanted)
    beta = torch.tensor(0.5, dtype=torch.float64)
    layer = fr.FusedGaussianLatent(beta=beta)
    beta.fill_(2.0)
    torch.testing.assert_close(layer(x, x)[1], fr.gaussian_kl(x, x, beta=2.0))
    with torch.device("meta"):
        x = torch.empty(4, 3)
        layer = fr.FusedGaussianLatent(free_bits=torch.tensor(0.5), beta=torch.tensor(0.5))
        assert layer(x, x)[1].is_meta


def test_a_layers_lists_of_bounds_are_checked():
    with pytest.raises(ValueError, match=r"low \(3,\) and high \(2,\)"):
        fr.FusedTanhNormal(low=[-1.0, 0.0, 0.0], high=[1.0, 2.0])
    for high in ([1.0, -2.0], 0.0):
        with pytest.raises(ValueError, match="low must be below high, got low"):
            fr.FusedTanhNormal(low=[-1.0, 0.0], high=high)
