"""The example of the discrete VAE, on settings that take seconds."""

from __future__ import annotations

import math
import re

import pytest
import torch

from fused_reparam import loc_scale_rsample, noise
from tests.helpers import example_runs

example_runs.skip_unless_installed()

SEEDS, EPOCHS = 2, 20

example = example_runs.module("discrete_vae")
ran = example_runs.quick_run("--epochs", str(EPOCHS), "--seeds", str(SEEDS))


@pytest.mark.slow
def test_the_bound_improves_while_tau_falls(example, ran):
    # Without letters, the best is to say the mean of each pixel.
    data = example.load()
    pixels = torch.distributions.Binomial(data.levels, probs=data.train.mean(0))
    # A pixel that is white in all of them has the logarithm of 0 times 0.
    white = data.train.amax(0) == 0
    without = -pixels.log_prob(data.levels * data.test)[:, ~white].sum(1).mean().item()
    assert list(ran.result) == [example.TEXTBOOK, example.FUSED]
    for of in ran.result.values():
        assert len(of) == SEEDS
        for run in of:
            assert len(run.held_out) == len(run.relaxed) == EPOCHS
            assert run.held_out[0] > without
            assert run.held_out[-1] < without - 60.0
            assert run.taus[0] == 1.0
            assert run.taus[-1] == example.LAST_TAU
            assert run.taus == sorted(run.taus, reverse=True)


def test_annealing_goes_down_by_equal_factors_and_stops(example):
    last = example.LAST_TAU
    assert example.tau_at(0.375) == pytest.approx(math.sqrt(last))
    assert example.tau_at(0.75) == pytest.approx(last)
    assert example.tau_at(1.0) == last


def test_on_the_same_noise_both_latents_train_alike(example, monkeypatch):
    data = example.load()

    def loss(name, seed=0):
        """After one epoch; in a few more, rounding grows to what other noise does in one."""
        return example.train(example.LATENTS[name], data, 1, seed, lambda: None).held_out[0]

    def on_a_key(logits, tau):
        zero = torch.zeros(logits.shape)
        gumbel = loc_scale_rsample(zero, torch.ones(()), "gumbel", key=noise.draw_key())
        return torch.softmax((logits + gumbel) / tau, -1)

    fused = loss(example.FUSED)
    other = abs(loss(example.TEXTBOOK) - fused)
    monkeypatch.setattr(example.F, "gumbel_softmax", on_a_key)
    same = abs(loss(example.TEXTBOOK) - fused)
    assert same < 1e-5 * fused
    assert other > 30.0 * same
    assert abs(loss(example.TEXTBOOK, seed=1) - fused) > 30.0 * same


def test_held_out_loss_is_the_negative_log_likelihood_bound(example):
    # A decoder that ignores the letters and equal odds: the bound is exact.
    levels = 4
    x = torch.tensor([[0.0, 0.25, 1.0], [0.5, 0.5, 0.75]])
    model = example.DiscreteVAE(3, example.textbook)
    with torch.no_grad():
        for layer in (model.encoder[2], model.decoder[2]):
            layer.weight.zero_()
            layer.bias.zero_()
    binomial = torch.distributions.Binomial(levels, probs=torch.tensor(0.5))
    expected = -binomial.log_prob(levels * x).sum(1).mean().item()
    assert example.held_out_loss(model, x, levels, samples=3) == pytest.approx(expected, rel=1e-5)
    # Sure of one letter, that costs the logarithm of how many there are, at each place.
    with torch.no_grad():
        model.encoder[2].bias.view(example.LETTERS, example.ALPHABET)[:, 1] = 1e3
    expected += example.LETTERS * math.log(example.ALPHABET)
    assert example.held_out_loss(model, x, levels, samples=3) == pytest.approx(expected, rel=1e-5)


def test_true_letters_are_drawn_by_their_odds(example):
    odds = torch.tensor([0.1, 0.2, 0.7])
    letters = example.true_letters(odds.log().expand(20_000, 2, 3))
    assert set(letters.unique().tolist()) == {0.0, 1.0}
    assert (letters.sum(-1) == 1.0).all()
    torch.testing.assert_close(letters.mean((0, 1)), odds, rtol=0, atol=0.01)


def test_relaxed_letters_near_true_ones_as_tau_falls(example):
    logits = torch.randn(500, 16)
    largest = [example.relaxed_letters(logits, tau).amax(-1).mean() for tau in (1.0, 0.3, 0.01)]
    assert largest[0] < largest[1] < largest[2]
    assert largest[2] > 0.98
    assert torch.equal(example.relaxed_letters(logits, 1.0), example.relaxed_letters(logits, 1.0))


@pytest.mark.slow
def test_table_has_both_latents_with_their_figures(example, ran):
    assert example.BATCH == 128
    itemsize, elements = 4, 128 * example.LETTERS * example.ALPHABET
    found = {}
    for name in example.LATENTS:
        figures = r"\s+[\d.]+ ± [\d.]+\s+\d+ ± \d+\s+\d+ ± \d+"
        line = re.search(rf"^{name}{figures}\s+(\d+) B$", ran.text, re.MULTILINE)
        assert line, ran.text
        found[name] = int(line.group(1))
    # y, which the decoder keeps too; the textbook keeps three tensors more.
    assert found[example.FUSED] <= elements * itemsize + 16
    assert found[example.TEXTBOOK] == 4 * elements * itemsize
    assert f"{example.TEXTBOOK} and {example.FUSED}: they agree" in ran.text


@pytest.mark.slow
def test_picture_is_written_and_is_not_blank(ran):
    example_runs.assert_drawn(ran, panels=9)


@pytest.mark.parametrize("words", [["--epochs", "0"], ["--seeds", "0"]])
def test_options_that_make_no_sense_are_refused(example, words, capsys):
    with pytest.raises(SystemExit):
        example.parse(words)
    assert words[0] in capsys.readouterr().err
