"""The ops in C++ against their kernels in Python: bit for bit, what they serve, their graph."""

import gc
import sys
import threading
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fused_reparam as fr
from fused_reparam import noise
from fused_reparam.backends import cpu, dispatch
from fused_reparam.backends.cpu import build, extension
from tests.helpers.elementwise_cases import cotangents
from tests.helpers.fake_builds import PROBE, copying_compiler, needs_compiler
from tests.helpers.fake_builds import start as run
from tests.helpers.loops import where
from tests.helpers.public_cases import COMPOSED, EVERY
from tests.helpers.python_kernels import python_kernels

cpu.info()  # loads it
pytestmark = pytest.mark.skipif(
    extension.module is None,
    reason=f"the extension is not at hand: {extension.reason}",
)
KEY = noise.key(5)
# The results of two parameters, or of the first one as logits.
CALLS = {
    "latent": lambda a, b, **o: fr.gaussian_latent(a, b, **o),
    "strided": lambda a, b, **o: fr.gaussian_latent(a[:, ::2], b[:, ::2], **o),
    "transposed": lambda a, b, **o: fr.gaussian_latent(a.mT, b.mT, reduction="sample", **o),
    "one row": lambda a, b, **o: fr.gaussian_latent(a, log_std=b[:1], reduction="none", **o),
    "number": lambda a, _, **o: fr.gaussian_latent(a, std=0.5, **o),
    "prior": lambda a, b, **o: fr.gaussian_latent(a, b, prior=(a, {"log_std": b}), **o),
    "log_prob": lambda a, b, **o: fr.tanh_normal_rsample(a, log_std=b, **o),
    "samples": lambda a, b, **o: (fr.gaussian_rsample(a, b, num_samples=2, **o),),
    "soft": lambda a, _, **o: (fr.gumbel_softmax(a, 0.7, **o),),
    "hard": lambda a, _, **o: (fr.gumbel_softmax(a, 0.7, hard=True, **o),),
    "one-hot": lambda a, _, **o: (fr.one_hot_categorical(a, 0.1, **o),),
    "soft, kl": lambda a, _, **o: fr.categorical_latent(a.mT, 0.7, dim=0, reduction="none", **o),
    "hard, kl": lambda a, _, **o: fr.categorical_latent(a[:, ::2], 2, True, **o),
}
EACH = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
NODES = {"FusedElementwiseBackward", "FusedGumbelSoftmaxBackward"}


def in_cpp(t):
    # Samples of more than one dim are a view of the op's.
    op = t._base if t.grad_fn is not None and t.grad_fn.name() == "ViewBackward0" else t
    return extension.spent(op) is not None


def parameters(*shape):
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(shape or (4, 6), generator=generator).requires_grad_() for _ in range(2)]


def gradients(outputs, inputs, grads=None, **options):
    grads = cotangents(outputs) if grads is None else grads
    return torch.autograd.grad(outputs, inputs, grads, materialize_grads=True, **options)


def both(outputs, inputs):
    """First and second derivatives, with fixed cotangents."""
    first = gradients(outputs, inputs, create_graph=True)
    parts = [g for g in first if g.requires_grad]
    return [*first, *(gradients(parts, inputs) if parts else ())]


@EVERY
def test_every_call_is_the_same_in_python(case):
    if case.function in COMPOSED:
        pytest.skip("no op of the package")
    for dtype in [torch.float32, torch.float64, torch.float16, torch.bfloat16]:
        with where(dtype):

            def results():
                params = case.params(dtype=dtype)
                torch.manual_seed(8)
                outputs = case(*params)
                # Of one backward pass, then of one that is itself differentiated.
                once = gradients(outputs, params, retain_graph=True)
                return [*outputs, *once, *both(outputs, params), torch.get_rng_state()], outputs

            got, outputs = results()
            # But where PyTorch's operators finish what it began.
            assert all(in_cpp(o) for o in outputs if o.grad_fn.name() in NODES)
            with python_kernels():
                want, outputs = results()
                assert not any(map(in_cpp, outputs))
            for a, b in zip(got, want, strict=True):
                assert (a.dtype, a.stride()) == (b.dtype, b.stride())
                assert torch.equal(a, b)


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Own(torch.Tensor):
    pass


@EACH
def test_what_it_serves(call):
    a, b = parameters()
    for sources in ({}, {"key": KEY}, {"generator": torch.Generator()}):
        outputs = call(a, b, **sources)
        assert all(map(in_cpp, outputs))
        assert {t.grad_fn.name() for t in outputs} <= NODES
    with fr.backend("native"):
        assert all(map(in_cpp, call(a, b)))
    assert not any(t.requires_grad for t in call(a.detach(), b.detach()))
    with torch.no_grad():
        assert not any(t.requires_grad for t in call(a, b))
    with torch.inference_mode():
        assert all(t.is_inference() for t in call(a, b))


