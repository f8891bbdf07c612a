"""FusedELBO: the bound and its two terms, against the formulas in float64."""

import copy
import math
import pickle

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Categorical,
    Laplace,
    NegativeBinomial,
    Normal,
    StudentT,
    kl_divergence,
)
from torch.nn.functional import binary_cross_entropy_with_logits

from fused_reparam import (
    FusedCategoricalLatent,
    FusedELBO,
    FusedGaussianLatent,
    discretized_logistic_log_prob,
    gaussian_kl,
    gaussian_rsample_log_prob,
    noise,
    sampling,
    zero_inflated_negative_binomial_log_prob,
)

KEY = noise.key(7)


def _model(dtype=torch.float64, batch=6):
    torch.manual_seed(0)
    decoder = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5))
    x = torch.rand(batch, 5).round().to(dtype)
    mu, logvar = torch.randn(2, batch, 3, dtype=dtype)
    return decoder.to(dtype), x, mu.requires_grad_(), logvar.requires_grad_()


def _grads(of, *params):
    return torch.autograd.grad(of, params)


@pytest.mark.parametrize("reduction", ["batchmean", "sum", "sample"])
def test_it_is_what_textbooks_write(backend, reduction):
    decoder, x, mu, logvar = _model()
    params = mu, logvar, *decoder.parameters()
    elbo, log_likelihood, kl = FusedELBO(latent=FusedGaussianLatent(reduction=reduction))(
        x, decoder, mu, logvar, key=KEY
    )
    z = mu + (0.5 * logvar).exp() * noise.normal(KEY, mu.shape, dtype=mu.dtype)
    of_x = -binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(1)
    of_z = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)
    over = {"batchmean": torch.mean, "sum": torch.sum, "sample": lambda t: t}[reduction]
    torch.testing.assert_close(log_likelihood, over(of_x))
    torch.testing.assert_close(kl, over(of_z))
    torch.testing.assert_close(elbo, over(of_x - of_z))
    torch.testing.assert_close(
        _grads(elbo.sum(), *params), _grads(over(of_x - of_z).sum(), *params)
    )


def test_importance_weights_give_the_bound_of_their_paper(backend):
    decoder, x, mu, logvar = _model()
    params = mu, logvar, *decoder.parameters()
    latent = FusedGaussianLatent(reduction="sample", num_samples=9, prior=(0.5, 2.0))
    bound, log_likelihood, kl = FusedELBO(latent=latent)(x, decoder, mu, logvar, key=KEY)
    z, log_q, log_p = gaussian_rsample_log_prob(
        mu, logvar, num_samples=9, prior=(0.5, 2.0), key=KEY
    )
    of_x = Bernoulli(logits=decoder(z)).log_prob(x).sum(-1)
    weights = of_x + Normal(0.5, 2.0).log_prob(z).sum(-1)
    weights = weights - Normal(mu, (0.5 * logvar).exp()).log_prob(z).sum(-1)
    want = torch.logsumexp(weights, 0) - math.log(9)
    torch.testing.assert_close(bound, want)
    torch.testing.assert_close(log_likelihood, of_x.mean(0))
    torch.testing.assert_close(kl, (log_q - log_p).mean(0))
    assert (bound >= log_likelihood - kl).all()
    torch.testing.assert_close(_grads(bound.sum(), *params), _grads(want.sum(), *params))


def test_samples_are_averaged_on_demand():
    decoder, x, mu, logvar = _model()
    latent = FusedGaussianLatent(num_samples=4, beta=0.5, free_bits=1.0)
    elbo, log_likelihood, kl = FusedELBO(latent=latent, importance_weighted=False)(
        x, decoder, mu, logvar, key=KEY
    )
    z, _ = latent(mu, logvar, key=KEY)
    torch.testing.assert_close(
        log_likelihood, Bernoulli(logits=decoder(z)).log_prob(x).sum(-1).mean()
    )
    torch.testing.assert_close(kl, gaussian_kl(mu, logvar, beta=0.5, free_bits=1.0))
    torch.testing.assert_close(elbo, log_likelihood - kl)


