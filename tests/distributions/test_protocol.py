"""What programs do with distributions: expand, copy, validate, wrap, print, and mistakes."""

import copy
import pickle

import pytest
import torch
from torch import distributions as T

from fused_reparam import distributions as D
from fused_reparam import noise
from tests.helpers.distribution_cases import CASES, SHAPE, close

each_case = pytest.mark.parametrize("name", CASES)
FUSED = (
    "Cauchy", "ContinuousBernoulli", "Exponential", "GeneralizedPareto", "Gumbel", "HalfCauchy",
    "HalfNormal", "Kumaraswamy", "Laplace", "LogNormal", "Logistic", "Normal", "OneHotCategorical",
    "Pareto", "RelaxedBernoulli", "RelaxedOneHotCategorical", "StudentT", "TanhNormal", "Uniform",
    "Weibull",
)  # fmt: skip


def test_one_import_serves_a_program():
    for name in T.__all__:
        ours, theirs = getattr(D, name), getattr(T, name)
        assert name in D.__all__
        if name in FUSED:
            assert ours is not theirs
            assert issubclass(ours, theirs)
        else:
            assert ours is theirs
    assert set(FUSED) <= set(D.__all__)
    assert set(FUSED) <= {n.split()[0] for n in CASES}
    assert D.constraints is T.constraints
    assert D.transforms is T.transforms


@each_case
@pytest.mark.parametrize("front", [(2,), (2, 1)])
def test_expanded(name, front):
    d = CASES[name].made()
    shape = (*front, *d.batch_shape)
    wide, theirs = d.expand(shape), CASES[name].counterpart().expand(shape)
    assert type(wide) is type(d)
    assert wide.batch_shape == theirs.batch_shape
    assert wide.event_shape == theirs.event_shape
    z = wide.rsample((3,), key=noise.key(1))
    assert z.shape == (3, *shape, *d.event_shape)
    assert not torch.equal(z[:, 0], z[:, 1])
    close(wide.log_prob(z), d.log_prob(z))
    assert wide._validate_args == d._validate_args


@each_case
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_draw_the_same(name, copied):
    d = CASES[name].made()
    value = d.sample()
    before = d.log_prob(value)  # makes what is made when it is asked for
    for attribute in ("scale", "mean", "probs", "base_dist"):
        try:
            getattr(d, attribute)
        except (AttributeError, NotImplementedError):
            continue
    new = copied(d)
    assert type(new) is type(d)
    close(new.rsample((2,), key=noise.key(3)), d.rsample((2,), key=noise.key(3)), 0.0)
    close(new.log_prob(value), before, 0.0)


def test_a_copy_of_what_broadcasts():
    d = D.Normal(torch.zeros(3, requires_grad=True), log_std=-1.0)
    assert d.scale.shape == d.log_std.shape == (3,)
    new = copy.deepcopy(d)
    close(new.scale, d.scale)
    new.rsample().sum().backward()
    assert new.loc.grad is not None
    assert d.loc.grad is None


@each_case
def test_it_prints_what_it_was_made_of(name):
    said, theirs = repr(CASES[name].made()), repr(CASES[name].counterpart())
    assert said.startswith(name.split()[0] + "(")
    named = theirs.startswith(name + "(") and "()" not in theirs  # not all of PyTorch's say it
    assert said == theirs or not named


