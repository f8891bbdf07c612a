"""The bench's gate, for every op: it passes what is right and trips on what is wrong."""

from __future__ import annotations

import math

import pytest
import torch

from bench import gate, normality, scores
from bench.case import OpCase
from bench.ops import OPS, loc_scale_rsample
from bench.ops import gaussian as textbook
from bench.variants import Variant, backend_module, ours

CPU = torch.device("cpu")
DTYPES = ("float32", "float64", "bfloat16", "float16")
SAMPLING = ("gaussian_latent", "gaussian_rsample", "gaussian_latent_from_moments")
DIVERGING = ("gaussian_latent", "gaussian_kl", "gaussian_latent_from_moments")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Sizes are tiny, and threads that wait for a busy core would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def judge(name, compute, dtype="float32", shape=(128, 20)):
    torch.manual_seed(1)
    case = OpCase(OPS[name], "x", shape, dtype, CPU)
    return gate.verdict(case, Variant("some", compute))


def form(name, sample=textbook.textbook_sample, kl=textbook.textbook_kl):
    """The op of that name, made of a sample and a KL of one's own."""
    parts = {"gaussian_rsample": (sample,), "gaussian_kl": (kl,)}.get(name, (sample, kl))

    def compute(*inputs):
        mu, logvar = OPS[name].operands(inputs)
        return tuple(part(mu, logvar) for part in parts)

    return compute


def wrong_gain(mu, logvar):
    z = textbook.textbook_sample(mu, logvar)
    return z + 0.01 * (z - z.detach())  # 1% more gradient, and the same value


def wrong_sigma(mu, logvar):
    return textbook.textbook_sample(mu, 2 * logvar)


def wrong_noise_in_backward(mu, logvar):
    first, second = (textbook.textbook_sample(mu, logvar) for _ in range(2))
    return second + (first - second).detach()


def uniform_noise(mu, logvar):
    # Uniform with mean 0 and variance 1: right in its moments, wrong in its shape.
    return mu + torch.exp(0.5 * logvar) * (torch.rand_like(mu) - 0.5) * math.sqrt(12)


def same_noise_each_call(mu, logvar):
    eps = torch.randn(mu.shape, generator=torch.Generator().manual_seed(0)).to(mu)
    return mu + torch.exp(0.5 * logvar) * eps


def nan_in_one_element(mu, logvar):
    z = textbook.textbook_sample(mu, logvar)
    return z.index_fill(0, torch.tensor(0), math.nan)


def flat(mu, logvar):
    return textbook.textbook_sample(mu, logvar).flatten()


def widened(mu, logvar):
    return textbook.textbook_sample(mu, logvar).to(torch.complex64).real.double()


def twice_the_kl(mu, logvar):
    return 2 * textbook.textbook_kl(mu, logvar)


def inexact_wide_kl(mu, logvar):
    """Of at least float32 as ours is, and 5% too large."""
    wide = torch.promote_types(mu.dtype, torch.float32)
    kl = textbook.textbook_kl(mu.to(wide), logvar.to(wide))
    return kl + 0.05 * kl.detach()


def wrong_kl_gradient(mu, logvar):
    kl = textbook.textbook_kl(mu, logvar)
    return kl + 0.05 * (kl - kl.detach())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPS)
def test_passes_what_is_right(name, dtype):
    op = OPS[name]
    for compute in (op.textbook, op.distributions(True), op.distributions(False)):
        assert judge(name, compute, dtype) is None
    assert judge(name, op.textbook, dtype, (4, 6, 5, 20)) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("name", OPS)
