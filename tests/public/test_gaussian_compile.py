"""The ops under torch.compile, opcheck, functorch transforms and torch.export."""

import pytest
import torch
import torch._dynamo.testing
from torch.func import grad, jacrev, vmap
from torch.library import opcheck

from fused_reparam import (
    FusedGaussianLatent,
    gaussian_kl,
    gaussian_latent,
    gaussian_latent_from_moments,
    gaussian_rsample,
    gaussian_rsample_log_prob,
    noise,
)
from tests.helpers.formulas import REDUCTIONS, parameters

# A compiler sees the op, not the backend inside it: each device's own choice is enough here.
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
OPS = torch.ops.fused_reparam


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)


INF = float("inf")
SPECS = [
    ([], 0, -1.0, 1.0, "batchmean", True),
    ([], 4, -INF, INF, "none", True),
    ([], 2, -INF, INF, "sample", False),
    ([], 0, -INF, INF, None, True),
    ([1, 0], 0, -INF, INF, "sample", True),
    (None, 0, -INF, INF, "last", True),
]


def of_op(order, kind, low, high, reduction, sample=True, split=-1):
    """The op's arguments that are not tensors."""
    constants = [low, high, 0.0, 1.0, -INF]
    return (order, "gaussian", kind, 0, constants, 0, sample, reduction, split)


@pytest.mark.parametrize(
    ("spec", "dtype"), list(zip(SPECS, 3 * [torch.float32, torch.bfloat16], strict=True))
)
def test_opcheck(device, spec, dtype):
    mu, x = parameters("std", (3, 5), dtype, device)
    *_, reduction, sample = spec
    inputs = (mu, x, None, None, noise.key(1, device=device) if sample else None, None)
    opcheck(OPS.elementwise.default, (*inputs, *of_op(*spec)))
    grad_z = torch.randn(3, 5, device=device, dtype=dtype) if sample else None
    shape = {"none": (3, 5), "sample": (3,), "last": (3,), "batchmean": ()}.get(reduction)
    grad_kl = None if shape is None else torch.randn(shape, device=device)
    saved = [t.detach() if t is not None else None for t in inputs]
    needs = [True, True, False, False, False]
    args = (grad_z, grad_kl, None, *saved, *of_op(*spec), needs)
    opcheck(OPS.elementwise_backward.default, args)


def test_opcheck_moments_noise_and_given_eps(device):
    moments = torch.randn(2, 6, 3, device=device, requires_grad=True)
    key = noise.key(1, device=device)
    spec = of_op([], 0, -1.0, 1.0, "mean", split=1)
    opcheck(OPS.elementwise.default, (moments, None, None, None, key, None, *spec))
    eps = torch.randn(2, 6, 3, device=device, requires_grad=True)
    row = torch.randn(3, device=device)
    spec = of_op([], 0, -1.0, 1.0, "mean")
    opcheck(OPS.elementwise.default, (moments, row, None, None, None, eps, *spec))
    opcheck(OPS.normal.default, (key, [3, 4], [1, 0], torch.float16))


def step(mu, x, key):
    z, kl = gaussian_latent(mu, x, key=key)
    return z, (z * z).sum() + kl


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_equals_eager_for_a_key(device, dynamic, dtype):
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic)
    for shape in ((6, 10), (9, 4)):
        mu, x = parameters("logvar", shape, dtype, device)
        key = noise.key(8, device=device)
        z, loss = step(mu, x, key)
        got_z, got_loss = compiled(mu, x, key)
        assert torch.equal(z, got_z)
        for a, b in zip(
            torch.autograd.grad(loss, (mu, x)), torch.autograd.grad(got_loss, (mu, x)), strict=True
        ):
            torch.testing.assert_close(a, b)


NEW_SHAPES = {
    "latent": lambda m, s: gaussian_latent(m, s),
    "mean": lambda m, s: gaussian_latent(m, s, reduction="mean", num_samples=2),
    "rsample": lambda m, s: gaussian_rsample(m, s),
    "kl": lambda m, s: gaussian_kl(m, s),
    "log_prob": lambda m, s: gaussian_rsample_log_prob(m, s),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NEW_SHAPES)