@pytest.mark.parametrize("of_samples", [None, 1, 5])
def test_images_and_decoders_of_batches_only(of_samples):
    torch.manual_seed(1)
    decoder = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.Upsample((4, 6)))
    x, moments = torch.rand(7, 3, 4, 6), torch.randn(7, 4, 2, 3)
    latent = FusedGaussianLatent(dim=1, reduction="sample", num_samples=of_samples)
    module = FusedELBO("gaussian", latent, importance_weighted=False, std=0.5)
    elbo, log_likelihood, kl = module(x, decoder, moments, key=KEY)
    z, own = latent(moments, key=KEY)
    want = Normal(decoder(z.reshape(-1, 2, 2, 3)).view(-1, *x.shape), 0.5).log_prob(x)
    torch.testing.assert_close(log_likelihood, want.sum((-3, -2, -1)).mean(0))
    torch.testing.assert_close(kl, own)
    torch.testing.assert_close(elbo, log_likelihood - kl)


@pytest.mark.parametrize("weighted", [False, True])
def test_what_a_decoder_may_return(weighted):
    decoder, x, mu, logvar = _model()
    latent = FusedGaussianLatent(num_samples=4 if weighted else None)
    own = FusedELBO("gaussian", latent, log_std=0.3)

    def both(z):
        return decoder(z), decoder(z) * 0.1

    def names(z):
        mean, log_std = both(z)
        return {"mu": mean, "log_std": log_std}

    got = own(x, decoder, mu, logvar, key=KEY)
    torch.testing.assert_close(own(x, lambda z: (decoder(z),), mu, logvar, key=KEY), got)
    named = own(x, names, mu, logvar, key=KEY)
    plain = FusedELBO("gaussian", latent)
    torch.testing.assert_close(plain(x, names, mu, logvar, key=KEY), named)
    torch.testing.assert_close(
        plain(x, lambda z: (both(z)[0], 2 * both(z)[1]), mu, logvar, key=KEY), named
    )
    assert named.log_likelihood != got.log_likelihood


def test_a_learned_scale_is_a_parameter_and_a_tensor_a_buffer():
    decoder, x, mu, logvar = _model()
    module = FusedELBO("gaussian", log_std=torch.nn.Parameter(torch.zeros((), dtype=x.dtype)))
    assert list(module.state_dict()) == ["log_std"]
    module(x, decoder, mu, logvar, key=KEY).elbo.backward()
    z, _ = FusedGaussianLatent()(mu, logvar, key=KEY)
    want = ((x - decoder(z)) ** 2 - 1).sum() / len(x)
    torch.testing.assert_close(module.log_std.grad, want)
    held = FusedELBO("gaussian", std=torch.full((5,), 2.0))
    assert list(held.state_dict()) == ["std"]
    assert not list(held.parameters())
    assert held.double().std.dtype == torch.float64
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        got = copied(x, decoder, mu, logvar, key=KEY)
        torch.testing.assert_close(got, module(x, decoder, mu, logvar, key=KEY))


def test_eval_draws_too_for_a_loss_of_the_mean_is_no_elbo():
    decoder, x, mu, logvar = _model()
    module = FusedELBO().eval()
    first, second = (module(x, decoder, mu, logvar) for _ in range(2))
    assert first.elbo != second.elbo
    torch.testing.assert_close(first.kl, second.kl)
    got = module(x, decoder, mu, logvar, key=KEY)
    with sampling(module):
        torch.testing.assert_close(module(x, decoder, mu, logvar, key=KEY), got)
    torch.testing.assert_close(module.train()(x, decoder, mu, logvar, key=KEY), got)


def test_a_call_takes_what_the_latent_takes():
    decoder, x, mu, logvar = _model()
    std = (0.5 * logvar).exp()
    eps = torch.randn(mu.shape, dtype=mu.dtype)
    prior = (mu.detach() * 0.5, std.detach())
    for weighted in (False, True):
        latent = FusedGaussianLatent(num_samples=2 if weighted else None)
        given = {"eps": eps.expand(2, *eps.shape) if weighted else eps, "prior": prior}
        got = FusedELBO(latent=latent)(x, decoder, mu, std=std, **given)
        of_x = Bernoulli(logits=decoder(mu + std * eps)).log_prob(x).sum(-1)
        torch.testing.assert_close(got.log_likelihood, of_x.mean())
        if not weighted:
            want = kl_divergence(Normal(mu, std), Normal(*prior)).sum(1).mean()
            torch.testing.assert_close(got.kl, want)


