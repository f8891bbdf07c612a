"""The Gumbel-softmax under torch.compile, opcheck and functorch transforms.

test_public_compile.py has what holds of every function: the same numbers, keys, no recompilation.
"""

import pytest
import torch
from torch.func import grad, jacrev, vmap
from torch.library import opcheck

from fused_reparam import categorical_latent, gumbel_softmax, noise
from fused_reparam.core.reductions import REDUCTIONS
from fused_reparam.families.categorical import HARD, ONE_HOT, SOFT
from fused_reparam.ops.softmax_call import Spec
from tests.helpers.elementwise_cases import cotangents
from tests.helpers.softmax_cases import (
    CASES,
    composition,
    gradient,
    logits_of,
    noise_of,
    own_noise,
    run,
)

OPS = torch.ops.fused_reparam
CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SPECS = {
    "soft": Spec([], SOFT, 0.7, 0.0, 1, True, False, "none"),
    "hard": Spec([1, 0, 2], HARD, 0.7, 0.0, 1, True, True, None),
    "unimix": Spec(None, ONE_HOT, 1.0, 0.05, 0, True, False, None),
    "KL alone": Spec([2, 1, 0], SOFT, 1.0, 0.0, 2, False, False, "mean"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_opcheck(name, dtype):
    spec, key = SPECS[name], noise.key(1)
    logits = logits_of((3, 5, 2), dtype)
    opcheck(OPS.gumbel_softmax.default, (logits, key, None, None, *spec))
    given = noise_of((3, 5, 2), dtype)
    opcheck(OPS.gumbel_softmax.default, (logits, None, given, None, *spec))
    y, soft, kl = (t.detach() for t in OPS.gumbel_softmax(logits, key, None, None, *spec))
    grads = [g if g.numel() else None for g in cotangents((y, soft, kl))]
    soft = (y if spec.mode == SOFT else soft) if spec.want_y and spec.mode != ONE_HOT else None
    opcheck(
        OPS.gumbel_softmax_backward.default,
        (*grads, logits.detach(), soft, None, *spec, [True, False]),
    )


def latent(logits, key=None):
    return categorical_latent(logits, 0.7, dim=1, key=key)


def hard(logits, key=None):
    return (gumbel_softmax(logits, 0.7, hard=True, dim=1, key=key),)


def agree(call, compiled, shape):
    """Outputs and gradients; the key's noise is the same in both."""
    key, logits = noise.key(8), logits_of(shape)
    want, got = call(logits, key), compiled(logits, key)
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(b, a)
    assert torch.equal(want[0].argmax(1), got[0].argmax(1))
    grads = cotangents(want)
    found = [torch.autograd.grad(outputs, logits, grads)[0] for outputs in (got, want)]
    torch.testing.assert_close(*found)


@pytest.mark.slow
def test_compiled_equals_eager_for_a_key():
    torch._dynamo.reset()

    def call(logits, key):
        return *latent(logits, key), *hard(logits, key)

    agree(call, torch.compile(call, fullgraph=True), (4, 6, 10))


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("name", ["soft", "hard", "unimix"])
def test_memory_budgets(budget, name):
    """The partitioner may recompute what it likes: the gradient is that of the sample."""
    torch._dynamo.reset()
    case = CASES[name]

    @torch.compile(fullgraph=True, backend="aot_eager_decomp_partition")
    def call(x):
        key = noise.draw_key("cpu")
        y, kl = run(case, x.sin(), key)
        return y, (y.exp() * y.sin() * x).sum() + kl.square().sum(), key

    logits = logits_of((16, 24))
    with torch._functorch.config.patch(activation_memory_budget=budget):
        y, loss, key = call(logits)
    (got,) = torch.autograd.grad(loss, logits)
    x = logits.sin()
    want_y, _, kl = composition(case, x, own_noise(key, x))
    torch.testing.assert_close(y, want_y, rtol=1e-4, atol=1e-5)
    want_loss = (want_y.exp() * want_y.sin() * logits).sum() + kl.square().sum()
    (want,) = torch.autograd.grad(want_loss, logits)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compiled_views_and_fresh_keys():
    """An intermediate's layout is the compiler's choice; each call and each run has its key."""
    torch._dynamo.reset()

    @torch.compile(fullgraph=True)
    def call(x):
        return gumbel_softmax(2 * x, dim=1), gumbel_softmax(2 * x, dim=1)

    x = logits_of((2, 3, 5, 4)).detach().permute(0, 3, 1, 2).requires_grad_()
    torch.manual_seed(1)
    y, other = call(x)
    again, _ = call(x)
    torch.manual_seed(1)
    assert torch.equal(call(x)[0], y)
    assert not torch.equal(y, other)
    assert not torch.equal(y, again)
    assert y.stride() == x.stride()
    grads = cotangents((y, other))
    want = 0.0
    for one, g in zip((y.detach(), other.detach()), grads, strict=True):
        want = want + 2 * one * (g - (g * one).sum(1, keepdim=True))
    torch.testing.assert_close(gradient((y, other), x, grads), want)


@CASE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_vmap_over_a_given_key(case, dtype):
    """Each example gets the numbers it would get alone, whichever dim is mapped."""
    key = noise.key(2)
    logits = logits_of((5, 4, 6, 3), dtype).detach()
    for mapped in range(4):
        for dim in (-1, 0):
            got = vmap(lambda x, d=dim: run(case, x, key, dim=d), mapped)(logits)
            alone = [run(case, x, key, dim=dim) for x in logits.unbind(mapped)]
            for g, w in zip(got, zip(*alone, strict=True), strict=True):
                torch.testing.assert_close(g, torch.stack(w))
            # All but a rare last bit: neither noise nor logits are rounded on the way.
            if dtype == torch.bfloat16:
                differ = got[0] != torch.stack([y for y, _ in alone])
                assert differ.float().mean() < 0.02


def test_vmap_over_keys_and_given_noise():
    logits = logits_of((4, 6)).detach()
    keys = torch.stack([noise.key(i).view(torch.int64) for i in range(3)]).view(torch.uint64)
    given = noise_of((3, 4, 6))
    by_key = vmap(lambda k: run(CASES["hard"], logits, k)[0])(keys)
    by_noise = vmap(lambda g: run(CASES["soft"], logits, noise=g)[0])(given)
    for i in range(3):
        assert torch.equal(by_key[i], run(CASES["hard"], logits, keys[i])[0])
        torch.testing.assert_close(by_noise[i], run(CASES["soft"], logits, noise=given[i])[0])


def test_vmap_follows_randomness():
    zeros = torch.zeros(4, 6)
    same = vmap(gumbel_softmax, randomness="same")(zeros)
    assert torch.equal(same, same[:1].expand_as(same))
    different = vmap(gumbel_softmax, randomness="different")(zeros)
    assert len({tuple(row) for row in different.tolist()}) == 4
    with pytest.raises(RuntimeError, match="random"):
        vmap(gumbel_softmax, randomness="error")(zeros)


@CASE
def test_per_sample_gradients(case):
    key = noise.key(2)
    logits = logits_of((5, 4, 6)).detach()
    weight = torch.randn(4, 6)

    def loss(x, w):
        y, kl = run(case, x, key)
        return (y * w).sin().sum() + kl.square().sum()

    got = vmap(grad(loss), (0, None))(logits, weight)
    shared = vmap(grad(loss), (None, 0))(logits[0], torch.stack((weight, 2 * weight)))
    for g, x, w in [
        *((got[i], logits[i], weight) for i in range(5)),
        *((shared[i], logits[0], (1 + i) * weight) for i in range(2)),
    ]:
        leaf = x.clone().requires_grad_()
        torch.testing.assert_close(g, torch.autograd.grad(loss(leaf, w), leaf)[0])


@CASE
def test_nested_transforms(case):
    key = noise.key(2)
    x = logits_of((4,), torch.float64).detach()
    weight = torch.arange(4.0, dtype=torch.float64)

    def loss(x):
        y, kl = run(case, x, key)
        return (y * weight).sum().sin() + kl.square()

    leaf = x.clone().requires_grad_()
    y, _, kl = composition(case, leaf, own_noise(key, leaf))
    total = (y * weight).sum().sin() + kl.square()
    (first,) = torch.autograd.grad(total, leaf, create_graph=True)
    rows = torch.stack([torch.autograd.grad(f, leaf, retain_graph=True)[0] for f in first])
    torch.testing.assert_close(jacrev(loss)(x), first.detach())
    torch.testing.assert_close(jacrev(jacrev(loss))(x), rows)
    torch.testing.assert_close(jacrev(grad(loss))(x), rows)
    both = torch.stack((x, 1.1 * x))
    torch.testing.assert_close(vmap(jacrev(jacrev(loss)))(both)[0], rows)
    of_all = grad(lambda x: vmap(loss)(x).sum())(both)
    torch.testing.assert_close(of_all[0], first.detach())


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_vmap_reduces_each_example_alone(reduction):
    key = noise.key(2)
    logits = logits_of((5, 4, 6, 3)).detach()

    def kl(x):
        return categorical_latent(x, dim=1, key=key, reduction=reduction)[1]

    def loss(x):
        return kl(x).square().sum()

    for transform in (kl, grad(loss)):
        want = torch.stack([transform(x) for x in logits])
        torch.testing.assert_close(vmap(transform)(logits), want)


def test_fake_and_meta_tensors_go_through_the_op():
    """Shapes, dtypes and strides of the outputs without any numbers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    real = logits_of((6, 2, 5), torch.bfloat16).detach().transpose(1, 2)
    fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(real)
    for case in CASES.values():
        want = run(case, real, noise.key(0), dim=1)
        for x, key in ((fake, noise.key(0)), (real.to("meta"), noise.key(0, device="meta"))):
            for a, b in zip(run(case, x, key, dim=1), want, strict=True):
                assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mode": 3}, r"mode must be one of \(0, 1, 2\), got 3"),
        ({"tau": 0.0}, r"tau must be from 2\^-126 to 2\^126, got 0.0"),
        ({"tau": float("nan")}, "tau must be from .*, got nan"),
        ({"unimix": 1.0}, r"unimix must be in \[0, 1\), got 1.0"),
        ({"dim": 2}, r"dim must be one of the 2 dims .*, got dim 2 of shape \(2, 3\)"),
        ({"dim": -1}, "got dim -1"),
        ({"order": [0]}, r"order must be a permutation of the dims, got \[0\]"),
        ({"reduction": "most"}, "unknown reduction 'most'"),
        ({"reduction": "last"}, "unknown reduction 'last'"),
    ],
)
def test_wrong_numbers_of_the_ops(change, says):
    spec = Spec([], SOFT, 1.0, 0.0, 1, True, False, "none")._replace(**change)
    a = torch.ones(2, 3)
    with pytest.raises(ValueError, match=says):
        OPS.gumbel_softmax(a, noise.key(0), None, None, *spec)
    with pytest.raises(ValueError, match=says):
        OPS.gumbel_softmax_backward(a, None, None, None, a, None, *spec, [True, False])


def test_the_most_classes_of_the_ops():
    spec = Spec([], SOFT, 1.0, 0.0, 1, True, False, "none")
    most, key = torch.empty(1, 2**31 - 1, device="meta"), noise.key(0, device="meta")
    y, _, kl = OPS.gumbel_softmax(most, key, None, None, *spec)
    assert (y.shape, kl.shape) == (most.shape, (1,))
    assert (
        OPS.gumbel_softmax_backward(y, None, None, None, y, None, *spec, [True, False])[0].shape
        == most.shape
    )
    for more, its_key in (
        (torch.empty(1, 2**31, device="meta"), key),
        (torch.ones(1, 1).expand(1, 2**31), noise.key(0)),
    ):
        with pytest.raises(ValueError, match=r"the limit is 2147483647 classes, got .*2147483648"):
            OPS.gumbel_softmax(more, its_key, None, None, *spec)
        with pytest.raises(ValueError, match="the limit is 2147483647 classes"):
            OPS.gumbel_softmax_backward(more, None, None, None, more, None, *spec, [True, False])


def test_wrong_tensors_of_the_ops():
    a, spec = torch.ones(2, 3), Spec([], SOFT, 1.0, 0.0, 1, True, False, "none")
    one_hot = spec._replace(mode=ONE_HOT)
    for key, given, error, says in (
        (None, None, ValueError, "a sample takes a key or noise, got neither"),
        (None, a[0], ValueError, r"noise must have shape \(2, 3\).*got \(3,\)"),
        (None, a.half(), ValueError, "noise must have .*float32.*, got .*float16"),
        (noise.key(0).view(torch.int64).float(), None, TypeError, "uint64"),
        (noise.key(0)[:1], None, ValueError, r"shape \(2,\)"),
    ):
        with pytest.raises(error, match=says):
            OPS.gumbel_softmax(a, key, given, None, *spec)
    for (grad_y, grad_kl, *kept), s, says in (
        ((a, None, None, None), spec, "takes logits or soft, got neither"),
        ((a, None, a, None), spec, "SOFT's and HARD's grad_y takes soft"),
        ((a, None, None, a), one_hot, "ONE_HOT's grad_y take logits"),
        ((None, a[:, 0], None, a), spec, "grad_kl and .* take logits"),
        ((a[:1], None, a, a), spec, r"grad_y must have shape \(2, 3\)"),
        ((None, a, a, None), spec, r"grad_kl must have shape \(2,\)"),
        ((None, a[:, 0].double(), a, None), spec, "grad_kl must .*float32.*, got .*float64"),
        ((a, None, a, a.half()), spec, "soft must have"),
    ):
        with pytest.raises(ValueError, match=says):
            OPS.gumbel_softmax_backward(grad_y, None, grad_kl, *kept, None, *s, [True, False])
    for mode in (torch.enable_grad(), torch.inference_mode()):  # above and below autograd
        with mode:
            nothing = OPS.gumbel_softmax_backward(
                None, None, None, a, None, None, *spec, [True, False]
            )
        assert nothing[0].tolist() == [[0.0] * 3] * 2
