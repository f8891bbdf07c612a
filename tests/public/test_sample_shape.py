"""``sample_shape=``: any number of samples, in any shape, of every function that draws."""

import inspect

import pytest
import torch

import fused_reparam as fr
from fused_reparam import noise
from tests.helpers.elementwise_cases import FAMILIES
from tests.helpers.laws import LAWS, SHAPE, noise_of
from tests.helpers.loops import where
from tests.helpers.public_cases import leaves

KEY = noise.key(9, 4)
EVERY_LAW = pytest.mark.parametrize("name", LAWS)
# Those that give a KL which no sample has a part in, and the names of their parameters.
DIVERGENCES = {
    "gaussian": lambda p, **o: fr.gaussian_latent(p[0], std=p[1], **o),
    "free bits": lambda p, **o: fr.gaussian_latent(p[0], std=p[1], free_bits=1.0, **o),
    "moments": lambda p, **o: fr.gaussian_latent_from_moments(torch.cat(p), 0, scale="std", **o),
    "weight": lambda p, **o: fr.sample_weight(*p, prior_std=0.5, **o),
    "log-normal": lambda p, **o: fr.log_normal_latent(p[0], std=p[1], **o),
    **{
        base: lambda p, base=base, **o: fr.loc_scale_latent(*p, base, **o)
        for base in ("normal", "laplace", "gumbel", "uniform", "cauchy")
    },
    **{
        name: lambda p, name=name, row=row, **o: getattr(fr, f"{name}_latent")(
            *p[: row.parameters], **row.some_prior(), **o
        )
        for name, row in FAMILIES.items()
        if row.law and row.terms
    },
    "categorical": lambda p, **o: fr.categorical_latent(p[0], **o),
}


def close(got, want):
    """To a last bit that PyTorch's own operators may leave to an element's place in memory."""
    torch.testing.assert_close(got, want, rtol=5e-7, atol=5e-7)


def test_every_function_that_draws_takes_it():
    drawing = {f for f in map(fr.__dict__.get, fr.__all__) if inspect.isfunction(f)}
    drawing = {f for f in drawing if "generator" in inspect.signature(f).parameters}
    assert len(drawing) > 20
    for function in drawing:
        parameters = inspect.signature(function).parameters
        assert {"sample_shape", "rng", "eps"} <= set(parameters), function
        assert parameters["sample_shape"].kind is inspect.Parameter.KEYWORD_ONLY


@EVERY_LAW
def test_samples_are_those_of_one_dim(backend, name):
    check_samples(name, torch.device("cpu"))


@pytest.mark.parametrize("name", ["gaussian", "weibull", "hard gumbel_softmax"])
def test_samples_of_every_backend(device, name):
    check_samples(name, device)


@EVERY_LAW
def test_samples_of_a_call_past_the_dispatcher(name):
    """As of every device but the CPU; meta is one that needs no hardware."""
    names, ours, _ = LAWS[name]
    params = [t.to("meta").detach().requires_grad_() for t in leaves(names.split(), SHAPE)]
    a_list = [torch.Generator() for _ in range(SHAPE[0])]
    for shape in ((), (6,), (2, 3), (0,)):
        eps = torch.empty(*shape, *SHAPE, device="meta", requires_grad=True)
        for options in (
            {}, {"eps": eps}, {"rng": "torch"}, {"generator": a_list},
            {"rng": "torch", "generator": a_list[0]},
        ):  # fmt: skip
            if name == "student_t" and "rng" in options and torch.__version__ < (2, 13):
                continue  # PyTorch 2.11 has no gamma on meta
            z = ours(*params, sample_shape=shape, **options)
            assert z.shape == (*shape, *SHAPE)
            grads = torch.autograd.grad(z.sum(), params)
            assert [g.shape for g in grads] == [p.shape for p in params]