NAN = float("nan")
BAD = [
    ("Normal", "scale", -1.0), ("Normal", "loc", NAN), ("Normal log_std", "log_std", NAN),
    ("Normal var", "var", -1.0), ("LogNormal", "scale", 0.0), ("HalfNormal", "scale", -1.0),
    ("Laplace", "scale", -1.0), ("StudentT", "df", 0.0), ("Uniform", "low", 7.0),
    ("Weibull", "scale", -1.0),
    ("Pareto", "alpha", -1.0), ("Kumaraswamy", "concentration0", 0.0), ("Exponential", "rate", 0.0),
    ("RelaxedBernoulli probs", "probs", 1.5), ("ContinuousBernoulli probs", "probs", 1.5),
    ("OneHotCategorical", "logits", NAN), ("TanhNormal bounds", "low", 9.0),
    ("RelaxedOneHotCategorical", "logits", NAN),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parameter", "value"), BAD)
def test_parameters_are_validated_and_only_where_that_is_on(name, parameter, value):
    params = {k: t.detach() for k, t in CASES[name].params().items()}
    versions = [torch.full(SHAPE, value).double()]
    if "Categorical" not in name:
        versions += [torch.full(SHAPE[1:], value).double(), value]
    for bad in versions:
        given = params | {parameter: bad}
        with pytest.raises(ValueError):
            CASES[name].ours(**given, validate_args=True)
        CASES[name].ours(**given, validate_args=False)
    before = T.Distribution._validate_args
    try:
        D.Distribution.set_default_validate_args(False)
        CASES[name].ours(**given)
        D.Distribution.set_default_validate_args(True)
        with pytest.raises(ValueError):
            CASES[name].ours(**given)
    finally:
        D.Distribution.set_default_validate_args(before)


def test_points_are_validated():
    for d, value in (
        (D.Normal(torch.zeros(3), 1.0, validate_args=True), torch.full((3,), torch.nan)),
        (D.Exponential(torch.ones(3), validate_args=True), -torch.ones(3)),
        (D.Normal(torch.zeros(3), 1.0, validate_args=True), torch.zeros(4)),
        (D.TanhNormal(torch.zeros(3), 1.0, validate_args=True), torch.full((3,), 1.5)),
    ):
        with pytest.raises(ValueError):
            d.log_prob(value)


@each_case
def test_nothing_is_read_from_a_device_where_nothing_is_validated(name):
    """A tensor without numbers has none to read: who asks for one raises."""
    params = {k: t.detach().to("meta") for k, t in CASES[name].params(torch.float32).items()}
    d = CASES[name].ours(**params, validate_args=False)
    z = d.rsample((2,))
    assert z.is_meta
    assert d.log_prob(z).is_meta
    assert d.rsample_and_log_prob()[1].is_meta
    if name.startswith(("Relaxed", "Kumaraswamy")):
        return
    q = CASES[name].ours(**params, validate_args=False)
    try:
        kl = D.kl_divergence(d, q)
    except NotImplementedError:
        return
    assert kl.is_meta
    assert d.rsample_and_kl(q)[1].is_meta


@each_case
def test_it_serves_where_pytorchs_does(name):
    d = CASES[name].made()
    z = D.Independent(d, 1).rsample((2,)) if d.batch_shape else None
    assert z.shape == (2, *SHAPE)
    close(D.Independent(d, 1).log_prob(z), d.log_prob(z).sum(-1))
    if not d.event_shape:
        moved = D.TransformedDistribution(d, [T.AffineTransform(1.0, 2.0)])
        torch.manual_seed(0)
        got = moved.rsample((2,))
        torch.manual_seed(0)
        close(got, 1.0 + 2.0 * d.rsample((2,)))
        mixed = D.MixtureSameFamily(D.Categorical(torch.ones(SHAPE)), d)
        assert mixed.sample((2,)).shape == (2, SHAPE[0])


def test_scales_are_made_of_what_was_given():
    want = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    given = {
        "scale": want, "log_std": want.log(), "logvar": 2.0 * want.log(), "var": want.square(),
        "rho": want.expm1().log(),
    }  # fmt: skip
    for name, value in given.items():
        d = D.Normal(0.0, **{name: value})
        assert name in d.__dict__
        assert not (set(given) - {name}) & set(d.__dict__)
        for other, expected in given.items():
            close(getattr(d, other), expected)
        close(d.stddev, want)
        close(d.variance, want.square())


def test_mistakes():
    with pytest.raises(
        ValueError, match="exactly one of scale, log_std, logvar, var, rho; got none"
    ):
        D.Normal(torch.zeros(3))
    with pytest.raises(ValueError, match=r"got scale=1\.0 of type float and rho="):
        D.Normal(torch.zeros(3), 1.0, rho=2.0)
    with pytest.raises(ValueError, match="exactly one of probs and logits, got neither"):
        D.OneHotCategorical()
    with pytest.raises(ValueError, match="classes along its last dim"):
        D.OneHotCategorical(logits=torch.tensor(1.0))
    with pytest.raises(ValueError, match="instances of Number"):
        D.Laplace(torch.zeros(3), "wide")
    with pytest.raises(RuntimeError, match="must match the size"):
        D.Laplace(torch.zeros(3), torch.ones(4))
    with pytest.raises(TypeError, match="float"):
        D.Laplace(torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)).sample()


class Mine(D.Normal):
    def __init__(self, loc):
        super().__init__(loc, 1.0)


def test_a_subclass_with_a_constructor_has_to_say_how_it_expands():
    """As one of PyTorch's has."""
    d = Mine(torch.zeros(3))
    assert d.rsample().shape == (3,)
    with pytest.raises(NotImplementedError, match="expand"):
        d.expand((2, 3))


def test_bounds_of_a_space_of_actions():
    numpy = pytest.importorskip("numpy")
    low, high = -numpy.ones(6, numpy.float32), 2.0 * numpy.ones(6, numpy.float32)
    d = D.TanhNormal(torch.zeros(4, 6), log_std=0.0, low=low, high=high)
    z, log_prob = d.rsample_and_log_prob()
    assert z.shape == log_prob.shape == (4, 6)
    assert bool((z >= -1).all())
    close(d.median, torch.full((4, 6), 0.5))