@EACH
def test_what_it_leaves_to_python(call):
    a, b = parameters()
    negative = torch.randn(4, 6, dtype=torch.complex64).conj().imag.requires_grad_()
    assert negative.is_neg()
    for inputs in ((negative, b), (a[:0], b[:0]), (a.as_subclass(Own), b)):
        assert not any(map(in_cpp, call(*inputs)))
    with Mode():
        assert not any(map(in_cpp, call(a, b)))
    with fr.backend("reference"):
        assert not any(map(in_cpp, call(a, b)))
    want = call(a.detach(), b.detach(), key=KEY)
    got = torch.func.vmap(lambda a, b: call(a, b, key=KEY))(a.detach()[None], b.detach()[None])
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g[0], w)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(a.detach(), torch.ones(4, 6))
        outputs = call(dual, b)
        assert not any(map(in_cpp, outputs))
        for o in outputs:
            assert torch.autograd.forward_ad.unpack_dual(o).tangent is not None


@EACH
def test_a_graph_can_be_used_again_unless_it_was_freed(call):
    inputs = parameters()
    outputs = call(*inputs)
    first = gradients(outputs, inputs, retain_graph=True)
    assert extension.spent(outputs[0]) is False
    for got, want in zip(gradients(outputs, inputs), first, strict=True):
        assert torch.equal(got, want)
    assert extension.spent(outputs[0]) is True
    with pytest.raises(RuntimeError, match="second time"):
        gradients(outputs, inputs)
    assert extension.spent(inputs[0] + 1) is None


@pytest.mark.parametrize("name", ["latent", "samples", "log_prob", "soft", "one-hot"])
def test_what_is_changed_in_place_is_noticed(name):
    """Of y, where the gradient reads it; of the inputs, where it reads those."""
    a, b = parameters()
    y = CALLS[name](a, b)[0]
    with torch.no_grad():
        (y if name == "soft" else a if name == "one-hot" else b).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_hard_y_may_be_changed():
    a, b = parameters()
    (y,) = CALLS["hard"](a, b)
    y.data.mul_(2)  # the gradient reads the soft values
    y.sum().backward()


@EACH
def test_only_what_is_asked_for(call):
    inputs = parameters()
    outputs = call(*inputs)
    grads = cotangents(outputs)
    want = gradients(outputs, inputs, grads, retain_graph=True)
    for one, right in zip(inputs, want, strict=True):
        (got,) = gradients(outputs, [one], grads, retain_graph=True, allow_unused=True)
        assert torch.equal(got, right)
    parts = [
        gradients([o], inputs, [g], retain_graph=True) for o, g in zip(outputs, grads, strict=True)
    ]
    for i, right in enumerate(want):
        torch.testing.assert_close(sum(part[i] for part in parts), right, rtol=1e-5, atol=1e-6)
    zeros = [torch.zeros_like(o) for o in outputs]
    assert not any(g.any() for g in gradients(outputs, inputs, zeros))


@EACH
def test_hooks_on_saved_tensors(call):
    """A tensor that comes back as another still gives the gradient of the one that was saved."""
    for change, tolerance in [
        (torch.Tensor.double, 1e-5),
        (torch.Tensor.half, 5e-2),
        (lambda t: t.t().contiguous().t(), 1e-5),
    ]:
        with where(change, tolerance):
            found = []
            for unpack in (lambda t: t, lambda t: change(t) if t.dim() == 2 else t):
                with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
                    inputs = parameters(6, 6)
                    found.append(gradients(call(*inputs, key=KEY), inputs))
            for got, want in zip(*found, strict=True):
                assert got.dtype == torch.float32
                torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@EACH
def test_an_error_in_a_backward_pass_through_python_is_raised(monkeypatch, call):
    def fail(*_):
        raise ValueError("not today")

    inputs = parameters()
    outputs = call(*inputs)
    monkeypatch.setattr(dispatch, "load", fail)
    with pytest.raises(ValueError, match="not today"):  # itself to be differentiated
        gradients(outputs, inputs, create_graph=True)


