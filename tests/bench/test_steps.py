"""The bench's training steps: they run, and the check of a variant trips on a wrong model."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from bench import check, measure, steps
from bench.steps import StepCase, bayes_linear, image_vae, mlp_vae
from bench.timing import CpuClock, Effort
from bench.variants import EAGER, Variant, using

CPU = torch.device("cpu")
BRIEF = Effort(sample_seconds=1e-5, seconds=0.02, least_rounds=3, most_rounds=4)
MODELS = {
    "mlp-vae": mlp_vae(),
    "image-vae": image_vae(batch=4, channels=4, side=16),
    "bayes-linear": bayes_linear((40, 50)),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """Each model, small, with a few draws of the eager one made already."""
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for a busy core would take most of the time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "MOST", 24)
        yield StepCase(MODELS[request.param], CPU)
    torch.set_num_threads(threads)


def judged(case, latent):
    return case.verdict(Variant("some", partial(case.loss, latent)))


def changed(case, scale=1.0, kl_weight=1.0, sigma_grad=1.0):
    """The textbook's latent of a model with sigma, KL or the gradient through sigma changed."""

    def latent(*inputs):
        mu, x = inputs[0].chunk(2, dim=1) if case.size == "image-vae" else inputs
        sigma = F.softplus(x) if case.size == "bayes-linear" else torch.exp(0.5 * x)
        used = scale * (sigma_grad * sigma + (1 - sigma_grad) * sigma.detach())
        kl = 0.5 * (mu**2 + sigma**2 - 1) - torch.log(sigma)
        kl = kl.mean() if case.size == "bayes-linear" else kl.sum() / len(mu)
        return mu + used * torch.randn_like(mu), kl_weight * kl

    return latent


def test_the_check_passes_what_is_right(case):
    op = case.model.op
    for latent in (op.textbook, changed(case), partial(op.rival, True), partial(op.rival, False)):
        assert judged(case, latent) is None
    for backend in ("reference", "native"):
        fused = Variant(backend, partial(case.loss, op.ours), using(backend), ours=True)
        assert case.verdict(fused) is None


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"kl_weight": 2.0}, "loss"),
        ({"kl_weight": 0.5}, "loss"),
        ({"scale": 2.0}, ""),
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


@pytest.mark.parametrize("keys", [1, 3])
def test_the_check_trips_on_noise_that_comes_again(case, keys):
    seeds, draw = itertools.cycle(range(keys)), itertools.count()

    def loss():
        with torch.random.fork_rng():
            torch.manual_seed(next(seeds))
            [value] = case.loss(case.model.op.textbook)
        # As where a device adds up in another order each time.
        return (value * (1 + 1e-6 * (next(draw) % 3)),)

    assert case.verdict(Variant("some", loss)) == "two calls drew the same noise"


def test_the_check_trips_on_gradients_of_the_wrong_sign_and_not_finite(case):
    def reversed_gradients():
        [loss] = case.loss(case.model.op.textbook)
        return (2 * loss.detach() - loss,)

    def latent(*inputs):
        z, kl = case.model.op.textbook(*inputs)
        return z, kl + 0 * torch.sqrt(z - z.detach()).sum()

    assert "its part" in case.verdict(Variant("some", reversed_gradients))
    assert "is not finite" in judged(case, latent)


@pytest.mark.parametrize("freedom", [14, 30, 126])
def test_student(freedom):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.t.isf(stats.norm.sf(5.0), freedom)
    assert check.student(5.0, freedom) == pytest.approx(expected, rel=0.03)


def test_a_step_moves_parameters_against_their_gradient(monkeypatch):
    case = StepCase(bayes_linear((4, 5)), CPU)
    monkeypatch.setattr(steps, "LEARNING_RATE", 0.5)
    module = case.module
    before = module.rho.detach().clone()
    case.step(Variant("some", lambda: (module.mean.pow(2).sum() + module.rho.sum(),)))
    assert torch.equal(module.mean, torch.zeros(4, 5))
    assert torch.equal(module.rho, before - 0.5)
    assert module.rho.grad is None


def test_rows_of_steps_and_parameters_that_stay(case):
    before = [p.detach().clone() for p in case.module.parameters()]
    settings = measure.Settings(op=steps.STEPS, works=(steps.STEP,), effort=BRIEF)
    op = case.model.op
    entries = [
        Variant(EAGER, partial(case.loss, op.textbook)),
        Variant("reference", partial(case.loss, op.ours), using("reference"), ours=True),
        Variant("wrong", partial(case.loss, changed(case, kl_weight=3.0))),
    ]
    rows = measure.measure_case(case, settings, entries, CpuClock(), lambda *_: None, {})
    assert [row["status"] for row in rows] == ["ok", "ok", "failed"]
    assert rows[2]["reason"].startswith("loss")
    for row in rows[:2]:
        assert (row["op"], row["work"], row["dtype"]) == (steps.STEPS, steps.STEP, "float32")
        assert row["size"] == case.model.name
        assert row["vs_eager"] == pytest.approx(rows[0]["median_s"] / row["median_s"])
        assert {row[name] for name in ("moved_bytes", "of_copy", "of_limit", "copy_s")} == {None}
        # Gradients of all parameters are alive before the optimizer's step.
        assert row["peak_bytes"] >= sum(p.nbytes for p in before)
    assert all(torch.equal(a, b) for a, b in zip(before, case.module.parameters(), strict=True))


def test_a_backend_is_chosen_with_its_compiled_model():
    settings = measure.Settings(op=steps.STEPS, variants=("native",))
    names = (EAGER, "torch.compile", "reference", "native", "native, compiled model")
    found = measure.chosen([Variant(name, print) for name in names], settings)
    assert [v.name for v in found] == [EAGER, "native", "native, compiled model"]
    variants, _ = StepCase(MODELS["bayes-linear"], CPU).variants()
    named = [variant.name for variant in variants]
    assert named[:4] == [EAGER, "torch.compile", "distributions", "distributions unchecked"]
    assert {"reference", "reference, compiled model"} <= set(named)
