"""The host path in C++ against the same in Python: bit for bit, and what it must decline."""

import gc
import sys
import threading

import pytest
import torch
from draw_cases import cotangents
from fake_builds import copying_compiler
from public_cases import EVERY
from test_native_build import PROBE, needs_compiler, run
from torch.utils._python_dispatch import TorchDispatchMode

import fused_reparam
from fused_reparam import gaussian_latent, noise, tanh_normal_rsample
from fused_reparam.backends import _build, native, native_host

native.info()  # loads it
pytestmark = pytest.mark.skipif(
    native_host.module is None, reason=f"the host path is in Python: {native_host.reason}"
)
NAMES = ("FusedGaussianLatentBackward", "FusedDrawBackward")


def made_by_host(t):
    return native_host.spent(t) is not None


def parameters(*shape, **options):
    return [torch.randn(shape, **options).requires_grad_() for _ in range(2)]


def calls(mu, x, **sources):
    """A call of each kind of node: outputs."""
    yield gaussian_latent(mu, x, **sources)
    yield gaussian_latent(mu[:, ::2], x[:, ::2], **sources)  # rows
    yield tanh_normal_rsample(mu, log_std=x, **sources)
    yield fused_reparam.gaussian_rsample(mu, x, num_samples=2, **sources), None


def derivatives(outputs, inputs):
    """First and second, with fixed cotangents."""
    first = torch.autograd.grad(outputs, inputs, cotangents(outputs), create_graph=True)
    parts = [g for g in first if g.requires_grad]
    second = (
        torch.autograd.grad(parts, inputs, cotangents(parts), allow_unused=True) if parts else ()
    )
    return [*first, *second]


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_every_call_is_the_same_in_python(case, dtype, monkeypatch):
    found = []
    for module in (native_host.module, None):
        monkeypatch.setattr(native_host, "module", module)
        params = case.params(dtype=dtype)
        torch.manual_seed(8)
        outputs = case(*params)
        # Of one backward pass, then of one that is itself differentiated.
        grads = torch.autograd.grad(outputs, params, cotangents(outputs), retain_graph=True)
        found.append([*outputs, *grads, *derivatives(outputs, params), torch.get_rng_state()])
    for got, want in zip(*found, strict=True):
        if want is None:
            assert got is None
        else:
            assert got.dtype == want.dtype
            assert got.stride() == want.stride()
            assert torch.equal(got, want)


def test_it_is_taken():
    mu, x = parameters(4, 6)
    taken = [outputs[0] for outputs in calls(mu, x)]
    assert all(map(made_by_host, taken))
    assert {t.grad_fn.name() for t in taken} == set(NAMES)
    key, generator = noise.key(3), torch.Generator().manual_seed(1)
    for sources in ({"key": key}, {"generator": generator}):
        assert all(made_by_host(outputs[0]) for outputs in calls(mu, x, **sources))
    assert made_by_host(fused_reparam.gaussian_kl(mu, x, reduction="sum"))
    moments = torch.randn(3, 8, requires_grad=True)
    assert made_by_host(fused_reparam.gaussian_latent_from_moments(moments)[0])
    assert not any(made_by_host(outputs[0]) for outputs in calls(mu.detach(), x.detach()))


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Own(torch.Tensor):
    pass


def test_it_declines():
    mu, x = parameters(4, 6)
    negative = torch.randn(4, 6, dtype=torch.complex64).conj().imag.requires_grad_()
    assert negative.is_neg()
    for inputs in (
        (mu, negative), (negative, x), (mu, x.double()), (mu, x[:1]), (mu, 0.5), (mu[:0], x[:0]),
        (mu.as_subclass(Own), x),
    ):  # fmt: skip
        assert not made_by_host(gaussian_latent(*inputs)[0])
        assert not made_by_host(tanh_normal_rsample(inputs[0], log_std=inputs[1])[0])
    with Mode():
        assert not any(made_by_host(outputs[0]) for outputs in calls(mu, x))
    with fused_reparam.backend("reference"):
        assert not any(made_by_host(outputs[0]) for outputs in calls(mu, x))
    with fused_reparam.backend("native"):
        assert all(made_by_host(outputs[0]) for outputs in calls(mu, x))
    with torch.no_grad():
        want = gaussian_latent(mu, x, key=noise.key(1))[0]
    got = torch.func.vmap(lambda m, v: gaussian_latent(m, v, key=noise.key(1), reduction="sum")[0])(
        mu[None], x[None]
    )
    torch.testing.assert_close(got[0], want)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(mu.detach(), torch.ones(4, 6))
        for call in (lambda: gaussian_latent(dual, x), lambda: tanh_normal_rsample(dual, std=x)):
            with pytest.raises((RuntimeError, NotImplementedError), match="forward"):
                call()