def check_samples(name, device):
    names, ours, _ = LAWS[name]
    params = [t.to(device) for t in leaves(names.split(), SHAPE)]
    many = ours(*params, sample_shape=6, key=KEY)
    assert many.shape == (6, *SHAPE)
    wants = torch.autograd.grad(many.sin().sum(), params)
    for shape in (torch.Size((2, 3)), [6, 1], (6,)):
        got = ours(*params, sample_shape=shape, key=KEY)
        close(got, many.view(*shape, *SHAPE))
        for g, w in zip(torch.autograd.grad(got.sin().sum(), params), wants, strict=True):
            close(g, w)
    alone = ours(*params, key=KEY)
    assert torch.equal(ours(*params, sample_shape=(), key=KEY), alone)
    close(many[0], alone)
    # Each sample has noise of its own, in the stream's order.
    eps = noise_of(name, KEY.to(device), (6, *SHAPE), torch.float32)
    torch.testing.assert_close(many, ours(*params, sample_shape=6, eps=eps))


@EVERY_LAW
def test_no_sample(backend, name):
    names, ours, _ = LAWS[name]
    params = leaves(names.split(), SHAPE)
    for options in ({}, {"rng": "torch"}, {"eps": torch.empty(2, 0, *SHAPE)}):
        for shape in ((2, 0), (0,)):
            with where(options, shape):
                options = {
                    k: v[0] if k == "eps" and shape == (0,) else v for k, v in options.items()
                }
                z = ours(*params, sample_shape=shape, **options)
                assert z.shape == (*shape, *SHAPE)
                assert z.dtype == torch.float32
                for grad in torch.autograd.grad(z.sum(), params):
                    assert not grad.any()


def test_no_sample_under_transforms():
    """A graph for samples of any number, none included; and of none in a batch."""
    params = leaves(("mu", "std"), SHAPE)

    def draw(m, s, shape):
        return fr.gaussian_latent(m, std=s, sample_shape=shape)

    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    for shape in ((2, 0), (2, 3)):
        z, kl = compiled(*params, shape)
        assert z.shape == (*shape, *SHAPE)
        grads = torch.autograd.grad(z.sum() if z.numel() else z.sum() + kl, params)
        wants = [torch.full(SHAPE, 6.0), (z - params[0]).sum((0, 1)) / params[1]]
        if not z.numel():
            wants = torch.autograd.grad(fr.gaussian_kl(params[0], std=params[1]), params)
        for got, want in zip(grads, wants, strict=True):
            torch.testing.assert_close(got, want)
    batch = [t.detach() for t in params]
    z = torch.func.vmap(lambda m, s: draw(m, s, (0, 2))[0], randomness="same")(*batch)
    assert z.shape == (SHAPE[0], 0, 2, *SHAPE[1:])
    graph = torch.jit.trace(lambda m, s: draw(m, s, (2, 0)), tuple(batch), check_trace=False)
    assert graph(*(torch.cat((t, t)) for t in batch))[0].shape == (2, 0, 2 * SHAPE[0], *SHAPE[1:])


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("reduction", ["none", "sample", "batchmean"])
def test_the_kl_is_that_of_the_parameters(backend, name, reduction):
    if name == "free bits" and reduction == "none":
        return
    call, params = DIVERGENCES[name], leaves(("logits", "scale"), SHAPE)
    row = FAMILIES.get(name)
    if row and row.names.startswith(("scale+", "rate+")):
        params[0] = params[1]
    _, want = call(params, reduction=reduction)
    for shape in (3, (2, 3), (0,)):
        z, kl = call(params, reduction=reduction, sample_shape=shape)
        torch.testing.assert_close(kl, want)
        assert z.shape[-2:] == SHAPE
        (z.sum() + kl.sum()).backward()


