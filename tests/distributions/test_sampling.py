"""Samples of every distribution: PyTorch's own numbers, shapes, strides, gradients, sources."""

import pytest
import torch

from fused_reparam import distributions as D
from fused_reparam import noise
from tests.helpers.distribution_cases import CASES, SHAPE, close, has_no_stride_of_0

each_case = pytest.mark.parametrize("name", CASES)


def divergence(d):
    """Of a distribution to itself, or None."""
    try:
        return D.kl_divergence(d, d)
    except NotImplementedError:
        return None


SHAPES = ((), (2,), (2, 5), (0,), (1,))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.same_noise])
@pytest.mark.parametrize("front", [(), (2, 5)])
def test_samples_and_gradients_are_pytorchs_of_the_same_noise(name, front, backend):
    case = CASES[name]
    found = []
    for made, options in ((case.ours, {"rng": "torch"}), (case.theirs, {})):
        params = case.params()
        torch.manual_seed(5)
        z = made(**params, validate_args=False).rsample(front, **options)
        loss = (z * torch.linspace(0.5, 1.5, z.numel(), dtype=z.dtype).view_as(z)).sum()
        found.append((z, *torch.autograd.grad(loss, list(params.values()))))
    for got, want in zip(*found, strict=True):
        close(got, want, 1e-7 if name.startswith("ContinuousB") else 1e-9)


@each_case
def test_any_sample_shape_and_no_stride_of_0(name):
    case = CASES[name]
    params = case.params(torch.float32)
    # Numbers, one row, one column: of whatever has no classes.
    narrow = [lambda t: t[0], lambda t: t[:, :1], lambda t: t[0, 0], lambda t: t[0, 0].item()]
    versions = [params]
    if "Categorical" not in name:
        for f in narrow:
            versions.append({k: f(v) for k, v in params.items()})
            if len(params) > 1:
                key = list(params)[-1]
                versions.append({**params, key: f(params[key])})
                key = next(iter(params))
                versions.append({**params, key: f(params[key])})
    for given in versions:
        d = case.ours(**given)
        whole = d.batch_shape + d.event_shape
        for front in SHAPES:
            for z in (d.rsample(front), d.sample(front)):
                assert z.shape == (*front, *whole)
                assert has_no_stride_of_0(z)
                assert z.dtype == torch.float32
            assert not d.sample(front).requires_grad
        value, kl = d.sample(), divergence(d)
        if kl is not None:
            assert has_no_stride_of_0(kl)
            assert kl.shape == d.batch_shape
        assert has_no_stride_of_0(d.log_prob(value))
        assert d.log_prob(value).shape == d.batch_shape


@each_case
def test_sources_of_noise(name):
    d = CASES[name].made(torch.float32)
    key = noise.key(3)
    assert torch.equal(d.rsample((2,), key=key), d.sample((2,), key=key))
    assert not torch.equal(d.rsample((20,)), d.rsample((20,)))
    one, two = (torch.Generator().manual_seed(1) for _ in range(2))
    assert torch.equal(d.sample(generator=one), d.sample(generator=two))
    if not name.startswith("OneHot"):
        eps = torch.full((2, *SHAPE), 0.25)
        z = d.rsample((2,), eps=eps)
        assert torch.equal(z[0], z[1])
    with pytest.raises(TypeError, match="unexpected keyword"):
        d.rsample(seed=3)


def test_a_seed_decides_and_consecutive_draws_differ():
    d = D.Normal(torch.zeros(1000), 1.0)
    torch.manual_seed(1)
    first, second = d.sample(), d.sample()
    torch.manual_seed(1)
    assert torch.equal(first, d.sample())
    assert not torch.equal(first, second)


def test_uniform_never_leaves_its_bounds():
    low, high = torch.tensor([0.1, 1.0, -3.0]), torch.tensor([0.3, 1.0000002, 1e-3])
    z = D.Uniform(low, high).sample((20000,))
    assert bool(((z >= low) & (z <= high)).all())


def test_student_t_of_a_number_takes_one_op():
    """And is the same as with a tensor of the number."""
    loc, key = torch.zeros(50, dtype=torch.float64), noise.key(4)
    number = D.StudentT(3.0, loc, 2.0)
    tensor = D.StudentT(torch.tensor(3.0, dtype=torch.float64), loc, 2.0)
    close(number.rsample(key=key), tensor.rsample(key=key))
    assert number.df.shape == (50,)
    assert number.expand((2, 50)).rsample(key=key).shape == (2, 50)


def test_a_scale_that_is_assigned_counts():
    d = D.Normal(torch.zeros(2000), 1.0)
    d.scale = 100.0 * d.scale
    assert d.sample().std() > 50.0