def test_errors_are_those_of_python(monkeypatch):
    mu, x = parameters(4, 6)
    wrong = [
        lambda: gaussian_latent(mu, x, key=torch.zeros(2)),
        lambda: gaussian_latent(mu, x, key=torch.zeros(3, dtype=torch.uint64)),
        lambda: gaussian_latent(mu, x, generator=3),
        lambda: gaussian_latent(mu, "1"),
        lambda: gaussian_latent(mu.int(), x),
        lambda: gaussian_latent(mu, x, reduction="avg"),
        lambda: tanh_normal_rsample(mu, log_std=x[:, :5]),
        lambda: tanh_normal_rsample(None, std=x),
    ]
    for call in wrong:
        said = []
        for module in (native_host.module, None):
            monkeypatch.setattr(native_host, "module", module)
            with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
                call()
            said.append((error.type, str(error.value)))
            monkeypatch.undo()
        assert said[0] == said[1]


def test_a_graph_can_be_used_again_unless_it_was_freed():
    mu, x = parameters(4, 6)
    for z, other in calls(mu, x):
        loss = z.square().sum() + (0.0 if other is None else other.sum())
        first = torch.autograd.grad(loss, (mu, x), retain_graph=True)
        assert native_host.spent(z) is False
        for got, want in zip(torch.autograd.grad(loss, (mu, x)), first, strict=True):
            assert torch.equal(got, want)
        assert native_host.spent(z) is True
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(loss, (mu, x))
    assert native_host.spent(mu + 1) is None