def test_values_of_each_sample_have_the_same_dims(target):
    mu, scale = (t.to(target[1]) for t in leaves(("mu", "std"), (4, 3)))
    calls = {
        "log_prob": lambda **o: fr.gaussian_rsample_log_prob(mu, std=scale, **o),
        "tanh": lambda **o: fr.tanh_normal_rsample(mu, std=scale, **o),
        "mixture": lambda **o: fr.sample_weight(
            mu, scale, mixture=(0.3, 1.0, 0.1), reduction="sample", **o
        ),
    }
    for name, call in calls.items():
        with where(name):
            many, nested = (call(key=KEY, sample_shape=s) for s in (6, (2, 3)))
            for m, n in zip(many, nested, strict=True):
                assert torch.equal(n, m.unflatten(0, (2, 3)))
            z, *values = call(sample_shape=(2, 0))
            assert z.shape == (2, 0, 4, 3)
            assert all(v.shape == (2, 0, 4) for v in values)
            sum(v.sum() for v in values).backward()
            assert not mu.grad.any()


def test_num_samples_is_its_short_form(backend):
    mu, std = leaves(("mu", "std"))
    for call in (fr.gaussian_latent, fr.gaussian_rsample, fr.gaussian_rsample_log_prob):
        for got, want in zip(
            call(mu, std=std, key=KEY, sample_shape=(3,)),
            call(mu, std=std, key=KEY, num_samples=3),
            strict=True,
        ):
            assert torch.equal(got, want)
        with pytest.raises(ValueError, match=r"sample_shape=\(2,\) and num_samples=2"):
            call(mu, std=std, sample_shape=(2,), num_samples=2)


def test_noise_is_returned_and_taken_in_the_samples_shape(backend):
    mu, std = leaves(("mu", "std"))
    z, _, eps = fr.gaussian_latent(mu, std=std, sample_shape=(2, 3), return_eps=True)
    assert eps.shape == z.shape == (2, 3, *mu.shape)
    torch.testing.assert_close(mu + std * eps, z)
    again = fr.gaussian_rsample(mu, std=std, eps=eps, sample_shape=(2, 3))
    assert torch.equal(again, mu + std * eps)  # rounded twice, and z once
    with pytest.raises(ValueError, match=r"shape \(3, 2, 4, 3, 5\), got \(2, 3, 4, 3, 5\)"):
        fr.gaussian_rsample(mu, std=std, eps=eps, sample_shape=(3, 2))


def test_memory_formats(backend):
    """A sample lies in memory as its parameters do, and takes the stream in that order."""
    loc = torch.randn(2, 6, 4, 5).to(memory_format=torch.channels_last)
    for call in (
        lambda **o: fr.loc_scale_rsample(loc, 1.0, "laplace", key=KEY, **o),
        lambda **o: fr.gumbel_softmax(loc, dim=1, key=KEY, **o),
        lambda **o: fr.gaussian_latent_from_moments(loc, 1, key=KEY, **o)[0],
    ):
        alone, z = call(), call(sample_shape=(2, 3))
        assert torch.equal(z[0, 0], alone)
        assert z[1, 2].stride() == alone.stride()


def test_sizes_of_any_kind_of_integer():
    np = pytest.importorskip("numpy")
    loc = torch.zeros(4)
    for shape in (np.int64(3), (np.int32(3),), torch.tensor(3), [3]):
        assert fr.loc_scale_rsample(loc, 1.0, sample_shape=shape).shape == (3, 4)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((2, -1), r"sizes from 0, fewer than 2\^63 samples, got \(2, -1\)"),
        ((1 << 40, 1 << 40), r"fewer than 2\^63 samples"),
        (2.0, "a size of sample_shape must be an integer, got 2.0 of type float"),
        ("2", "a size of sample_shape must be an integer, got '2' of type str"),
        ((2, True), "a size of sample_shape must be an integer, got True"),
    ],
)
def test_wrong_shapes(shape, says):
    with pytest.raises((TypeError, ValueError), match=says):
        fr.exponential_rsample(torch.ones(4), sample_shape=shape)
