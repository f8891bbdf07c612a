"""The example on gradient estimators, on settings that take seconds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tests.helpers import example_runs

example_runs.skip_unless_installed()

example = example_runs.module("gradient_estimators")
ran = example_runs.quick_run()


def variance_by_quadrature(name, dimensions, sigma):
    """Of one component of one draw's gradient at mu = 0: exact, as all are polynomials."""
    quadrature = pytest.importorskip("numpy").polynomial.hermite_e.hermegauss(16)
    nodes, weights = (torch.from_numpy(array) for array in quadrature)
    weights = weights / weights.sum()
    e = torch.tensor(list(itertools.product(nodes.tolist(), repeat=dimensions)), dtype=nodes.dtype)
    w = torch.tensor(list(itertools.product(weights.tolist(), repeat=dimensions))).prod(1)
    z = sigma * e
    f = ((z - 1.0) ** 2).sum(1)
    gradient = {
        "path-wise": 2.0 * (z[:, 0] - 1.0),
        "score function": f * e[:, 0] / sigma,
        "score + baseline": (f - dimensions * (1.0 + sigma**2)) * e[:, 0] / sigma,
    }[name]
    mean = (w * gradient).sum()
    assert mean.item() == pytest.approx(-2.0, rel=1e-4)
    return (w * (gradient - mean) ** 2).sum().item()


@pytest.mark.parametrize("name", ["path-wise", "score function", "score + baseline"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("sigma", [1.0, 0.4])
def test_formula_is_the_variance(example, name, dimensions, sigma):
    expected = variance_by_quadrature(name, dimensions, sigma)
    assert example.variance_by_formula(name, dimensions, 1.0, sigma) == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.slow
def test_estimators_are_unbiased_and_vary_as_the_formula_says(example, ran):
    found, _, _ = ran.result
    assert list(found.found) == list(example.ESTIMATORS)
    for name in example.ESTIMATORS:
        assert max(found.bias[name]) < 4.0
        assert found.found[name][1:] == pytest.approx(found.formula[name][1:], rel=0.25)
    # In one dimension alone, a few draws of the score function decide: it takes many.
    torch.manual_seed(0)
    many = example.variances([1], 400_000, lambda: None)
    for name in example.ESTIMATORS:
        assert many.found[name] == pytest.approx(many.formula[name], rel=0.1)


@pytest.mark.slow
def test_path_wise_varies_less_and_the_gap_grows_with_the_dimension(example, ran):
    found, _, _ = ran.result
    pathwise, score, baseline = (torch.tensor(of) for of in found.found.values())
    torch.testing.assert_close(pathwise, torch.ones(len(pathwise)), rtol=0.1, atol=0)
    assert (score > 5.0 * pathwise).all()
    assert (baseline > 2.0 * pathwise).all()
    assert found.dimensions[-1] == 64
    assert score[-1] > 1000.0 * pathwise[-1]
    assert score[-1] > 10.0 * baseline[-1]
    assert (score.diff() > 0).all()


@pytest.mark.slow
def test_descent_by_the_path_reaches_the_floor_alone(example, ran):
    _, descents, _ = ran.result
    pathwise, score, baseline = (of[-1] for of in descents.paths.values())
    # f has 1 in every dimension at the start, and sigma^2 = 0.01 more that no step takes away.
    assert pathwise == pytest.approx(0.01 / 1.01, rel=0.03)
    assert score > 0.9
    assert 0.1 < baseline < 0.5
    assert "path-wise" in ran.text


@pytest.mark.slow
def test_draws_reach_all_modes(example, ran):
    _, _, pushed = ran.result
    first, last = (pushed.target.shares(pushed.draws[at][1]) for at in (0, max(pushed.draws)))
    assert first.max() < 0.08
    assert len(last) == 6
    assert last.min() > 0.05
    assert last.sum() > 0.8
    assert 0.0 < pushed.final < 0.6
    assert pushed.divergence[0] > 10.0 * pushed.final


@pytest.mark.parametrize("couplings", [1, 4])
def test_growth_of_the_map_is_its_jacobians(example, couplings):
    torch.manual_seed(0)
    flow = example.Flow(couplings, 8)
    for coupling in flow.couplings:
        torch.nn.init.normal_(coupling.net[-1].weight)
    points = torch.randn(5, 2)
    _, growth = flow(points)
    for point, found in zip(points, growth, strict=True):
        jacobian = torch.func.jacrev(lambda p: flow(p.unsqueeze(0))[0].squeeze(0))(point)
        assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(
            found.item(), abs=1e-4
        )


def test_the_target_is_a_density_with_six_modes(example):
    ring, edge = example.Ring(), 6.0
    line = torch.linspace(-edge, edge, 241)
    density = torch.exp(ring.log_prob(torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)))
    assert density.sum().item() * (line[1] - line[0]).item() ** 2 == pytest.approx(1.0, rel=1e-3)
    drawn = ring.centers.repeat(500, 1) + ring.std * torch.randn(3000, 2)
    inside = 1.0 - math.exp(-4.5)  # within three std, in the plane
    torch.testing.assert_close(ring.shares(drawn), torch.full((6,), inside / 6), rtol=0.05, atol=0)


def test_log_density_of_the_pushed_normal_is_that_of_its_draws(example):
    # Where the map is still the identity, q is the standard normal.
    torch.manual_seed(0)
    z, x, log_q = example.PushedNormal(2, 4)(64)
    torch.testing.assert_close(x, z)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(log_q, normal, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_picture_is_written_and_is_not_blank(ran):
    example_runs.assert_drawn(ran, panels=8)


@pytest.mark.parametrize("words", [["--steps", "0"], ["--threads", "0"]])
def test_options_that_make_no_sense_are_refused(example, words, capsys):
    with pytest.raises(SystemExit):
        example.parse(words)
    assert words[0] in capsys.readouterr().err