def test_another_latent_and_another_likelihood():
    torch.manual_seed(2)
    x, logits = torch.randn(6, 5), torch.randn(6, 4, 8)
    decoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32, 5))

    def l1(x, mean, dims, width):
        return -((x - mean).abs() / width).sum(dims)

    latent = FusedCategoricalLatent(reduction="sample")
    got = FusedELBO(l1, latent, width=2.0)(x, decoder, logits, key=KEY)
    y, kl = latent(logits, key=KEY)
    want = -(x - decoder(y)).abs().sum(1) / 2
    torch.testing.assert_close(got, type(got)(want - kl, want, kl))


# By name: options, what the decoder gives of its output, a distribution of that, and the values.
LIKELIHOODS = {
    "gaussian": ({"std": 0.5}, lambda y: y, lambda y: Normal(y, 0.5), torch.randn),
    "laplace": ({"scale": 0.5}, lambda y: y, lambda y: Laplace(y, 0.5), torch.randn),
    "laplace of a scale": (
        {}, lambda y: (y, y.exp()), lambda y: Laplace(y, y.exp()), torch.randn,
    ),
    "student_t": (
        {"df": 3.0, "scale": 0.5}, lambda y: y, lambda y: StudentT(3.0, y, 0.5), torch.randn,
    ),
    "student_t of a scale": (
        {"df": 3.0}, lambda y: (y, y.exp()), lambda y: StudentT(3.0, y, y.exp()), torch.randn,
    ),
    "negative_binomial": (
        {"theta": torch.nn.Parameter(torch.tensor(1.5))}, lambda y: y.exp(),
        lambda y: NegativeBinomial(torch.tensor(1.5), logits=y - math.log(1.5)),
        lambda *shape: torch.randint(5, shape).float(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_options_and_what_the_decoder_gives(name, samples):
    """What no option gives comes from the decoder, in its order."""
    options, given, law, values = LIKELIHOODS[name]
    decoder, _, mu, logvar = _model(torch.float32)
    x = values(6, 5)
    latent = FusedGaussianLatent(reduction="sample", num_samples=samples)
    module = FusedELBO(name.split(" ")[0], latent, importance_weighted=False, **options)
    found = module(x, lambda z: given(decoder(z)), mu, logvar, key=KEY)
    z, _ = latent(mu, logvar, key=KEY)
    want = law(decoder(z)).log_prob(x).sum(-1)
    want = want if samples is None else want.mean(0)
    torch.testing.assert_close(found.log_likelihood, want, rtol=1e-5, atol=1e-5)


def test_8_bit_images_and_more_zeros():
    decoder, _, mu, logvar = _model(torch.float32)
    z, _ = FusedGaussianLatent()(mu, logvar, key=KEY)
    y = decoder(z)
    x = (torch.randint(256, (6, 5)) / 127.5 - 1).float()
    module = FusedELBO("discretized_logistic", scale=torch.nn.Parameter(torch.tensor(0.3)))
    found = module(x, decoder, mu, logvar, key=KEY).log_likelihood
    want = discretized_logistic_log_prob(x, y, 0.3).sum(1).mean()
    torch.testing.assert_close(found, want)
    counts = torch.randint(3, (6, 5)).float()
    module = FusedELBO("zero_inflated_negative_binomial", theta=2.0)
    found = module(counts, lambda z: (decoder(z).exp(), decoder(z)), mu, logvar, key=KEY)
    want = zero_inflated_negative_binomial_log_prob(counts, y.exp(), 2.0, y).sum(1).mean()
    torch.testing.assert_close(found.log_likelihood, want)


@pytest.mark.parametrize("samples", [None, 4])
@pytest.mark.parametrize("dim", [-1, 1, -2])
def test_classes(samples, dim):
    """Of tokens, and of pixels whose classes are no last dim; with importance weights too."""
    torch.manual_seed(4)
    x, mu, logvar = torch.randint(7, (6, 5)), torch.randn(6, 3), torch.randn(6, 3)
    decoder = torch.nn.Sequential(torch.nn.Linear(3, 35), torch.nn.Unflatten(1, (5, 7)))
    call = decoder if dim == -1 else lambda z: decoder(z).movedim(-1, 1)
    latent = FusedGaussianLatent(reduction="sample", num_samples=samples)
    module = FusedELBO("categorical", latent, **({} if dim == -1 else {"dim": dim}))
    found = module(x, call, mu, logvar, key=KEY)
    if samples is None:
        z, _ = latent(mu, logvar, key=KEY)
        log_q = log_p = None
    else:
        z, log_q, log_p = gaussian_rsample_log_prob(mu, logvar, num_samples=samples, key=KEY)
    logits = decoder(z.reshape(-1, 3)).view(*z.shape[:-1], 5, 7)
    want = Categorical(logits=logits).log_prob(x).sum(-1)
    if samples is None:
        torch.testing.assert_close(found.log_likelihood, want)
        return
    torch.testing.assert_close(found.log_likelihood, want.mean(0))
    bound = torch.logsumexp(want + log_p - log_q, 0) - math.log(samples)
    torch.testing.assert_close(found.elbo, bound)


def test_it_compiles_whole():
    decoder, x, mu, logvar = _model(torch.float32)
    for latent in (FusedGaussianLatent(), FusedGaussianLatent(num_samples=3)):
        module = FusedELBO(latent=latent)
        for mode in (True, False):
            module.train(mode)
            compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
            torch.testing.assert_close(
                compiled(x, decoder, mu, logvar, key=KEY), module(x, decoder, mu, logvar, key=KEY)
            )


def test_it_says_what_it_is():
    shown = repr(FusedELBO("gaussian", importance_weighted=False, std=0.1, min_std=0.01))
    assert "'gaussian', std=0.1, min_std=0.01, importance_weighted=False" in shown
    assert "FusedGaussianLatent()" in shown


def test_errors_say_what_was_given_and_what_is_expected():
    decoder, x, mu, logvar = _model()
    with pytest.raises(ValueError, match=r"'bernouli' .did you mean 'bernoulli'"):
        FusedELBO("bernouli")
    with pytest.raises(TypeError, match=r"'sdt'.*std"):
        FusedELBO("gaussian", sdt=1.0)
    with pytest.raises(TypeError, match="reduction"):
        FusedELBO("gaussian", reduction="sum")
    for reduction in ("mean", "none"):
        with pytest.raises(ValueError, match=f"batchmean, sum, sample.*'{reduction}'"):
            FusedELBO(latent=FusedGaussianLatent(reduction=reduction))
    with pytest.raises(ValueError, match=r"reduction.*Linear has None"):
        FusedELBO(latent=torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="x must be a tensor"):
        FusedELBO()(3.0, decoder, mu, logvar)
    with pytest.raises(ValueError, match=r"\(6, 5\).*\(6, 1, 5\)"):
        FusedELBO()(x, lambda z: decoder(z)[:, None], mu, logvar)
    with pytest.raises(ValueError, match=r"\(6, 5\).*each of 2 samples.*\(2, 6, 1, 5\)"):
        FusedELBO(latent=FusedGaussianLatent(num_samples=2))(
            x, lambda z: decoder(z)[:, None], mu, logvar
        )
    with pytest.raises(ValueError, match=r"classes along dim -1; got .*\(6, 4, 5, 7\)"):
        FusedELBO("categorical")(
            x.long(), lambda z: decoder(z)[:, None, :, None].expand(6, 4, 5, 7), mu, logvar
        )
    with pytest.raises(ValueError, match=r"gives 2 values.*laplace likelihood takes loc from it"):
        FusedELBO("laplace", scale=1.0)(x, lambda z: (decoder(z), 1.0), mu, logvar)
    for options in ({"beta": 2.0}, {"free_bits": 0.1}, {"beta": torch.ones(())}):
        with pytest.raises(ValueError, match="beta=1 and without free_bits"):
            FusedELBO(latent=FusedGaussianLatent(num_samples=2, **options))(x, decoder, mu, logvar)
