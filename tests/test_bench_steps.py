"""The bench's training steps: they run, and the check of a variant trips on a wrong model."""

from __future__ import annotations

import dataclasses
import itertools
import math
from functools import partial

import pytest
import torch
from torch.distributions import Normal
from torch.nn import functional as F

from bench import measure, memory, report, steps
from bench.steps import check
from bench.steps.case import StepCase, step_variants
from bench.steps.models import bayes_linear, image_vae, mlp_vae
from bench.timing import CpuClock, Effort
from bench.variants import EAGER, Variant, backend_module, using

CPU = torch.device("cpu")
BRIEF = Effort(sample_seconds=1e-5, seconds=0.02, least_rounds=3, most_rounds=4)
MODELS = {
    "mlp-vae": mlp_vae(),
    "image-vae": image_vae(batch=4, channels=4, side=16),
    "bayes-linear": bayes_linear((40, 50)),
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Sizes are tiny, and threads that wait for a busy core would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """Each model, small, with a few draws of the eager one made already."""
    torch.manual_seed(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "MOST", 24)
        made = StepCase(MODELS[request.param], CPU)
        assert len(made._expected) >= check.LEAST
        yield made


def judged(case, latent):
    return case.verdict(Variant("some", partial(case.loss, latent)))


def changed(case, scale=1.0, kl_weight=1.0, sigma_grad=1.0):
    """The textbook's latent of a model with sigma, KL or the gradient through sigma changed."""

    def latent(*inputs):
        if case.size == "image-vae":
            inputs = inputs[0].chunk(2, dim=1)
        mu, x = inputs
        sigma = F.softplus(x) if case.size == "bayes-linear" else torch.exp(0.5 * x)
        used = scale * (sigma_grad * sigma + (1 - sigma_grad) * sigma.detach())
        z = mu + used * torch.randn_like(mu)
        kl = 0.5 * (mu**2 + sigma**2 - 1) - torch.log(sigma)
        kl = kl.mean() if case.size == "bayes-linear" else kl.sum() / len(mu)
        return z, kl_weight * kl

    return latent


def test_the_check_passes_what_is_right(case):
    assert judged(case, case.model.textbook) is None
    assert judged(case, changed(case)) is None


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_the_check_passes_our_backends(case, backend):
    module, reason = backend_module(backend, CPU)
    if module is None:
        pytest.skip(f"{backend}: {reason}")
    fused = Variant(backend, partial(case.loss, case.model.ours), using(backend), ours=True)
    assert case.verdict(fused) is None


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"kl_weight": 2.0}, "loss"),
        ({"kl_weight": 0.5}, "loss"),
        ({"scale": 2.0}, ""),
        ({"scale": 0.5}, ""),
        ({"scale": 0.0}, ""),
        ({"sigma_grad": 0.0}, "gradient"),
        ({"sigma_grad": -1.0}, "gradient"),
        ({"kl_weight": math.nan}, "loss is not finite"),
    ],
    ids=str,
)
def test_the_check_trips(case, wrong, complaint):
    problem = judged(case, changed(case, **wrong))
    assert problem is not None
    assert problem.startswith(complaint)


def replaying(compute, keys):
    """`compute`, its noise from a few seeds in turns."""
    seeds = itertools.cycle(range(keys))

    def compute_with_old_noise(*inputs):
        with torch.random.fork_rng():
            torch.manual_seed(next(seeds))
            return compute(*inputs)

    return compute_with_old_noise


@pytest.mark.parametrize("keys", [1, 3])
def test_the_check_trips_on_noise_that_comes_again(case, keys):
    problem = judged(case, replaying(case.model.textbook, keys))
    assert problem == "two calls drew the same noise"


def test_the_check_trips_on_old_noise_whose_sums_are_rounded_anew(case):
    draw = iter(range(1000))

    def loss(*batch):
        # As where a device adds up in another order each time.
        [value] = case.loss(replaying(case.model.textbook, 1), *batch)
        return (value * (1 + 1e-6 * (next(draw) % 3)),)

    assert case.verdict(Variant("some", loss)) == "two calls drew the same noise"


