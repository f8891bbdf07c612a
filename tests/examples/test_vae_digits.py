"""The digits example, on settings that take seconds: table, coincidence, picture."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from tests.helpers import example_runs

example_runs.skip_unless_installed()

LATENT_DIM, BATCH, SEEDS, EPOCHS = 6, 128, 2, 3

example = example_runs.module("vae_digits")
ran = example_runs.quick_run("--epochs", str(EPOCHS), "--latent-dim", str(LATENT_DIM))


@pytest.mark.slow
def test_table_has_every_variant_with_its_figures(example, ran):
    runs, text = ran.result, ran.text
    assert list(runs) == [example.TEXTBOOK, example.FUSED, example.SAME_NOISE, example.WHOLE]
    itemsize, elements = 4, BATCH * LATENT_DIM
    saved = {
        example.TEXTBOOK: 3 * elements * itemsize,  # sigma, eps, exp(logvar)
        example.FUSED: 16,  # the key
        example.SAME_NOISE: elements * itemsize,  # eps, which is torch's
        example.WHOLE: 16,
    }
    for name, count in saved.items():
        figures = r"\s+[\d.]+ ± [\d.]+\s+\d+ ± \d+\s+\d+ ± \d+"
        assert re.search(rf"^{re.escape(name)}{figures}\s+{count} B$", text, re.MULTILINE), text


@pytest.mark.slow
def test_training_starts_alike_and_learns(example, ran):
    runs = ran.result
    for of in runs.values():
        assert len(of) == SEEDS
        for run in of:
            assert len(run.held_out) == EPOCHS
            assert run.held_out[-1] < run.held_out[0]
    # The same first weights and batch, and only other noise.
    first = [runs[name][0].step_losses[0] for name in (example.TEXTBOOK, example.FUSED)]
    assert first[0] != first[1]
    assert first[0] == pytest.approx(first[1], rel=0.05)


@pytest.mark.slow
def test_losses_of_the_same_noise_coincide(example, ran):
    runs, text = ran.result, ran.text
    for base, other in ((example.TEXTBOOK, example.SAME_NOISE), (example.FUSED, example.WHOLE)):
        coincide, sentence = example.coincidence(runs[base], runs[other])
        assert coincide
        assert "the loss curves coincide" in sentence
        assert f"{base} and {other}: {sentence}." in text
        for one, same in zip(runs[base], runs[other], strict=True):
            torch.testing.assert_close(
                torch.tensor(same.step_losses), torch.tensor(one.step_losses), rtol=1e-3, atol=0
            )
    assert not example.coincidence(runs[example.TEXTBOOK], runs[example.FUSED])[0]


def test_agreement_judges_differences_by_their_spread(example):
    assert example.agreement([10.0, 11.0, 12.0], [10.2, 10.9, 11.9])[0]
    agree, sentence = example.agreement([10.0, 11.0, 12.0], [13.0, 14.1, 15.05])
    assert not agree
    assert "DIFFER" in sentence
    assert example.agreement([10.0], [11.0])[0] is None


def test_held_out_loss_is_the_negative_log_likelihood_bound(example):
    # A decoder that ignores z and a posterior equal to the prior: the bound is exact.
    levels = 4
    x = torch.tensor([[0.0, 0.25, 1.0], [0.5, 0.5, 0.75]])
    model = example.VAE(3, 2, example.textbook)
    with torch.no_grad():
        for layer in (model.encoder[2], model.decoder[2]):
            layer.weight.zero_()
            layer.bias.zero_()
    binomial = torch.distributions.Binomial(levels, probs=torch.tensor(0.5))
    expected = -binomial.log_prob(levels * x).sum(1).mean().item()
    assert example.held_out_loss(model, x, levels, samples=3) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_picture_is_written_and_is_not_blank(ran):
    example_runs.assert_drawn(ran, panels=5)


def test_mnist_without_torchvision_says_what_to_do(example, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(SystemExit, match="pip install torchvision"):
        example.load("mnist")


@pytest.mark.parametrize("words", [["--epochs", "0"], ["--seeds", "0"], ["--data", "letters"]])
def test_options_that_make_no_sense_are_refused(example, words, capsys):
    with pytest.raises(SystemExit):
        example.parse(words)
    assert words[0] in capsys.readouterr().err