def test_an_input_changed_in_place_is_noticed():
    mu, x = parameters(4, 6)
    for outputs in calls(mu, x):
        with torch.no_grad():
            x.add_(1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            outputs[0].sum().backward()


def test_only_what_is_asked_for():
    mu, x = parameters(4, 6)
    for z, other in calls(mu, x):
        outputs = (z,) if other is None else (z, other)
        grads = cotangents(outputs)
        both = torch.autograd.grad(outputs, (mu, x), grads, retain_graph=True)
        for one, want in zip((mu, x), both, strict=True):
            (got,) = torch.autograd.grad(outputs, one, grads, retain_graph=True)
            assert torch.equal(got, want)
        for output, grad in zip(outputs, grads, strict=True):
            alone = torch.autograd.grad(output, (mu, x), grad, retain_graph=True)
            assert all(g.isfinite().all() for g in alone)
        (zero,) = torch.autograd.grad(z.sum() * 0.0, mu, retain_graph=True)
        assert not zero.any()


@pytest.mark.parametrize("change", [torch.Tensor.double, torch.Tensor.half, torch.Tensor.t])
def test_hooks_on_saved_tensors(change):
    """A tensor that comes back as another still gives the gradient of the one that was saved."""
    mu, x = parameters(6, 6)

    def back(t):
        return (
            t if t.dim() != 2 else change(t) if change != torch.Tensor.t else t.t().contiguous().t()
        )

    for i in range(4):
        found = []
        for unpack in (lambda t: t, back):
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
                z, other = [*calls(mu, x, key=noise.key(5))][i]
                loss = z.sum() + (0.0 if other is None else other.sum())
                found.append(torch.autograd.grad(loss, (mu, x)))
        for got, want in zip(*found, strict=True):
            assert got.dtype == torch.float32
            tolerance = 5e-2 if change == torch.Tensor.half else 1e-5
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def test_an_error_in_a_backward_pass_through_python_is_raised(monkeypatch):
    mu, x = parameters(4, 6)

    def fail(*_):
        raise ValueError("not today")

    for outputs in calls(mu, x):
        # General: the backward pass is itself differentiated.
        monkeypatch.setattr(native_host.select, "load", fail)
        with pytest.raises(ValueError, match="not today"):
            torch.autograd.grad(outputs[0].sum(), (mu, x), create_graph=True)
        monkeypatch.undo()


def test_gradients_given_by_hand_are_checked():
    mu, x = parameters(4, 6)
    for outputs in (*calls(mu, x), (fused_reparam.gumbel_softmax(mu),)):
        others = [None if o is None else torch.ones_like(o) for o in outputs[1:]]
        for wrong in (torch.ones(1), torch.ones_like(outputs[0]).half()):
            with pytest.raises(RuntimeError, match="gradient 0 does not have"):
                outputs[0].grad_fn(wrong, *(g for g in others if g is not None))


@torch._dynamo.config.patch(compiled_autograd=True)
def test_compiled_autograd():
    """Its tracer runs through the node, with tensors that are not real."""

    @torch.compile(backend="aot_eager")
    def backward(loss):
        loss.backward()

    for i in (0, 2):
        mu, x = parameters(4, 6)
        z, other = [*calls(mu, x, key=noise.key(5))][i]
        assert made_by_host(z)
        backward((z * z).sum() + other.sum())  # the gradient of z is a sum
        z, other = [*calls(mu, x, key=noise.key(5))][i]
        want = torch.autograd.grad((z * z).sum() + other.sum(), (mu, x))
        torch.testing.assert_close((mu.grad, x.grad), want)


def test_threads_share_a_graph():
    mu, x = parameters(64, 65)
    for z, _ in calls(mu, x, key=noise.key(5)):
        want = torch.autograd.grad(z.sum(), (mu, x), retain_graph=True)
        found, wrong = [], []

        def work(z=z, want=want, found=found, wrong=wrong):
            for many in (False, True) * 10:
                got = torch.autograd.grad(z.sum(), (mu, x), retain_graph=True, create_graph=many)
                same = all(torch.allclose(g, w, 1e-5, 1e-5) for g, w in zip(got, want, strict=True))
                (found if same else wrong).append(1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(found), wrong) == (80, [])


def test_nothing_is_left_behind():
    """References to what a call was given, and the tensors that a graph held, are given back."""
    mu, x = parameters(4, 6)
    key = noise.key(5)

    def count():
        gc.collect()
        return [sys.getrefcount(t) for t in (mu, x, key)], len(gc.get_objects())

    def several():
        for _ in range(50):
            for outputs in calls(mu, x, key=key):
                outputs[0].sum().backward()
            for outputs in calls(mu, x):
                torch.autograd.grad(outputs[0].sum(), (mu, x), create_graph=True)
        mu.grad = x.grad = None

    several()
    before = count()
    several()
    after = count()
    assert after[0] == before[0]
    assert after[1] - before[1] < 50


@pytest.mark.slow  # where the library is not part of the installation, it is built
def test_it_can_be_turned_off(tmp_path):
    code = "from fused_reparam.backends import native; print(native.info()['host path'])"
    out, _ = run(code, tmp_path, FUSED_REPARAM_NO_HOST="1").communicate(timeout=100)
    assert out.strip() == "Python: FUSED_REPARAM_NO_HOST is set"


@pytest.mark.slow
@needs_compiler
def test_what_can_not_be_compiled_is_tried_once(tmp_path):
    """The library without its extension: it computes, says why, and does not try at each start."""
    run(PROBE, tmp_path, CXX=copying_compiler(tmp_path)).communicate(timeout=100)
    next(tmp_path.rglob(_build.host_name())).unlink()
    code = (
        PROBE + "; import fused_reparam; m = torch.zeros(2, 3); l = torch.zeros(2, 3);"
        "print(fused_reparam.gaussian_latent(m, l)[1].item())"
    )
    for building in (1, 0):
        out, err = run(code, tmp_path, CXX="false").communicate(timeout=100)
        assert out.splitlines()[0] == "None", err
        assert "Python: the native library could not be built: false said" in out
        assert out.splitlines()[-1] == "0.0"
        assert err.count("building the native library's host path") == building