@pytest.mark.parametrize("validate", [True, False])
def test_the_check_passes_torch_distributions(case, validate):
    assert judged(case, case.model.distributions(validate)) is None
    variants, _ = step_variants(case)
    name = "distributions" if validate else "distributions unchecked"
    [variant] = [one for one in variants if one.name == name]
    make, seen = Normal.__init__, []

    def init(self, *parameters, validate_args):
        seen.append(validate_args)
        make(self, *parameters, validate_args=validate_args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Normal, "__init__", init)
        variant.compute(*case.batch)
    assert seen == [validate] * 2  # what is sampled from, and its prior
    assert (variant.family, variant.ours) == ("distributions", False)


def test_the_check_trips_on_a_gradient_that_is_not_finite(case):
    def latent(*inputs):
        z, kl = case.model.textbook(*inputs)
        return z, kl + 0 * torch.sqrt(z - z.detach()).sum()

    assert "is not finite" in judged(case, latent)


def test_the_check_trips_on_gradients_of_the_right_size_and_the_wrong_sign(case):
    def reversed_gradients(*batch):
        [loss] = case.loss(case.model.textbook, *batch)
        return (2 * loss.detach() - loss,)

    assert "its part" in case.verdict(Variant("some", reversed_gradients))


def test_a_backend_is_chosen_with_its_compiled_model():
    settings = measure.Settings(op="training_step", variants=("native",))
    names = (EAGER, "torch.compile", "reference", "native", "native, compiled model")
    found = measure.chosen([Variant(name, print) for name in names], settings)
    assert [v.name for v in found] == [EAGER, "native", "native, compiled model"]


def test_differences_are_judged_by_their_statistical_error():
    generator = torch.Generator().manual_seed(0)

    def figures(mean, count):
        noise = torch.randn(count, generator=generator, dtype=torch.float64)
        return [{"loss": mean + value} for value in noise.tolist()]

    # The standard error of a difference of means of 50 is 0.2; rounding takes up to 0.01.
    assert check.difference(figures(10.0, 50), figures(10.1, 50)) is None
    problem = check.difference(figures(10.0, 50), figures(12.0, 50))
    assert problem.startswith("loss: mean 1")
    exact = [{"loss": 1000.0}] * 8
    assert check.difference(exact, [{"loss": 1000.9}] * 8) is None
    assert check.difference(exact, [{"loss": 1001.1}] * 8) is not None


@pytest.mark.parametrize("freedom", [14, 30, 126])
def test_student(freedom):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.t.isf(stats.norm.sf(5.0), freedom)
    assert check.student(5.0, freedom) == pytest.approx(expected, rel=0.03)


def test_a_step_uses_sgd_and_leaves_no_gradients(case, monkeypatch):
    steps = []
    monkeypatch.setattr(case._optimizer, "step", lambda: steps.append(
        [p.grad.isfinite().all().item() for p in case.module.parameters()]))  # fmt: skip
    contestant = case.contestant("step", Variant(EAGER, partial(case.loss, case.model.textbook)))
    contestant.call(None)
    assert steps == [[True] * len(list(case.module.parameters()))]
    assert all(p.grad is None for p in case.module.parameters())


def test_a_step_moves_parameters_against_their_gradient(monkeypatch):
    case = StepCase(bayes_linear((4, 5)), CPU)
    monkeypatch.setattr("bench.steps.case.LEARNING_RATE", 0.5)

    def loss(x, target):
        return (case.module.mean.pow(2).sum() + case.module.rho.sum(),)

    before = [p.detach().clone() for p in (case.module.mean, case.module.rho)]
    case.contestant("step", Variant("some", loss)).call(None)
    assert torch.equal(case.module.mean, torch.zeros(4, 5))
    assert torch.equal(case.module.rho, before[1] - 0.5)


