"""One distribution used again: after a backward pass, no_grad, inference mode, and patched."""

import pytest
import torch
from torch import distributions as T
from torch.distributions import kl_divergence

from fused_reparam import distributions as D
from fused_reparam import integrations, noise
from tests.helpers.distribution_cases import CASES, close

# Those that keep a ``torch.distributions.Categorical``, with its graph, are left out.
each_case = pytest.mark.parametrize(
    "name", [name for name in CASES if not name.startswith("OneHot")]
)
KEY = noise.key(4)


def results(d, value):
    """What has a gradient: by name, each made when it is called."""
    named = {
        "rsample": lambda: d.rsample(key=KEY), "log_prob": lambda: d.log_prob(value),
        "kl": lambda: kl_divergence(d, d.expand(d.batch_shape)),
    }  # fmt: skip
    for name in ("entropy", "mean", "variance", "mode"):
        found = getattr(d, name, None) if name == "entropy" else None
        named[name] = found or (lambda name=name: getattr(d, name))
    return named


def gradients(call, params):
    found = call()
    if not found.requires_grad:
        return None
    return torch.autograd.grad(found.sum(), params, materialize_grads=True)


@each_case
def test_what_is_derived_serves_every_backward_pass(name):
    """A graph that the first has freed is not kept for the second."""
    case = CASES[name]
    params = case.params()
    given = list(params.values())
    d = case.ours(**params)
    for call in results(d, case.counterpart().sample()).values():
        try:
            first = gradients(call, given)
        except NotImplementedError:
            continue
        for got, want in zip(gradients(call, given) or (), first or (), strict=True):
            close(got, want, 0.0)


@pytest.mark.parametrize("shape", [(3, 4), (4,)])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@each_case
def test_what_was_seen_without_gradients_has_them_later(name, mode, shape):
    case = CASES[name]
    if "Categorical" in name and len(shape) == 1:
        return
    params = case.params()
    last = list(params)[-1]
    params[last] = case.params(shape=shape)[last]
    given = list(params.values())
    fresh, seen = case.ours(**params), case.ours(**params)
    value = case.counterpart().sample()
    with mode():
        seen.sample()
        repr(seen)
        for call in results(seen, value).values():
            try:
                call()
            except NotImplementedError:
                continue
    for key, call in results(seen, value).items():
        try:
            want = gradients(results(fresh, value)[key], given)
        except NotImplementedError:
            continue
        for got, expected in zip(gradients(call, given) or (), want or (), strict=True):
            close(got, expected)


def calls(d, q, value):
    z, kl = d.rsample_and_kl(q, key=KEY)
    return d.rsample(key=KEY), d.log_prob(value), kl_divergence(d, q), z, kl


@pytest.mark.parametrize("name", ["Normal", "Normal rho", "LogNormal", "HalfNormal", "Laplace"])
def test_a_patched_pytorch_changes_nothing_here(name):
    """The op is asked once, by the class; what the patch serves is what it would be without."""
    case = CASES[name]
    d, q = case.made(), case.made(seed=1)
    theirs, value = case.counterpart(seed=1), case.counterpart().sample()
    want = calls(d, q, value)
    before = dict(T.kl._KL_REGISTRY), T.Normal.rsample, D.Normal.rsample
    with integrations.patch("torch_distributions") as report:
        for got, expected in zip(calls(d, q, value), want, strict=True):
            assert torch.equal(got, expected)
        assert not report.calls
        close(kl_divergence(d, theirs), want[2])
        assert not report.calls
        close(theirs.sample().isfinite().all(), torch.tensor(True))
    assert (dict(T.kl._KL_REGISTRY), T.Normal.rsample, D.Normal.rsample) == before
    for got, expected in zip(calls(d, q, value), want, strict=True):
        assert torch.equal(got, expected)
