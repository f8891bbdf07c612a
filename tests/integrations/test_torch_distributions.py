"""torch.distributions and F.gumbel_softmax, patched, against what they were."""

import math
import warnings

import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F

from fused_reparam import integrations

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def parameters(dtype=torch.float32, shape=(7, 5), seed=3):
    """A mean and three positive parameters, which want gradients."""
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(shape, generator=generator, dtype=torch.float64)
    positive = (torch.rand(3, *shape, generator=generator, dtype=torch.float64) + 0.5).unbind()
    return [p.to(dtype).requires_grad_() for p in (loc, *positive)]


# By the parameters m (a mean) and a, b, c (positive).
DISTRIBUTIONS = {
    "Normal": lambda m, a, b, c: D.Normal(m, a),
    "Laplace": lambda m, a, b, c: D.Laplace(m, a),
    "Cauchy": lambda m, a, b, c: D.Cauchy(m, a),
    "Exponential": lambda m, a, b, c: D.Exponential(a),
    "StudentT": lambda m, a, b, c: D.StudentT(2 * a, m, b),
    "Gumbel": lambda m, a, b, c: D.Gumbel(m, a),
    "LogNormal": lambda m, a, b, c: D.LogNormal(m, a),
    "Weibull": lambda m, a, b, c: D.Weibull(a, b),
    "Pareto": lambda m, a, b, c: D.Pareto(a, b),
    "HalfNormal": lambda m, a, b, c: D.HalfNormal(a),
    "HalfCauchy": lambda m, a, b, c: D.HalfCauchy(a),
    "Kumaraswamy": lambda m, a, b, c: D.Kumaraswamy(a, b),
    "RelaxedBernoulli": lambda m, a, b, c: D.RelaxedBernoulli(0 * m.sum() + 0.7, logits=m),
    "RelaxedOneHotCategorical": lambda m, a, b, c: D.RelaxedOneHotCategorical(
        a.detach()[:1, :1] + 0.2, probs=b
    ),
    "OneHotCategoricalStraightThrough": lambda m, a, b, c: D.OneHotCategoricalStraightThrough(
        logits=m
    ),
}  # fmt: skip
# Whose sample is loc + scale * eps.
LOCATED = ("Normal", "Laplace", "Cauchy", "StudentT", "Gumbel")


@pytest.fixture(autouse=True)
def unpatched():
    """Nothing stays patched, and nothing was."""
    before = D.Normal.rsample
    yield
    assert D.Normal.rsample is before
    assert not hasattr(before, "swap")


def test_these_are_all():
    with integrations.patch("torch_distributions") as report:
        patched = {row.target.name.split(".")[-2] for row in report.rows} - {"kl", "functional"}
        assert patched == {*DISTRIBUTIONS}
        assert {row.status for row in report.rows} == {"replaced"}
    assert {row.status for row in report.rows} == {"undone"}
    assert "rsample" not in vars(D.Gumbel)


def drawn(make, dtype, sample_shape):
    """A sample, the gradients of all parameters, and the generator's state behind it."""
    given = parameters(dtype)
    torch.manual_seed(5)
    z = make(*given).rsample(torch.Size(sample_shape))
    state = torch.get_rng_state()
    weight = torch.linspace(0.5, 1.5, z.numel(), dtype=torch.float64).reshape(z.shape)
    grads = torch.autograd.grad((z.double() * weight).sum(), given, allow_unused=True)
    return z, grads, state


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_with_torchs_noise_it_is_what_it_was(name):
    make = DISTRIBUTIONS[name]
    for dtype in FLOATS[: 2 if name == "StudentT" else None]:  # PyTorch has no other chi-square
        for sample_shape in ((), (2, 3)):
            old, old_grads, old_state = drawn(make, dtype, sample_shape)
            exact = drawn(make, torch.float64, sample_shape)[0] if dtype == FLOATS[1] else None
            with integrations.patch("torch_distributions", rng="torch") as report:
                new, new_grads, new_state = drawn(make, dtype, sample_shape)
            assert report[f"{name}.rsample"].calls == {"fused": 1}
            assert (new.dtype, new.shape) == (old.dtype, old.shape)
            assert torch.equal(old_state, new_state)
            # A rounding less in ours: of the arithmetic, that is, which 16 bits show at each step.
            unit = torch.finfo(dtype).eps
            assert exact is None or torch.allclose(new, exact, rtol=8 * unit, atol=8 * unit)
            near = {"rtol": 16 * unit, "atol": 16 * unit}
            torch.testing.assert_close(new, old, **near)
            if name in LOCATED and dtype in FLOATS[:2]:
                assert torch.equal(new, old)
            for mine, theirs in zip(new_grads, old_grads, strict=True):
                assert (mine is None) == (theirs is None)
                if mine is not None:
                    torch.testing.assert_close(mine, theirs, rtol=32 * unit, atol=64 * unit)