def test_passes_our_backends(name, backend, dtype):
    module, reason = backend_module(backend, CPU)
    if module is None:
        pytest.skip(f"{backend}: {reason}")
    torch.manual_seed(1)
    [variant] = [v for v in ours(OPS[name], CPU)[0] if v.name == backend]
    assert gate.verdict(OpCase(OPS[name], "x", (128, 20), dtype, CPU), variant) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("sample", "complaint"),
    [
        (wrong_gain, "grad mu"),
        (wrong_sigma, "noise: mean square"),
        (wrong_noise_in_backward, "grad logvar"),
        (uniform_noise, "noise is not normal"),
        (same_noise_each_call, "two calls drew the same noise"),
        (nan_in_one_element, "noise"),
        (flat, "outputs of shapes"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("name", SAMPLING)
def test_trips_on_a_wrong_sample(name, sample, complaint, dtype):
    problem = judge(name, form(name, sample=sample), dtype)
    assert problem is not None
    assert problem.startswith(complaint)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kl", "complaint"),
    [(twice_the_kl, "kl: off by"), (inexact_wide_kl, "kl: off by"), (wrong_kl_gradient, "grad ")],
)
@pytest.mark.parametrize("name", DIVERGING)
def test_trips_on_a_wrong_kl(name, kl, complaint, dtype):
    problem = judge(name, form(name, kl=kl), dtype)
    assert problem is not None
    assert problem.startswith(complaint)


def more_gradient(first, *others):
    return first + 0.05 * (first - first.detach()), *others


def twice_the_value(*outputs):
    return *outputs[:-1], outputs[-1] + outputs[-1].detach()


def nan_in_a_row(first, *others):
    return first.index_fill(0, torch.tensor(1), math.nan), *others


FAMILIES = [name for name in OPS if name not in (*DIVERGING, "gaussian_rsample", "normal")]
VALUES = [name for name in FAMILIES if len(OPS[name].output_shapes((4, 6))) > 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("change", "name"),
    [
        *((change, name) for name in FAMILIES for change in (more_gradient, nan_in_a_row)),
        *((twice_the_value, name) for name in VALUES),
    ],
)
def test_trips_on_what_is_wrong_of_any_family(change, name, dtype):
    assert judge(name, lambda *inputs: change(*OPS[name].textbook(*inputs)), dtype) is not None


def noise_problem(scores):
    noise = normality.Noise(torch.float64)
    noise.add(scores)
    return noise.problem()


@pytest.mark.parametrize("family", loc_scale_rsample.FAMILIES, ids=lambda family: family.base.name)
def test_noise_that_is_not_normal_is_known_by_its_own_distribution(family):
    torch.manual_seed(2)
    loc, scale = torch.zeros(20_000, dtype=torch.float64), torch.ones(20_000, dtype=torch.float64)
    for eps in (family.eps(loc), family.distribution(loc, scale, validate_args=True).sample()):
        assert noise_problem(family.score(eps, 0 * eps)) is None
        assert noise_problem(family.score(1.2 * eps, 0 * eps)) is not None


def test_classes_are_known_by_their_shares():
    torch.manual_seed(2)
    shares = torch.softmax(torch.randn(20_000, 7, dtype=torch.float64), 1)
    for power, right in ((1, True), (1.5, False)):
        chosen = torch.multinomial(shares**power, 1).squeeze(1)
        assert (noise_problem(scores.of_classes(chosen, shares)) is None) == right


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_trips_on_noise_of_another_call(name, dtype):
    textbook = OPS[name].textbook

    def same(*inputs):
        torch.manual_seed(3)
        return textbook(*inputs)

    assert judge(name, same, dtype) == "two calls drew the same noise"

    def two_draws(*inputs):
        pairs = zip(textbook(*inputs), textbook(*inputs), strict=True)
        return tuple(b + (a - b).detach() for a, b in pairs)

    # The gradient of a one-hot draw is that of its shares, whatever was drawn.
    wrong = judge(name, two_draws, dtype)
    assert (wrong is None) == (name == "one_hot_categorical")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("compute", "complaint"),
    [
        (lambda like: (1.2 * torch.randn_like(like),), "noise: mean square"),
        (lambda like: (torch.randn_like(like) + 0.2,), "noise: mean"),
        (lambda like: ((torch.rand_like(like) - 0.5) * math.sqrt(12),), "noise is not normal"),
        (
            lambda like: (same_noise_each_call(0 * like, 0 * like),),
            "two calls drew the same noise",
        ),
    ],
    ids=["gain", "mean", "uniform", "same"],
)
def test_trips_on_wrong_normals(compute, complaint, dtype):
    problem = judge("normal", compute, dtype)
    assert problem is not None
    assert problem.startswith(complaint)


def lanes(noise):
    """Of each four values the last two are the first two."""
    pairs = noise.view(-1, 4)[:, :2]
    return torch.cat([pairs, pairs], dim=1)


