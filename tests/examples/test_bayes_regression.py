"""The example on Bayesian regression, on settings that take seconds."""

from __future__ import annotations

import re

import pytest
import torch

from fused_reparam import noise
from tests.helpers import example_runs

example_runs.skip_unless_installed()

WIDTH = 20
example = example_runs.module("bayes_regression")
ran = example_runs.quick_run("--steps", "600", "--width", str(WIDTH))


@pytest.fixture(scope="module")
def predictive(example):
    import predictive

    return predictive


@pytest.fixture(scope="module")
def fold(example):
    return example.folds(*example.load(), 1)[0]


@pytest.mark.slow
def test_bands_hold_about_what_they_promise(example, ran):
    runs, _ = ran.result
    for name in (example.HANDWRITTEN, example.FUSED):
        below = torch.cat([run.below for run in runs[name]])
        assert len(below) == 89 + 89
        for share in (0.9, 0.5):
            chance = 3.0 * (share * (1.0 - share) / len(below)) ** 0.5
            assert abs(example.coverage(below, share) - share) < chance, (name, share)


@pytest.mark.slow
def test_a_bayesian_network_predicts_as_well_as_least_squares(example, ran):
    runs, _ = ran.result
    line = torch.tensor([run.log_likelihood for run in runs[example.LINE]])
    for name in (example.HANDWRITTEN, example.FUSED):
        found = torch.tensor([run.log_likelihood for run in runs[name]])
        # To know nothing but the mean and the spread of the outcomes is 0.2 nats worse.
        assert (found - line).abs().max() < 0.05
    assert example.compared(runs)[0]
    assert example.compared(runs)[1] in ran.text


@pytest.mark.slow
def test_draws_of_weights_are_unsure_where_there_are_no_patients(example, predictive, ran, fold):
    runs, _ = ran.result
    places = torch.tensor([26.0, 50.0])
    width = {}
    for name in example.LAYERS:
        found = predictive.predict(runs[name][0].model, places, fold.scaling, draws=200)
        low, high = found.band_of_means(0.9)
        width[name] = (high - low).tolist()
        assert found.means.mean(0)[1] > found.means.mean(0)[0]
    for name in (example.HANDWRITTEN, example.FUSED):
        assert width[name][1] > 3.0 * width[name][0] > 0.0
    assert max(width[example.FIXED]) < 1e-3


def test_on_the_same_noise_both_networks_train_alike(example, fold, monkeypatch):
    def losses(name, seed):
        torch.manual_seed(0)
        model = example.networks((WIDTH,))[name]
        torch.manual_seed(seed)
        return torch.tensor(example.train(model, fold, 60))

    fused = losses(example.FUSED, 1)
    assert not torch.allclose(losses(example.HANDWRITTEN, 1), fused, rtol=1e-2)
    # BayesianLinear draws a key for each tensor of a layer, weight first, and its noise from it.
    monkeypatch.setattr(torch, "randn_like", lambda t: noise.normal(noise.draw_key(), t.shape))
    torch.testing.assert_close(losses(example.HANDWRITTEN, 1), fused, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(losses(example.HANDWRITTEN, 2), fused, rtol=1e-2)


def test_all_networks_start_from_the_same_means(example):
    torch.manual_seed(0)
    written, fused, fixed = example.networks((7, 5)).values()
    for layers in zip(written.layers, fused.layers, fixed.layers, strict=True):
        for other in layers[1:]:
            weight = other.weight if isinstance(other, torch.nn.Linear) else other.weight_mu
            assert torch.equal(layers[0].weight_mu, weight)


@pytest.mark.slow
def test_table_has_every_network_and_size(example, ran):
    runs, measured = ran.result
    assert list(runs) == [*example.LAYERS, example.LINE]
    for name in runs:
        assert re.search(rf"^{name}\s+-5\.\d+\s+[\d.]+%\s+[\d.]+%$", ran.text, re.MULTILINE)
    # From one number to WIDTH, and from there to two; with biases.
    weights = (1 + 1) * WIDTH + (WIDTH + 1) * 2
    assert measured[0].weights == weights
    for of in measured:
        cells = r"\s+[\d.]+ ± [\d.]+" * 4
        assert re.search(rf"^{of.weights:,}{cells}$", ran.text, re.MULTILINE)
        assert list(of.seconds) == list(example.LAYERS)


def test_quantiles_of_normals_and_mixtures_of_them(predictive):
    one = predictive.Predictive(torch.full((1, 3), 2.0), torch.full((1, 3), 4.0))
    low, high = one.band(0.9)
    torch.testing.assert_close(high, torch.full((3,), 2.0 + 4.0 * 1.6448536))
    torch.testing.assert_close(low, torch.full((3,), 2.0 - 4.0 * 1.6448536))
    # Far apart, a mixture of two is one of them in each half.
    two = predictive.Predictive(torch.tensor([[-1000.0], [1000.0]]), torch.ones(2, 1))
    assert two.quantile(0.25).item() == pytest.approx(-1000.0, abs=1e-2)
    assert two.quantile(0.9).item() == pytest.approx(1000.0 + 0.8416, abs=1e-2)
    outcome = torch.tensor([1000.0])
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(torch.zeros(1)) - 0.6931472
    torch.testing.assert_close(two.log_likelihood(outcome), expected)


def test_coverage_counts_the_middle(predictive):
    below = (torch.arange(1000) + 0.5) / 1000
    for share in (0.1, 0.5, 0.9):
        assert predictive.coverage(below, share) == pytest.approx(share, abs=2e-3)
    assert predictive.coverage(torch.tensor([0.01, 0.99]), 0.9) == 0.0


@pytest.mark.slow
def test_prediction_leaves_the_generator_as_it_was(example, predictive, ran, fold):
    runs, _ = ran.result
    state = torch.get_rng_state()
    predictive.predict(runs[example.FUSED][0].model, fold.x_out, fold.scaling, draws=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_each_patient_is_held_out_once(example):
    x, y = example.load()
    parts = example.folds(x, y, example.FOLDS)
    assert torch.equal(torch.cat([part.y_out for part in parts]).sort().values, y.sort().values)
    for part in parts:
        assert len(part.x) + len(part.x_out) == len(x) == 442
        assert part.y.mean().item() == pytest.approx(0.0, abs=1e-5)
        assert part.y.std().item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.slow
def test_picture_is_written_and_is_not_blank(ran):
    example_runs.assert_drawn(ran, panels=3)


@pytest.mark.parametrize("words", [["--folds", "0"], ["--folds", "6"], ["--steps", "0"]])
def test_options_that_make_no_sense_are_refused(example, words, capsys):
    with pytest.raises(SystemExit):
        example.parse(words)
    assert words[0] in capsys.readouterr().err
