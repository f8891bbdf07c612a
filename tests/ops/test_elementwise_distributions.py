"""What is drawn has the distribution it says: Kolmogorov-Smirnov against scipy, keys fixed."""

import pytest
import torch

import fused_reparam as fr
from fused_reparam import noise

np = pytest.importorskip("numpy")
special = pytest.importorskip("scipy.special")
stats = pytest.importorskip("scipy.stats")

N = 20_011
KEY = noise.key(123, 45)
LOC, SCALE = 0.7, 1.3


def loc_scale(base, dtype, **options):
    loc = torch.full((N,), LOC, dtype=dtype)
    return fr.loc_scale_rsample(loc, torch.full_like(loc, SCALE), base, key=KEY, **options)


def kumaraswamy_cdf(x, a=2.0, b=3.0):
    return 1.0 - (1.0 - np.clip(x, 0.0, 1.0) ** a) ** b


def relaxed_bernoulli_cdf(x, logits=0.4, tau=0.7):
    return special.expit(tau * special.logit(np.clip(x, 0.0, 1.0)) - logits)


def tanh_normal_cdf(x):
    with np.errstate(divide="ignore"):
        return stats.norm.cdf(np.arctanh(np.clip(x / 2.0, -1.0, 1.0)), LOC, SCALE)


# Name: what draws N numbers in a dtype, and their distribution function.
CASES = {
    "normal": (lambda d: loc_scale("normal", d), stats.norm(LOC, SCALE).cdf),
    "laplace": (lambda d: loc_scale("laplace", d), stats.laplace(LOC, SCALE).cdf),
    "logistic": (lambda d: loc_scale("logistic", d), stats.logistic(LOC, SCALE).cdf),
    "gumbel": (lambda d: loc_scale("gumbel", d), stats.gumbel_r(LOC, SCALE).cdf),
    "uniform": (lambda d: loc_scale("uniform", d), stats.uniform(LOC - SCALE, 2 * SCALE).cdf),
    "cauchy": (lambda d: loc_scale("cauchy", d), stats.cauchy(LOC, SCALE).cdf),
    "student_t": (
        lambda d: loc_scale("student_t", d, df=3.5), stats.t(3.5, LOC, SCALE).cdf
    ),
    "student_t, heavy": (
        lambda d: loc_scale("student_t", d, df=0.8), stats.t(0.8, LOC, SCALE).cdf
    ),
    "log-normal": (
        lambda d: fr.log_normal_rsample(torch.full((N,), 0.2, dtype=d), std=0.5, key=KEY),
        stats.lognorm(0.5, scale=np.exp(0.2)).cdf,
    ),
    "relaxed Bernoulli": (
        lambda d: fr.relaxed_bernoulli(torch.full((N,), 0.4, dtype=d), 0.7, key=KEY),
        relaxed_bernoulli_cdf,
    ),
    "Kumaraswamy": (
        lambda d: fr.kumaraswamy_rsample(torch.full((N,), 2.0, dtype=d), 3.0, key=KEY),
        kumaraswamy_cdf,
    ),
    "tanh-normal": (
        lambda d: fr.tanh_normal_rsample(
            torch.full((N, 1), LOC, dtype=d), std=SCALE, low=-2.0, high=2.0, key=KEY
        )[0].view(-1),
        tanh_normal_cdf,
    ),
    "sampled weights": (
        lambda d: fr.sample_weight(
            torch.full((N,), LOC, dtype=d), float(np.log(np.expm1(SCALE))), prior_std=0.5, key=KEY
        )[0],
        stats.norm(LOC, SCALE).cdf,
    ),
    "samples": (
        lambda d: fr.gaussian_rsample(
            torch.full((N // 7 + 1,), LOC, dtype=d), std=SCALE, num_samples=7, key=KEY
        ).view(-1),
        stats.norm(LOC, SCALE).cdf,
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_kolmogorov_smirnov(case, dtype):
    draw, cdf = CASES[case]
    values = draw(dtype).double().numpy()
    if dtype == torch.bfloat16:
        # Rounded to steps: each number stands for an interval, and lies anywhere in it.
        spread = np.random.default_rng(0).uniform(-0.5, 0.5, values.size)
        step = np.exp2(np.floor(np.log2(np.maximum(np.abs(values), 1e-30))) - 7)
        values = values + spread * step
    # Wrong by one draw in a thousand would pass; a wrong family, scale or tail does not.
    assert stats.kstest(values, cdf).pvalue > 1e-3


def test_float64_draws():
    for base, dist in (("laplace", stats.laplace), ("gumbel", stats.gumbel_r)):
        values = loc_scale(base, torch.float64).numpy()
        assert stats.kstest(values, dist(LOC, SCALE).cdf).pvalue > 1e-3


def test_straight_through_bernoulli():
    logits = torch.tensor([-3.0, -0.5, 0.0, 2.0])
    drawn = fr.relaxed_bernoulli(logits.expand(N, 4).contiguous(), 0.3, hard=True, key=KEY)
    assert drawn.unique().tolist() == [0.0, 1.0]
    p = torch.sigmoid(logits).numpy()
    ones = drawn.sum(0).numpy()
    chi2 = ((ones - N * p) ** 2 / (N * p * (1 - p))).sum()
    assert stats.chi2(4).sf(chi2) > 1e-3


def test_draws_of_two_keys_and_neighbours_are_independent():
    a = loc_scale("logistic", torch.float32).double().numpy()
    loc = torch.zeros(N)
    b = fr.loc_scale_rsample(loc, 1.0, "logistic", key=noise.key(124, 45)).double().numpy()
    for x, y in ((a, b), (a[1:], a[:-1]), (a[4:], a[:-4])):
        assert abs(np.corrcoef(x, y)[0, 1]) < 4 / np.sqrt(N)