def test_with_torchs_noise_views_have_the_same_bits():
    loc, scale, *_ = (p.detach() for p in parameters(shape=(40, 30)))
    for family in (D.Normal, D.Laplace, D.Gumbel, D.Cauchy):
        for views in ((loc.T, scale.T), (loc[:1], scale), (loc, scale[:, :1]), (0.3, scale[::2])):
            torch.manual_seed(2)
            old = family(*views).rsample((3,))
            torch.manual_seed(2)
            with integrations.patch("torch_distributions", rng="torch") as report:
                assert torch.equal(old, family(*views).rsample((3,)))
            assert {*report.calls} == {"fused"}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_sample_of_our_noise(name):
    """Its law is the functions' matter; here it is fresh, follows the seed, and is whole memory."""
    one = [p.detach()[:1] for p in parameters()]
    batch = (4,) if "OneHot" in name else (4, 5)
    with integrations.patch("torch_distributions"):
        distribution = DISTRIBUTIONS[name](*one).expand(batch)
        torch.manual_seed(0)
        z, again = distribution.rsample((6,)), distribution.rsample((6,))
        torch.manual_seed(0)
        assert torch.equal(z, distribution.rsample((6,)))
        assert not torch.equal(z, again)
        assert z.shape == (6, 4, 5)
        assert 0 not in z.stride()
        assert distribution.support.check(z).all()
        assert distribution.rsample((0,)).shape == (0, 4, 5)
        wanting = DISTRIBUTIONS[name](*parameters())
        assert wanting.rsample().requires_grad
        assert not wanting.sample().requires_grad


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_kl_of_two_normals(dtype):
    loc, a, b, c = parameters(dtype)
    pairs = [
        (D.Normal(loc, a), D.Normal(b, c)),
        (D.Normal(loc, a), D.Normal(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype))),
        (D.Normal(loc[:1], a[:1]), D.Normal(b, c)),
        (D.Normal(loc, a), D.Normal(b[:, :1], c[:1])),
        (D.LogNormal(loc, a), D.LogNormal(b, c)),
        (D.Independent(D.Normal(loc, a), 1), D.Independent(D.Normal(b, c), 1)),
    ]
    for p, q in pairs:
        wanting = loc, a, b, c
        old = D.kl_divergence(p, q)
        with integrations.patch("torch_distributions") as report:
            new = D.kl_divergence(p, q)
        assert report["_kl_normal_normal"].calls == {"fused": 1}
        assert (new.dtype, new.shape) == (old.dtype, old.shape)
        near = {"rtol": 1e-6, "atol": 1e-6} if dtype in FLOATS[:2] else {"rtol": 0.05, "atol": 0.05}
        torch.testing.assert_close(new, old, **near)
        grads = [torch.autograd.grad(k.sum(), wanting, allow_unused=True) for k in (new, old)]
        for mine, theirs in zip(*grads, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(mine, theirs, **{k: 10 * v for k, v in near.items()})
    assert D.kl_divergence(D.Normal(0.0, 1.0), D.Normal(0.0, 1.0)) == 0


def test_the_log_density_of_a_normal():
    loc, a, b, _ = parameters()
    for value in (b, torch.zeros(3, 1, 5), torch.tensor(0.5)):
        normal = D.Normal(loc, a)
        old = normal.log_prob(value)
        with integrations.patch("torch_distributions") as report:
            new = normal.log_prob(value)
            assert report["log_prob"].calls == {"fused": 1}
        torch.testing.assert_close(new, old, rtol=2e-6, atol=2e-6)
    with integrations.patch("torch_distributions") as report:
        assert D.Normal(0.0, 1.0, validate_args=False).log_prob(1).shape == ()
        assert report["log_prob"].calls == {"fallback: a int": 1}
        half = D.Normal(loc.half(), a.half())
        assert half.log_prob(b.half()).dtype == torch.float16
        with pytest.raises(ValueError, match="within the support"):
            D.Normal(loc, a, validate_args=True).log_prob(torch.full((5,), torch.nan))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_dtype_under_autocast_is_what_it_was(device):
    loc, a = (p.detach().to(device, torch.bfloat16) for p in parameters()[:2])
    with torch.autocast(device, torch.bfloat16):
        for call in (lambda p: p.log_prob(a), lambda p: D.kl_divergence(p, D.Normal(0.0, 1.0))):
            old = call(D.Normal(loc, a))
            with integrations.patch("torch_distributions"):
                assert call(D.Normal(loc, a)).dtype == old.dtype


@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_softmax(hard):
    loc = parameters()[0]
    for kwargs in ({"tau": 0.5}, {"tau": torch.tensor(0.5)}, {"tau": 2, "dim": 0}):
        results = []
        for rng in (None, "torch"):
            torch.manual_seed(1)
            if rng is None:
                y = F.gumbel_softmax(loc, hard=hard, **kwargs)
            else:
                with integrations.patch("torch_distributions", rng=rng) as report:
                    y = F.gumbel_softmax(loc, hard=hard, **kwargs)
                assert report["gumbel_softmax"].calls == {"fused": 1}
            (grad,) = torch.autograd.grad((y * torch.linspace(0, 1, 5)).sum(), loc)
            results.append((y.detach(), grad))
        for old, new in zip(*results, strict=True):
            torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-6)


