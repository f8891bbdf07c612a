"""The Bayesian layers' KL: right at any time, and of the forward pass where that can be."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fused_reparam import BayesianConv2d, BayesianLinear, kl_divergence, sample_weight
from tests.helpers.bayes_cases import (
    MIXTURE,
    PRIOR,
    X,
    Y,
    check,
    close,
    gradients,
    network,
    nll,
    wanted,
)


def test_before_any_forward_pass_and_in_eval():
    model = network(**PRIOR)
    check(kl_divergence(model), model)
    model(X)
    model.eval()
    before = torch.get_rng_state()
    check(kl_divergence(model), model)
    check(kl_divergence(model), model)
    assert torch.equal(torch.get_rng_state(), before), "nothing is drawn"


@pytest.mark.parametrize("options", [{}, PRIOR, {"mixture": MIXTURE}])
@pytest.mark.parametrize("make", [BayesianLinear, lambda *s, **o: BayesianConv2d(*s, 3, **o)])
def test_a_training_step_takes_one_pass(make, options, target):
    """The KL comes from the node that drew the weights, also where memory is laid out otherwise."""
    layer = make(4, 3, **options).to(target[1])
    if isinstance(layer, BayesianConv2d):
        layer.to(memory_format=torch.channels_last)
    x = torch.ones((2, 4, 5, 5) if isinstance(layer, BayesianConv2d) else (2, 4), device=target[1])
    layer(x)
    kl = layer.kl()
    assert torch.equal(kl, layer.kl())
    drawing = {node for node, _ in kl.grad_fn.next_functions}
    assert len(drawing) == 2, "of weight and bias"
    output = layer(x)
    drawing = {node for node, _ in layer.kl().grad_fn.next_functions}
    assert drawing <= ancestors(output.grad_fn)
    assert not {node for node, _ in kl.grad_fn.next_functions} & ancestors(output.grad_fn)


def ancestors(node):
    found, waiting = set(), [node]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting.extend(n for n, _ in node.next_functions)
    return found


def test_the_sum_and_two_backward_passes_give_the_same_gradients():
    model = network(**PRIOR)
    torch.manual_seed(3)
    (nll(model(X)) + kl_divergence(model) / 10).backward()
    together = gradients(model)
    torch.manual_seed(3)
    nll(model(X)).backward()
    (kl_divergence(model) / 10).backward()
    close(gradients(model), together, rtol=1e-5, atol=1e-6)
    check(kl_divergence(model), model)


@pytest.mark.parametrize("options", [PRIOR, {"mixture": MIXTURE}])
def test_gradients_accumulate_over_micro_batches(options):
    model = network(**options)

    def by_sums():
        for x, y in zip(X, Y, strict=True):
            ((model(x[None]) - y).square().mean() + kl_divergence(model) / 10).backward()

    def in_one_graph():
        total = 0.0
        for x, y in zip(X, Y, strict=True):
            total = total + (model(x[None]) - y).square().mean() + kl_divergence(model) / 10
        total.backward()

    found = []
    for step in (by_sums, in_one_graph):
        torch.manual_seed(5)
        step()
        found.append(gradients(model))
    close(*found, rtol=1e-5, atol=1e-6)
    for x in X:
        model(x[None]).sum().backward()
    (kl_divergence(model) / 10).backward()  # once, at the end
    (kl_divergence(model) / 10).backward()  # and again
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_kl_after_micro_batches_is_the_closed_one():
    model = network(**PRIOR)
    for x in X:
        model(x[None]).sum().backward()
    model.zero_grad()
    kl_divergence(model).backward()
    close(gradients(model), wanted(model)[1], rtol=1e-5, atol=1e-6)


def new_parameters(layer):
    layer.weight_mu = nn.Parameter(torch.full_like(layer.weight_mu, 0.3))


def change_in_place(layer):
    with torch.no_grad():
        layer.bias_rho.add_(1.0)


def step(layer):
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.SGD(layer.parameters(), 0.1).step()


def load(assign):
    def change(layer):
        other = BayesianLinear(18, 1, rho_init=0.3)
        layer.load_state_dict(other.state_dict(), assign=assign)

    return change


CHANGES = {
    "an optimizer's step": step,
    "load_state_dict": load(False),
    "load_state_dict, assigned": load(True),
    "in place": change_in_place,
    "new parameters": new_parameters,
    "double": lambda layer: layer.double(),
    "bfloat16": lambda layer: layer.bfloat16(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_kl_follows_the_parameters_without_a_forward_pass(change):
    model = network(**PRIOR)
    model(X)
    change(model[3])
    check(kl_divergence(model).double(), model)
    assert model[3].kl().dtype == (
        torch.float64 if model[3].weight_mu.dtype == torch.float64 else torch.float32
    )


def test_a_mixtures_kl_after_a_change_is_of_weights_drawn_now():
    layer = BayesianLinear(400, 300, mixture=MIXTURE)
    layer(torch.ones(1, 400))
    first = layer.kl().item()
    with torch.no_grad():
        layer.weight_rho.fill_(0.5)
    torch.manual_seed(1)
    found = layer.kl()
    torch.manual_seed(1)
    pairs = (layer.weight_mu, layer.weight_rho), (layer.bias_mu, layer.bias_rho)
    want = [sample_weight(*pair, mixture=MIXTURE)[1] for pair in pairs]
    assert torch.equal(found, want[0] + want[1])
    assert abs(first / found.item() - 1.0) > 0.1
    found.backward()


def test_a_mixtures_kl_before_any_forward_pass_and_once_it_is_spent():
    layer = BayesianLinear(40, 30, mixture=MIXTURE)
    assert layer.kl().item() != layer.kl().item(), "an estimate, drawn at each call"
    y = layer(torch.ones(1, 40))
    assert layer.kl() == layer.kl()
    kept = layer.kl().item()
    y.sum().backward()
    layer.kl().backward()
    assert layer.kl().item() != kept
    with torch.no_grad():
        layer(torch.ones(1, 40))
        assert not layer.kl().requires_grad
    assert layer.kl().requires_grad


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("ask", [BayesianLinear.kl, kl_divergence])
def test_kl_may_be_changed_in_place(ask, forward):
    """It is the caller's: the layer's next one is right."""
    for change in (
        lambda kl, _: kl.detach().div_(100.0),
        torch.no_grad()(lambda kl, _: kl.div_(100.0)),
        lambda kl, _: kl.div_(100.0),
        lambda kl, more: kl.add_(more).div_(100.0),
    ):
        # One weight, so that there is nothing to add up.
        layer, other = BayesianLinear(3, 4, bias=False), BayesianLinear(4, 2)
        if forward:
            other(layer(torch.randn(5, 3)))
        want = ask(layer).item(), ask(other).item()
        change(ask(layer), ask(other))
        assert (ask(layer).item(), ask(other).item()) == want


def test_data_in_another_tensor_is_noticed():
    layer = BayesianLinear(3, 4)
    layer(torch.randn(5, 3))
    stale = layer.kl().item()
    nn.utils.vector_to_parameters(torch.ones(32), layer.parameters())
    twin = BayesianLinear(3, 4)
    twin.load_state_dict(layer.state_dict())
    assert layer.kl().item() == twin.kl().item() != stale


def test_parameters_can_be_swapped_after_a_forward_pass():
    layer, other = BayesianLinear(3, 4), BayesianLinear(3, 4, rho_init=-2.0)
    layer(torch.randn(5, 3))
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        layer.load_state_dict(other.state_dict())
        layer(torch.randn(5, 3))
        layer.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert layer.kl().item() == other.double().kl().item()


def test_freezing_and_thawing_between_passes():
    model = network(**PRIOR)
    model[3].weight_mu.requires_grad_(False)
    model(X)
    model[3].weight_mu.requires_grad_(True)
    check(kl_divergence(model), model)
    model(X)
    model[3].weight_mu.requires_grad_(False)
    kl_divergence(model).backward()
    assert model[3].weight_mu.grad is None
    model[3].requires_grad_(False)
    model[0].requires_grad_(False)
    model(X)
    assert not kl_divergence(model).requires_grad


def test_without_gradients():
    model = network(**PRIOR)
    with torch.no_grad():
        model(X)
        kl = kl_divergence(model)
    assert not kl.requires_grad
    torch.testing.assert_close(kl.double(), wanted(model)[0], rtol=2e-6, atol=0.0)
    check(kl_divergence(model), model)
    with torch.inference_mode():
        model(X)
        inside = network(**PRIOR)
        inside(X)
        kl = kl_divergence(inside)
        torch.testing.assert_close(kl.double(), wanted_value(inside), rtol=2e-6, atol=0.0)
    check(kl_divergence(model), model)


def wanted_value(model):
    with torch.inference_mode(False):
        plain = network(**PRIOR)
        plain.load_state_dict({n: t.clone() for n, t in model.state_dict().items()})
        return wanted(plain)[0]


def test_a_kept_graph_gives_its_gradient_again():
    model = network(**PRIOR)
    loss = nll(model(X)) + kl_divergence(model)
    loss.backward(retain_graph=True)
    once = gradients(model)
    loss.backward()
    close(gradients(model), once)
    check(kl_divergence(model), model)


@pytest.mark.parametrize("options", [PRIOR, {"mixture": MIXTURE}])
def test_copies_after_a_forward_pass(options):
    model = network(**options)
    loss = nll(model(X)) + kl_divergence(model)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model[3])]
    loss.backward()
    for other in copies:
        kl_divergence(other).backward()
        assert all(p.grad is not None for p in other.parameters())
    if "prior_std" in options:
        check(kl_divergence(copies[0]), model=copies[0])
    assert copies[0][3].weight_mu is not model[3].weight_mu


def test_threads_do_not_share_a_graph():
    """A layer in two threads: each one's KL goes with its own forward pass, or stands alone."""
    model = network(**PRIOR)
    drawn, asked = threading.Barrier(2, timeout=30), threading.Barrier(2, timeout=30)
    errors = []

    def work():
        try:
            loss = nll(model(X))
            drawn.wait()
            kl = kl_divergence(model)
            asked.wait()
            grads = torch.autograd.grad(loss + kl, [*model.parameters()])
            assert all(g.isfinite().all() for g in grads)
        except Exception as error:  # a thread's end would hide it
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    check(kl_divergence(model), model)


@pytest.mark.parametrize("reentrant", [True, False])
def test_kl_beside_a_checkpoint(reentrant):
    """Asking for the KL runs no forward pass again, and it can be had after the backward pass."""
    model = network(**PRIOR)
    calls = []
    model[3].register_forward_hook(lambda *_: calls.append(1))
    y = checkpoint(model, X.clone().requires_grad_(), use_reentrant=reentrant)
    kl = kl_divergence(model)
    assert len(calls) == 1
    (nll(y) + kl).backward()
    model.zero_grad()
    check(kl_divergence(model), model)


@pytest.mark.parametrize("local", [False, True])
def test_autocast(local):
    layer = BayesianLinear(6, 4, local_reparameterization=local, **PRIOR)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.ones(2, 6))
        kl = layer.kl()
    assert (y.dtype, kl.dtype) == (torch.bfloat16, torch.float32)
    check(kl, layer)


def test_a_prior_in_half_precision():
    model = network(**PRIOR).half()
    kl = kl_divergence(model)
    assert kl.dtype == torch.float32
    torch.testing.assert_close(kl.double(), wanted(model)[0], rtol=2e-6, atol=0.0)
