"""The bench's training steps: each is right for every variant, and leaves the parameters alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench import measure, steps
from bench.cases import StepCase
from bench.ops import OPS
from bench.results import STEPS
from bench.timing import CpuClock, Effort
from bench.variants import EAGER

CPU = torch.device("cpu")
MODELS = {
    "mlp-vae": steps.mlp_vae(),
    "image-vae": steps.image_vae(batch=4, channels=4, side=16),
    "bayes-linear": steps.bayes_linear((40, 50)),
}
BRIEF = Effort(sample_seconds=1e-5, seconds=0.02, least_rounds=3, most_rounds=4)


@pytest.fixture(params=MODELS)
def case(request):
    return StepCase.of(MODELS[request.param], CPU)


def test_the_variants_of_a_model(case):
    found, missing = case.variants()
    names = [variant.name for variant in found]
    assert names[:4] == [EAGER, "torch.compile", "distributions", "distributions unchecked"]
    assert {"native", "native, compiled model"} <= {*names, *(one.name for one in missing)} | {
        f"{one.name}, compiled model" for one in missing}  # fmt: skip
    settings = measure.Settings(STEPS, variants=("native",))
    kept = [one.name for one in measure.chosen(found, settings)]
    assert kept in ([EAGER, "native", "native, compiled model"], [EAGER])


def test_losses_of_all_variants_have_one_mean(case):
    """What differs is the noise alone; with the same parameters the mean loss is the same."""
    found = [one for one in case.variants()[0] if "compile" not in one.name]
    means = {}
    for variant in found:
        torch.manual_seed(4)
        with torch.no_grad(), variant.context():
            losses = torch.stack([variant.compute()[0] for _ in range(40)]).double()
        means[variant.name] = losses.mean(), losses.std() / 40**0.5
    for mean, error in means.values():
        expected, other = means[EAGER]
        assert abs(mean - expected) <= 5 * (error**2 + other**2).sqrt() + 1e-5 * abs(expected)


def test_rows_of_steps_and_parameters_that_stay(case):
    before = [p.detach().clone() for p in case.module.parameters()]
    reference = next(one for one in case.variants()[0] if one.name == "reference")
    eager = next(one for one in case.variants()[0] if one.name == EAGER)

    def wrong(*inputs):
        z, kl = case.op.ours(*inputs)
        return z, 3 * kl

    entries = [eager, reference, replace(reference, name="wrong", op=wrong)]
    settings = measure.Settings(STEPS, works=(steps.STEP,), effort=BRIEF)
    rows = measure.measure_case(case, settings, entries, CpuClock())
    assert [row["status"] for row in rows] == ["ok", "ok", "failed"]
    assert rows[2]["reason"].startswith("output 1")
    for row in rows[:2]:
        assert (row["op"], row["work"], row["dtype"]) == (STEPS, steps.STEP, "float32")
        assert row["size"] == case.model.name
        assert row["vs_eager"] == pytest.approx(rows[0]["median_s"] / row["median_s"])
        assert {row[name] for name in ("moved_bytes", "of_copy", "of_limit", "copy_s")} == {None}
        # Gradients of all parameters are alive before the optimizer's step.
        assert row["peak_bytes"] >= sum(p.nbytes for p in before)
    assert all(torch.equal(a, b) for a, b in zip(before, case.module.parameters(), strict=True))


def test_the_models_hold_ops_of_the_bench():
    assert MODELS["mlp-vae"].op is OPS["gaussian_latent"]
    assert MODELS["image-vae"].op is OPS["gaussian_latent_from_moments"]
    assert [model.name for model in steps.models(quick=True)] == list(MODELS)