@pytest.mark.parametrize("name", CALLS)
def test_gradients_given_by_hand_are_checked(name):
    y, *others = CALLS[name](*parameters())
    others = [torch.ones_like(o) for o in others]
    if name.startswith("hard"):  # whose soft values are an output too
        others.insert(0, None)
    for wrong in (torch.ones(1), torch.ones_like(y).half(), torch.ones_like(y, device="meta")):
        with pytest.raises(RuntimeError, match="gradient 0 does not have"):
            y.grad_fn(wrong, *others)


@torch._dynamo.config.patch(compiled_autograd=True)
def test_compiled_autograd_tells_memory_orders_apart():
    """The noise goes by memory order, which shapes do not show."""

    @torch.compile(backend="eager")
    def backward(loss):
        loss.backward()

    for order in (torch.contiguous_format, torch.channels_last):
        mu, x = (torch.randn(2, 3, 4, 5).to(memory_format=order).requires_grad_() for _ in range(2))
        z, kl = fr.gaussian_latent(mu, x, key=KEY)
        backward((z * z).sum() + kl)
        z, kl = fr.gaussian_latent(mu, x, key=KEY)
        want = torch.autograd.grad((z * z).sum() + kl, (mu, x))
        torch.testing.assert_close((mu.grad, x.grad), want)


@torch._dynamo.config.patch(compiled_autograd=True)
@pytest.mark.parametrize("name", ["latent", "log_prob", "soft", "hard, kl"])
def test_compiled_autograd(name):
    """Its tracer runs through the node, with tensors that are not real."""

    @torch.compile(backend="aot_eager")
    def backward(loss):
        loss.backward()

    inputs = parameters()
    loss = sum((t * t).sum() for t in CALLS[name](*inputs, key=KEY))  # gradients are sums
    want = gradients([loss], inputs, [torch.ones_like(loss)], retain_graph=True)
    backward(loss)
    for t, w in zip(inputs, want, strict=True):
        torch.testing.assert_close(torch.zeros_like(t) if t.grad is None else t.grad, w)


@EACH
def test_threads_share_a_graph(call):
    inputs = parameters(64, 65)
    outputs = call(*inputs, key=KEY)
    want = gradients(outputs, inputs, retain_graph=True)
    found = []

    def work():
        for many in (False, True) * 10:
            got = gradients(outputs, inputs, retain_graph=True, create_graph=many)
            found.append(all(torch.allclose(*p, 1e-4, 1e-5) for p in zip(got, want, strict=True)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80


def test_nothing_is_left_behind():
    """References to what a call was given, and the tensors that a graph held, are given back."""
    inputs = parameters()

    def count():
        gc.collect()
        return [sys.getrefcount(t) for t in (*inputs, KEY)], len(gc.get_objects())

    def several():
        for _ in range(20):
            for call in CALLS.values():
                gradients(call(*inputs, key=KEY), inputs)
                gradients(call(*inputs), inputs, create_graph=True)

    several()
    before = count()
    several()
    after = count()
    assert after[0] == before[0]
    assert after[1] - before[1] < 50


@EACH
def test_nothing_holds_itself(call):
    """A node may keep outputs of its own: they must not keep the node."""
    gc.disable()  # which would find such a circle where Python takes part in it
    try:
        a, b = parameters()
        outputs = call(a, b)
        gone = weakref.ref(a)
        del a
        assert gone() is not None  # the graph holds it
        del outputs
        assert gone() is None
    finally:
        gc.enable()


def test_it_can_be_turned_off(tmp_path):
    code = "from fused_reparam.backends import cpu; print(cpu.info()['extension'])"
    settings = {"CXX": copying_compiler(tmp_path), "FUSED_REPARAM_NO_EXTENSION": "1"}
    out, _ = run(code, tmp_path, **settings).communicate(timeout=100)
    assert out.strip() == "Python: FUSED_REPARAM_NO_EXTENSION is set"


@pytest.mark.slow
@needs_compiler
def test_what_can_not_be_compiled_is_tried_once(tmp_path):
    """The library without its extension: it computes, says why, and does not try at each start."""
    run(PROBE, tmp_path, CXX=copying_compiler(tmp_path)).communicate(timeout=100)
    next(tmp_path.rglob(build.extension_name())).unlink()
    code = (
        PROBE + "; import fused_reparam; m = torch.zeros(2, 3); l = torch.zeros(2, 3);"
        "print(fused_reparam.gaussian_latent(m, l)[1].item())"
    )
    for building in (1, 0):
        out, err = run(code, tmp_path, CXX="false").communicate(timeout=100)
        assert out.splitlines()[0] == "None", err
        assert "Python: the native library could not be built: false said" in out
        assert out.splitlines()[-1] == "0.0"
        assert err.count("building the native extension") == building