def test_parameters_stay_while_steps_are_timed(case):
    before = [p.detach().clone() for p in case.module.parameters()]
    case.contestant("step", Variant(EAGER, partial(case.loss, case.model.textbook))).call(None)
    assert all(torch.equal(a, b) for a, b in zip(before, case.module.parameters(), strict=True))


@pytest.fixture(scope="module")
def rows():
    """A run over the models, the compiled variants left out, with one wrong variant."""
    settings = measure.Settings(op="training_step", works=("step",), effort=BRIEF)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "MOST", check.LEAST)
        for model in MODELS.values():
            case = StepCase(model, CPU)
            entries = [
                Variant(EAGER, partial(case.loss, model.textbook)),
                Variant("reference", partial(case.loss, model.ours), using("reference"), ours=True),
                Variant("wrong", partial(case.loss, changed(case, kl_weight=3.0))),
            ]
            found += measure.measure_case(case, settings, entries, CpuClock(), {}, lambda *_: None)
    return found


def test_each_model_s_rows_are_given_as_they_are_there(monkeypatch):
    monkeypatch.setattr("bench.steps.models", lambda quick: list(MODELS.values()))
    monkeypatch.setattr(measure, "measure_case", lambda case, *_: [row | {"size": case.size}])
    row = {"dtype": steps.DTYPE, "status": "skipped"}
    settings = measure.Settings(op="training_step", sizes=tuple(MODELS), dtypes=(steps.DTYPE,))
    results = list(steps.measure_steps(settings, CpuClock(), {}, lambda *_: None))
    sizes = [[row["size"] for row in result["rows"]] for result in results]
    assert sizes == [["mlp-vae"], ["mlp-vae", "image-vae"], list(MODELS)]


def test_rows_of_steps(rows):
    assert len(rows) == 3 * len(MODELS)
    for row in rows:
        model = MODELS[row["size"]]
        assert (row["op"], row["work"], row["dtype"]) == ("training_step", "step", "float32")
        assert row["shape"] == "x".join(map(str, model.shape))
        assert row["elements"] == math.prod(model.shape)
        assert row["status"] == ("failed" if row["variant"] == "wrong" else "ok")
        if row["status"] != "ok":
            assert row["reason"].startswith("loss")
            assert "median_s" not in row
            continue
        [eager] = [r for r in rows if r["size"] == row["size"] and r["variant"] == EAGER]
        assert 0 < row["low_s"] <= row["median_s"] <= row["high_s"]
        assert row["vs_eager"] == pytest.approx(eager["median_s"] / row["median_s"])
        for name in ("moved_bytes", "of_copy", "of_limit", "gb_per_s", "copy_s", "fresh_s"):
            assert row[name] is None
        assert row["saved_bytes"] > 0
        # Gradients of all parameters are alive before the optimizer's step.
        parameters = sum(p.nbytes for p in model.build().parameters())
        assert row["peak_bytes"] >= parameters
        assert row["kernels"] is None
        assert report.cells(row)[0] == row["variant"]


def test_the_guard_asks_for_enough(case):
    fresh = dataclasses.replace(case)
    latent = case.elements * 4
    known = [*case.module.parameters(), *case.batch]
    direction = sum(t.nbytes for t in case._direction)
    variants = {
        "pytorch": Variant(EAGER, partial(case.loss, case.model.textbook)),
        "distributions": Variant(
            "distributions", partial(case.loss, case.model.distributions(True))
        ),
        "reference": Variant("reference", partial(case.loss, case.model.ours), ours=True),
        "fused": Variant("native", partial(case.loss, case.model.ours), ours=True),
    }
    for family, variant in variants.items():
        assert variant.family == family
        if family == "fused" and backend_module("native", CPU)[0] is None:
            continue
        if variant.ours:
            variant = dataclasses.replace(variant, context=using(variant.name))
        peak = memory.peak_bytes(case.contestant("step", variant), CPU)
        # The 64 kB are scratch memory of small models.
        assert peak + direction <= case.need("step", variant) + 65_536
        assert fresh.need("step", variant) >= case.need("step", variant) + sum(
            t.nbytes for t in known if t.nbytes > latent
        )