def test_one_compilation_serves_every_shape(device, name):
    """Not two tries either, of which the second knows that a number is no input."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(NEW_SHAPES[name], backend=counter, dynamic=True)
    for rows in (3, 5, 17, 64):
        mu, x = parameters("logvar", (rows, rows + 1), torch.float32, device)
        found = compiled(mu, x)
        sum(t.sum() for t in (found if isinstance(found, tuple) else (found,))).backward()
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("view", ["channels_last", "moments", "broadcast"])
def test_compiled_layouts(device, view):
    torch._dynamo.reset()
    key = noise.key(8, device=device)
    mu = torch.randn(2, 4, 3, 5, device=device)
    if view == "channels_last":
        inputs = [mu.to(memory_format=torch.channels_last), torch.randn_like(mu)]
    elif view == "moments":
        inputs = [mu]
    else:
        inputs = [mu, torch.randn(4, 1, 1, device=device)]
    inputs = [t.requires_grad_() for t in inputs]

    def call(*inputs):
        double = [2 * t for t in inputs]  # an intermediate, whose layout the compiler chooses
        if len(double) == 1:
            z, kl = gaussian_latent_from_moments(*double, key=key)
        else:
            z, kl = gaussian_latent(*double, key=key)
        return z, (z.relu() ** 2).sum() + kl

    z, loss = call(*inputs)
    got_z, got_loss = torch.compile(call, fullgraph=True)(*inputs)
    assert torch.equal(z, got_z)
    want, got = (torch.autograd.grad(v, inputs) for v in (loss, got_loss))
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.chunk(2, 1),
        lambda x: x.to(memory_format=torch.channels_last).chunk(2, 1),
        lambda x: (x[..., 1:], x[..., 1:]),
        lambda x: (x.transpose(1, 3), x.transpose(1, 3)),
    ],
    ids=["halves", "channels_last", "slice", "transposed"],
)
def test_views_of_any_size_are_traced(device, view):
    """Strides that the compiler does not know."""
    torch._dynamo.reset()
    key = noise.key(3, device=device)
    compiled = torch.compile(
        lambda x: gaussian_latent(*view(x), key=key), fullgraph=True, backend="aot_eager"
    )
    for side in (4, 6, 9):
        x = torch.randn(2, 6, side, side, device=device)
        for got, want in zip(compiled(x), gaussian_latent(*view(x), key=key), strict=True):
            torch.testing.assert_close(got, want)
            assert got.stride() == want.stride()


def test_compiled_calls_draw_their_own_keys(device):
    torch._dynamo.reset()

    @torch.compile(fullgraph=True)
    def two(mu, x):
        return gaussian_rsample(mu, x), gaussian_rsample(mu, x)

    mu, x = (torch.zeros(4, 5, device=device) for _ in range(2))
    torch.manual_seed(1)
    a, b = two(mu, x)
    c, _ = two(mu, x)
    torch.manual_seed(1)
    again, _ = two(mu, x)
    assert not torch.equal(a, b), "two calls in one graph"
    assert not torch.equal(a, c), "two runs of one graph"
    assert torch.equal(a, again), "manual_seed"


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1.0, 0.5, 0.0])
def test_memory_budgets(device, budget):
    """The partitioner may recompute what it likes: the gradient is that of the sample."""
    torch._dynamo.reset()

    @torch.compile(fullgraph=True)
    def call(mu, x):
        z, kl = gaussian_latent(mu.sin(), x.cos())
        return z, (z.exp() * z.sin()).sum() + kl

    for seed in (1, 2):
        mu, x = parameters("logvar", (16, 24), torch.float32, device, seed)
        with torch._functorch.config.patch(activation_memory_budget=budget):
            z, loss = call(mu, x)
        got = torch.autograd.grad(loss, (mu, x))
        eps = ((z - mu.sin()) / torch.exp(0.5 * x.cos())).detach()
        m, s = (t.detach().requires_grad_() for t in (mu, x))
        want_z, kl = gaussian_latent(m.sin(), s.cos(), eps=eps)
        want = torch.autograd.grad((want_z.exp() * want_z.sin()).sum() + kl, (m, s))
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_checkpoint_under_compile(device):
    torch._dynamo.reset()
    mu, x = parameters("logvar", (8, 8), torch.float32, device)

    @torch.compile(fullgraph=True)
    def call(mu, x):
        return torch.utils.checkpoint.checkpoint(
            lambda m, s: gaussian_latent(m, s)[0].exp(), mu, x, use_reentrant=False
        )

    z = call(mu, x)
    got = torch.autograd.grad(z.sum(), mu)[0]
    torch.testing.assert_close(got, z.detach())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("in_dims", [(0, 0), (1, 0), (0, None)])
def test_vmap_over_a_given_key(device, reduction, in_dims):
    """Each example gets the numbers it would get alone."""
    key = noise.key(2, device=device)
    mu = torch.randn(5, 5, 6, device=device)
    x = torch.randn(5, 5, 6, device=device) if in_dims[1] == 0 else torch.randn(6, device=device)

    def call(m, s):
        return gaussian_latent(m, s, key=key, reduction=reduction)

    got = vmap(call, in_dims)(mu, x)
    for i in range(5):
        want = call(mu.select(in_dims[0], i), x[i] if in_dims[1] == 0 else x)
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g[i], w, rtol=1e-5, atol=1e-5)


def test_vmap_follows_randomness(device):
    zeros = torch.zeros(4, 6, device=device)

    def call(m):
        return gaussian_rsample(m, torch.zeros_like(m))

    same = vmap(call, randomness="same")(zeros)
    assert torch.equal(same, same[:1].expand(4, 6))
    different = vmap(call, randomness="different")(zeros)
    assert len({tuple(row) for row in different.tolist()}) == 4
    with pytest.raises(RuntimeError, match="random"):
        vmap(call, randomness="error")(zeros)
    kl = vmap(lambda m: gaussian_kl(m, m), randomness="error")(zeros)
    assert kl.tolist() == [0.0] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_per_sample_gradients(device, dtype):
    key = noise.key(2, device=device)
    mu, x = (t.detach() for t in parameters("logvar", (5, 3, 6), dtype, device))

    def loss(m, s):
        z, kl = gaussian_latent(m, s, key=key)
        return (z.float() ** 2).sum() + kl

    got = vmap(grad(loss, argnums=(0, 1)))(mu, x)
    shared = vmap(grad(loss, argnums=(0, 1)), (0, None))(mu, x[0])
    moments = torch.cat((mu, x), 1)

    def moments_loss(t):
        z, kl = gaussian_latent_from_moments(t, 0, key=key)
        return (z.float() ** 2).sum() + 3 * kl

    halves = vmap(grad(moments_loss))(moments)
    for i in range(5):
        m, s, t = (v[i].clone().requires_grad_() for v in (mu, x, moments))
        want = torch.autograd.grad(loss(m, s), (m, s))
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g[i], w)
        s0 = x[0].clone().requires_grad_()
        want = torch.autograd.grad(loss(m, s0), (m, s0))
        for g, w in zip(shared, want, strict=True):
            torch.testing.assert_close(g[i], w)
        torch.testing.assert_close(halves[i], torch.autograd.grad(moments_loss(t), t)[0])


def test_nested_transforms(device):
    key = noise.key(2, device=device)
    mu, x = (t.detach() for t in parameters("logvar", (3,), torch.float64, device))

    def loss(s):
        z, kl = gaussian_latent(mu, s, key=key)
        return (z**2).sum() + kl

    eps = noise.normal(key, 3, dtype=torch.float64)
    sigma = torch.exp(0.5 * x)
    second = 0.5 * mu * sigma * eps + sigma**2 * eps**2 + 0.5 * sigma**2 / 3
    torch.testing.assert_close(jacrev(jacrev(loss))(x), torch.diag(second))
    rows = torch.stack((x, 2 * x))
    torch.testing.assert_close(vmap(jacrev(loss))(rows)[0], jacrev(loss)(x))


def test_export_of_the_eval_path(device):
    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Linear(6, 8)
            self.latent = FusedGaussianLatent(dim=1)

        def forward(self, x):
            return self.latent(self.body(x))

    model = Encoder().eval().to(device)
    x = torch.randn(5, 6, device=device)
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    for rows in (5, 9):
        x = torch.randn(rows, 6, device=device)
        for got, want in zip(exported.module()(x), model(x), strict=True):
            torch.testing.assert_close(got, want)
