"""Keys of CUDA tensors: derived from the generator's state, and passed to kernels by value.

Without a GPU, generators are stand-ins and kernels run in Triton's interpreter.
"""

from __future__ import annotations

import contextlib

import pytest
import torch

import fused_reparam
from fused_reparam import gaussian_latent, gaussian_rsample, noise
from fused_reparam.backends import triton as backend
from fused_reparam.functional import sources
from fused_reparam.ops import elementwise
from fused_reparam.ops.differentiable import DifferentiableOp
from fused_reparam.ops.library import facts_of
from fused_reparam.rng import cuda as cuda_keys
from fused_reparam.rng import keys as rng_keys
from tests.helpers import gaussian_calls as gaussian
from tests.helpers.cuda_generators import CUDA, NewGenerator, OldGenerator, equal, host_key
from tests.helpers.machine_code import run as compiled
from tests.helpers.triton_truth import DEVICE, make_key, needs_backend, scale_values, signed, values

INF = float("inf")
TWO64 = 1 << 64


@pytest.fixture
def capturing(monkeypatch):
    """Sets whether a graph is being captured; it is not."""

    def set_to(now: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: now)

    set_to(False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return set_to


# --- the key that a generator's state gives ------------------------------------------------------


def test_derived_seed_by_hand():
    assert noise.derived_seed(0, 0) == 11400714819323198485  # 2^64 over the golden ratio
    assert noise.derived_seed(0, 4) == 5 * 11400714819323198485 - 3 * TWO64 == 1663341875487337577
    assert noise.derived_seed(TWO64 - 1, 0) == 11400714819323198484
    assert noise.derived_seed(7, TWO64 - 4) == (7 - 3 * 11400714819323198485) % TWO64
    # As a generator gives its state in int64.
    assert noise.derived_seed(-1, -4) == noise.derived_seed(TWO64 - 1, TWO64 - 4)


def test_no_key_of_a_generator_comes_twice_or_is_its_own():
    for seed in (0, 1, 2**63 + 5, TWO64 - 1):
        found = {noise.derived_seed(seed, 4 * k) for k in range(20_000)}
        assert len(found) == 20_000
        assert seed not in found


def test_noise_of_neighbouring_keys_is_independent():
    n, keys = 4096, 64
    drawn = torch.stack([noise.normal(host_key(42, 4 * k), n).double() for k in range(keys)])
    correlation = torch.corrcoef(drawn)
    apart = correlation[~torch.eye(keys, dtype=torch.bool)]
    # 2016 pairs: five deviations of 1 / sqrt(n) are exceeded with a chance of 1e-3.
    assert apart.abs().max() < 5 / n**0.5
    assert (drawn.mean(1).abs() < 5 / n**0.5).all()


@pytest.mark.parametrize("kind", [OldGenerator, NewGenerator])
def test_draws_from_the_generators_state(kind, capturing):
    seed, offset = 2**63 + 17, TWO64 - 8
    generator = kind(seed, offset)
    for at in (offset, TWO64 - 4, 0, 4):
        assert generator.offset == at
        key = rng_keys.draw_bits(CUDA, generator)
        assert (key.device.type, key.dtype, key.shape) == ("cpu", torch.int64, (2,))
        assert key.tolist() == [signed(noise.derived_seed(seed, at)), 0]
    assert generator.offset == 8


def test_a_graph_draws_from_no_generator_of_the_cpu(capturing):
    """Its replays would repeat the numbers."""
    generator = torch.Generator()
    assert rng_keys.drawn_on(CUDA, generator).type == "cpu"
    before = generator.get_state()
    capturing(True)
    for call in (rng_keys.drawn_on, rng_keys.draw_bits, rng_keys.draw_key):
        with pytest.raises(RuntimeError, match="same from a generator of the CPU in each replay"):
            call(CUDA, generator)
    assert torch.equal(generator.get_state(), before)
    rng_keys.draw_key("cpu", generator)


def test_both_ways_give_the_same_keys(capturing):
    old, new = OldGenerator(5), NewGenerator(5)
    for _ in range(3):
        assert torch.equal(rng_keys.draw_bits(CUDA, old), rng_keys.draw_bits(CUDA, new))


def test_the_default_generator_is_the_devices(capturing, monkeypatch):
    generators = (OldGenerator(1), OldGenerator(2))
    generators[1].device = torch.device("cuda", 1)
    asked = []

    @contextlib.contextmanager
    def on(device):
        asked.append(device)
        yield

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    for name, which in (("cuda:0", 0), ("cuda:1", 1), ("cuda", 1)):
        before = generators[which].offset
        key = rng_keys.draw_bits(torch.device(name), None)
        assert key.tolist() == [signed(noise.derived_seed(which + 1, before)), 0]
        assert generators[which].offset == before + 4
    assert asked == [CUDA]  # whether a graph is captured: on the key's device, not the current one


def test_randint_draws_where_a_state_on_the_host_will_not_do(capturing, monkeypatch):
    drawn = []

    def randint(high, size, device, generator):
        drawn.append(device)
        return torch.zeros(size, dtype=torch.int64)

    monkeypatch.setattr(torch, "randint", randint)
    monkeypatch.setattr(
        cuda_keys, "_capturing_reservation", lambda generator: None
    )  # an old PyTorch
    generator = OldGenerator(1)
    capturing(True)
    rng_keys.draw_bits(CUDA, generator)
    rng_keys.Fresh(generator).draw_for(backend, CUDA)
    capturing(False)
    with pytest.raises(ValueError, match="generator must be on cuda:1, got one on cuda:0"):
        rng_keys.draw_bits(torch.device("cuda", 1), generator)
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    with Mode():
        rng_keys.draw_bits(CUDA, generator)

    def mapped(x):
        rng_keys.draw_bits(CUDA, generator)
        return x

    torch.func.vmap(mapped, randomness="same")(torch.zeros(2))
    assert drawn == [CUDA, CUDA, CUDA, CUDA]
    assert generator.offset == 0
    rng_keys.draw_bits(CUDA, generator)
    assert generator.offset == 4
    assert len(drawn) == 4


# --- kernels -------------------------------------------------------------------------------------


def run(key, n=1283, backward_key=None):
    """z, KL and gradients of one call, as bits."""
    loc = values(n, torch.float32, 1).to(DEVICE)
    scale = scale_values("logvar", n, torch.float32).to(DEVICE)
    z, to_loc, to_scale = (torch.full_like(loc, INF) for _ in range(3))
    kl = torch.full((1,), INF, device=DEVICE)
    gaussian.forward(backend, loc, scale, key, None, 0, -INF, INF, 1.0, True, z, kl)
    gaussian.backward(
        backend,
        z, kl, loc, scale, key if backward_key is None else backward_key, None,
        0, -INF, INF, 1.0, True, to_loc, to_scale,
    )  # fmt: skip
    return z, kl, to_loc, to_scale


SEEDS = [(0, 0), (3, 2**32 - 3), (2**31 + 1, 2**32 + 9), (2**63 + 11, TWO64 - 5)]


@pytest.fixture
def loaded(monkeypatch):
    """A function: passes a host key as if it lay on the device."""
    from fused_reparam.backends.triton import gaussian

    def call(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(gaussian, "_key", lambda key: gaussian._loaded(key.to(DEVICE)))
            return function(*arguments)

    return call


@needs_backend
@pytest.mark.parametrize(("seed", "offset"), SEEDS)
def test_a_key_by_value_gives_the_bits_of_a_loaded_one(seed, offset, loaded):
    key = noise.key(seed, offset)
    by_value = run(key)
    assert equal(by_value, run(key.view(torch.int64)))
    assert equal(by_value, loaded(run, key))
    out, other = (torch.full((1003,), INF, device=DEVICE) for _ in range(2))
    backend.normal(key, out)
    loaded(backend.normal, key, other)
    assert torch.equal(out, other)
    want = noise.normal(key, 1003)
    assert (out.cpu() - want).abs().max() <= 4e-6


@needs_backend
@pytest.mark.parametrize(("seed", "offset"), [(5, 0), (2**63 + 17, 2**33 + 4), (1, TWO64 - 8)])
@pytest.mark.parametrize("intragraph", [0, 4, 2**31 + 8])
def test_a_key_from_a_graphs_state_gives_the_bits_of_the_host_key(seed, offset, intragraph):
    state = [torch.tensor([signed(v)], device=DEVICE) for v in (seed, offset)]
    bits = torch.full((2,), -1, device=DEVICE)
    graph_key = noise.GraphKey(*state, intragraph, bits)
    want = host_key(seed, (offset + intragraph) % TWO64)
    assert equal(run(graph_key, backward_key=bits), run(want))
    assert bits.tolist() == want.view(torch.int64).tolist()


@needs_backend
def test_each_replay_reads_the_state_anew():
    """What a graph does: the same launches again, after the generator's state was written."""
    state = [torch.tensor([5], device=DEVICE), torch.tensor([0], device=DEVICE)]
    bits = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    graph_key = noise.GraphKey(*state, 4, bits)
    runs = []
    for offset in (0, 8, 16):
        state[1].fill_(offset)
        runs.append(run(graph_key, backward_key=bits))
        assert equal(runs[-1], run(host_key(5, offset + 4)))
    assert not torch.equal(runs[0][0], runs[1][0])
    assert not torch.equal(runs[1][0], runs[2][0])


# --- the whole way, with the host's path forced ---------------------------------------------------


@pytest.fixture
def forced(capturing, monkeypatch):
    """Draw keys of any device from a stand-in generator, which is returned.

    A call of tensors on the CPU takes the way of those that are not.
    """
    generator = NewGenerator(2**63 + 3)
    monkeypatch.setattr(cuda_keys, "_cuda_generator", lambda device, own: own or generator)
    monkeypatch.setattr(sources, "_drawn_key", lambda like, own: rng_keys.Fresh(own))
    monkeypatch.setattr(
        DifferentiableOp, "__call__", lambda op, *call: op._directly(*call, facts_of(call[0]))
    )
    with fused_reparam.backend("triton"):
        yield generator


def step(**options):
    mu, logvar = (
        torch.linspace(-1, 1, 60, device=DEVICE).view(3, 20).clone().requires_grad_()
        for _ in range(2)
    )
    z, kl = gaussian_latent(mu, logvar, **options)
    return z.detach(), kl.detach(), *torch.autograd.grad((z * z).sum() + kl.sum(), (mu, logvar))


@needs_backend
@pytest.mark.parametrize("reduction", ["batchmean", "sample"])
def test_latent_with_a_key_on_the_host(forced, reduction):
    for at in (0, 4, 8):
        got = step(reduction=reduction)
        assert forced.offset == at + 4
        key = host_key(forced.seed, at)
        assert equal(got, step(reduction=reduction, key=key))
        assert equal(got, step(reduction=reduction, key=key.to(DEVICE)))


@needs_backend
def test_own_generator_returned_noise_and_double_backward(forced):
    own = OldGenerator(9, 40)
    mu = torch.zeros(7, device=DEVICE, dtype=torch.float64, requires_grad=True)
    z, eps = gaussian_rsample(mu, mu, generator=own, return_eps=True)
    assert (own.offset, forced.offset) == (44, 0)
    want = noise.normal(host_key(9, 40), 7, dtype=torch.float64).to(DEVICE)
    torch.testing.assert_close(eps, want, rtol=0, atol=1e-13)
    (first,) = torch.autograd.grad(z.sum(), mu, create_graph=True)
    torch.testing.assert_close(first, 1 + 0.5 * want, rtol=0, atol=1e-12)
    (second,) = torch.autograd.grad(first.sum(), mu)
    torch.testing.assert_close(second, 0.25 * want, rtol=0, atol=1e-12)


@needs_backend
def test_a_captured_step_takes_its_key_from_the_graph(forced, capturing):
    """Forward and backward are all the kernels: the forward pass derives the key and keeps it."""
    forced.graph = (torch.tensor([3], device=DEVICE), torch.tensor([80], device=DEVICE))
    capturing(True)
    first, second = step(), step()
    capturing(False)
    forced.graph = None
    assert forced.reserved == 8
    assert equal(first, step(key=host_key(3, 80)))
    assert equal(second, step(key=host_key(3, 84)))


@needs_backend
def test_public_draw_is_on_the_device(forced):
    key = noise.draw_key(DEVICE)
    assert (key.device, key.dtype) == (DEVICE, torch.uint64)
    assert key.view(torch.int64).tolist() == [signed(noise.derived_seed(forced.seed, 0)), 0]


def test_ops_take_a_key_on_the_cpu_and_no_other_device():
    mu, key = torch.zeros(3), make_key(1).cpu().to("meta")
    spec = elementwise.Spec(None, "laplace", 0, 0, [], 0, True, None)
    with pytest.raises(ValueError, match="key must be on cpu or the CPU, got meta"):
        torch.ops.fused_reparam.elementwise(mu, mu, None, None, key, None, *spec)


def test_reference_moves_a_key_to_the_operands():
    """The meta device computes nothing, and refuses operands of two devices."""
    from fused_reparam.backends import reference

    mu = torch.empty(8, device="meta")
    reference.normal(noise.key(1), mu)
    gaussian.forward(reference, mu, mu, noise.key(1), None, 0, -INF, INF, 1.0, True, mu, None)


def test_every_kind_of_key_compiles():
    pytest.importorskip("triton")
    code = (
        "from tests.helpers import aot\n"
        "for name in ('forward', 'backward', 'normal'):\n"
        "    for mode in (1, 2) if name == 'forward' else (1,):\n"
        "        aot.kernel(name, 'float32', 'sm_90', Q=256, KEY=mode)\n"
        "print('compiled')\n"
    )
    assert compiled("-c", code).strip().endswith("compiled")


@needs_backend
def test_a_parameter_of_a_subclass_beside_a_plain_one(capturing, monkeypatch):
    class Own(torch.Tensor):
        pass

    generator = NewGenerator(3)
    monkeypatch.setattr(cuda_keys, "_cuda_generator", lambda device, own: own or generator)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False, raising=False)  # as of a device's tensors
    mu = torch.zeros(3, 4, requires_grad=True)
    logvar = torch.zeros(3, 4).as_subclass(Own).requires_grad_()
    with fused_reparam.backend("triton"):
        z, kl = gaussian_latent(mu, logvar)
        (z.sum() + kl).backward()
    assert type(z) is Own
    assert torch.equal(mu.grad, torch.ones(3, 4))
    found, eps = (t.detach().as_subclass(torch.Tensor) for t in (logvar.grad, z))
    torch.testing.assert_close(found, 0.5 * eps)