class Marked(torch.Tensor):
    pass


def test_calls_that_go_to_the_original_are_counted_by_reason():
    with integrations.patch("torch_distributions") as report, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loc, a = (p.detach() for p in parameters()[:2])
        D.Normal(loc.as_subclass(Marked), a).rsample()
        D.Normal(loc.double(), a).rsample()
        assert D.Normal(loc.to("meta"), a.to("meta"), validate_args=False).rsample().is_meta
        normal = D.Normal(loc[0], a[0])
        normal._batch_shape = torch.Size((2, 5))  # as a subclass may have it
        assert normal.rsample().shape == (2, 5)
        D.Exponential(a.to(torch.float8_e5m2), validate_args=False).rate  # noqa: B018
        assert report["Normal.rsample"].calls == {
            "fallback: a Marked": 1,
            "fallback: tensors of several dtypes or devices": 1,
            "fallback: device meta": 1,
            "fallback: parameters that are not of the distribution's shape": 1,
        }
        F.gumbel_softmax(loc, tau=a)
        F.gumbel_softmax(loc, eps=1e-3)
        F.gumbel_softmax(loc, tau=-1.0)
        assert "fused" not in report["gumbel_softmax"].calls
        D.OneHotCategoricalStraightThrough(probs=a).rsample()
        D.RelaxedBernoulli(a, logits=loc).rsample()
        D.RelaxedBernoulli(torch.ones(1), logits=torch.tensor(0.0)).rsample()
    assert "4 fallback: " not in str(report)
    assert "2 fallback: a temperature for each element" in str(report)
    assert "1 fallback: given by probs, of which logits keep no 0" in str(report)


def test_everything_compiles_to_one_graph():
    given = [p.detach() for p in parameters()]

    def everything(*given):
        made = [make(*given) for make in DISTRIBUTIONS.values()]
        kl = D.kl_divergence(made[0], D.Normal(given[1], given[2]))
        return [d.rsample((2,)).sum() for d in made] + [
            kl.sum(), made[0].log_prob(given[1]).sum(), F.gumbel_softmax(given[0], 0.5).sum(),
        ]  # fmt: skip

    with integrations.patch("torch_distributions") as report:
        compiled = torch.compile(everything, fullgraph=True, backend="eager")
        first, second = compiled(*given), compiled(*given)
        assert report.calls == {"compiled: fused": len(DISTRIBUTIONS) + 3}
        assert first[0] != second[0]


def test_a_traced_sample_is_fresh_at_each_replay():
    loc, a = (p.detach() for p in parameters()[:2])
    with integrations.patch("torch_distributions"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(
            lambda loc, a: D.Normal(loc, a, validate_args=False).rsample(), (loc, a),
            check_trace=False,
        )  # fmt: skip
    assert not torch.equal(traced(loc, a), traced(loc, a))


def test_under_vmap():
    loc, a = (p.detach() for p in parameters()[:2])

    def sample(loc, a):
        return D.Normal(loc, a, validate_args=False).rsample((2,))

    with integrations.patch("torch_distributions") as report:
        z = torch.vmap(sample, randomness="different")(loc, a)
    assert z.shape == (7, 2, 5)
    assert "fused" in report["Normal.rsample"].calls


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.distributions.LogNormal(o, o),
        lambda o: torch.distributions.Gumbel(o, o),
        lambda o: torch.distributions.Kumaraswamy(o, o),
        lambda o: torch.distributions.RelaxedBernoulli(o[0], logits=o),
    ],
)
def test_transforms_of_ones_own_count(make):
    one = torch.ones(3)
    q = make(one)
    q.transforms.append(torch.distributions.AffineTransform(100.0, 1.0))
    with integrations.patch("torch_distributions") as report:
        assert (q.rsample() > 50.0).all()
        calls = report[f"{type(q).__name__}.rsample"].calls
        assert calls == {"fallback: transforms of its own": 1}
        make(one).rsample()
        assert calls["fused"] == 1


def test_what_only_the_original_takes():
    logits = torch.randn(4, 5)
    normal = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    with integrations.patch("torch_distributions") as report:
        for tau in (True, math.inf):
            assert torch.nn.functional.gumbel_softmax(logits, tau=tau).shape == (4, 5)
        assert torch.nn.functional.gumbel_softmax(torch.zeros(5, 0)).shape == (5, 0)
        with pytest.raises(IndexError):
            torch.nn.functional.gumbel_softmax(logits, dim=2)
        wide = torch.tensor([0.5], dtype=torch.float64)
        assert torch.nn.functional.gumbel_softmax(logits, wide).dtype == torch.float64
        assert "fused" not in report.calls
        for shape in (range(2, 4), torch.tensor([2, 3])):
            assert normal.rsample(shape).shape == (2, 3, 3)
        found = torch.func.hessian(lambda m: torch.distributions.Normal(m, 1.0).log_prob(one).sum())
        one = torch.ones(3)
        torch.testing.assert_close(found(torch.zeros(3)), -torch.eye(3))