def repeated(parts):
    return lambda noise: noise.flatten()[: noise.numel() // parts].repeat(parts)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "change", [lanes, repeated(2), repeated(4), repeated(8)], ids=["lanes", "2", "4", "8"]
)
@pytest.mark.parametrize("slice_size", [1 << 18, 320])
@pytest.mark.parametrize("name", [*SAMPLING, "normal"])
def test_trips_on_repeated_noise(name, change, dtype, slice_size, monkeypatch):
    monkeypatch.setattr(gate, "SLICE", {"cpu": slice_size})
    # So that what these are for is not found by duplicates, which rounding hides elsewhere.
    monkeypatch.setattr(normality, "MOST_TWICE", 1.0)

    def sample(mu, logvar):
        eps = change(torch.randn_like(mu)).view(mu.shape)
        return mu + torch.exp(0.5 * logvar) * eps

    def normal(like):
        return (sample(torch.zeros(like.shape, dtype=like.dtype), torch.zeros(())),)

    compute = normal if name == "normal" else form(name, sample=sample)
    problem = judge(name, compute, dtype)
    assert problem is not None
    assert "correlate by" in problem


@pytest.mark.parametrize(("dtype", "trips"), [("float32", True), ("bfloat16", False)])
def test_trips_on_values_that_come_up_again(dtype, trips):
    def period(like):
        count = like.numel()
        noise = torch.randn(1003).to(like.dtype)
        return (noise.repeat(count // 1003 + 1)[:count].view(like.shape),)

    # Drawn from as few values as rounding has left, which is no fault of the noise's.
    assert judge("normal", OPS["normal"].textbook, dtype, (256, 256)) is None
    problem = judge("normal", period, dtype, (100, 20))
    assert (problem is not None and "come up again" in problem) == trips


def test_trips_on_a_sample_of_another_dtype():
    assert "a sample of torch.float64" in judge(
        "gaussian_rsample", form("gaussian_rsample", sample=widened)
    )


@pytest.mark.parametrize("shape", [(7, 3), (3, 70), (1, 40), (2, 4, 25, 3), (1000, 1)])
@pytest.mark.parametrize("size", [1, 8, 1000])
def test_slices_cover_each_element_once(shape, size):
    for dim in range(len(shape)):
        seen = torch.zeros(shape)
        for index in gate.slices(shape, size, dim):
            seen[index] += 1
        assert seen.unique().tolist() == [1.0]


def test_parts_of_samples_and_of_sums():
    shape, index = (6, 4), (slice(2, 4),)
    for first in ((), (3,)):
        samples = torch.randn(*first, *shape)
        assert torch.equal(gate.part_of(samples, shape, index), samples[..., 2:4, :])
    sums, total = torch.randn(6), torch.tensor(1.0)
    assert torch.equal(gate.part_of(sums, shape, index), sums[2:4])
    assert torch.equal(gate.part_of(total, shape, index), total)


@pytest.mark.parametrize("name", SAMPLING)
def test_an_error_in_the_last_slice_shows(name, monkeypatch):
    monkeypatch.setattr(gate, "SLICE", {"cpu": 100})
    monkeypatch.setattr(gate, "MOST_SLICES", 3)

    def wrong_at_the_end(mu, logvar):
        z = textbook.textbook_sample(mu, logvar)
        grid = torch.ones_like(mu)
        grid.flatten()[-1] = 1.5
        return z * grid - (z * grid - z).detach()

    assert judge(name, form(name)) is None
    assert judge(name, form(name, sample=wrong_at_the_end)).startswith("grad mu: an element")


def test_the_kl_is_summed_over_the_slices_that_are_not_checked(monkeypatch):
    monkeypatch.setattr(gate, "SLICE", {"cpu": 100})
    monkeypatch.setattr(gate, "MOST_SLICES", 2)

    def without_the_middle(mu, logvar):
        kept = torch.ones_like(mu)
        kept[60:64] = 0
        return textbook.textbook_kl(mu * kept, logvar * kept)

    assert judge("gaussian_kl", form("gaussian_kl")) is None
    assert judge("gaussian_kl", form("gaussian_kl", kl=without_the_middle)).startswith("kl: off")


@pytest.mark.parametrize("overwrites", [True, False])
def test_results_that_the_next_call_overwrites_are_copied(overwrites):
    given = []

    def compute(mu, logvar):
        given.append(OPS["gaussian_rsample"].textbook(mu, logvar)[0])
        return (given[-1],)

    case = OpCase(OPS["gaussian_rsample"], "x", (128, 20), "float32", CPU)
    variant = Variant("some", compute, overwrites=overwrites)
    [kept], _, _ = gate._run(case, variant)
    assert torch.equal(kept, given[0])
    assert (kept.data_ptr() != given[0].data_ptr()) == overwrites
