"""What is drawn has the distribution it says: chi-square and Kolmogorov-Smirnov, keys fixed."""

import pytest
import torch

from fused_reparam import categorical_latent, gumbel_softmax, noise, one_hot_categorical
from tests.helpers.elementwise_cases import QUICK
from tests.helpers.softmax_cases import logits_of

np = pytest.importorskip("numpy")
stats = pytest.importorskip("scipy.stats")

ROWS = 20_011
LOGITS = torch.tensor([2.0, -1.0, 0.5, 0.0, -3.0, 1.0, 0.0])
# A right draw fails for one key in a thousand, and the keys are fixed; a wrong one is far below.
LEAST = 1e-3
DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)


@pytest.fixture
def key(device):
    return noise.key(123, 45, device=device)


def many(logits, device, dtype=torch.float32):
    """Rows of the same logits."""
    return logits.to(device, dtype).expand(ROWS, -1).contiguous()


def fits(labels, logits, share=0.0):
    """The p-value of labels as draws from softmax(logits), mixed with equal shares."""
    p = torch.softmax(logits.double(), -1).cpu() * (1 - share) + share / logits.numel()
    counts = torch.bincount(labels.flatten().cpu(), minlength=logits.numel()).double()
    return stats.chisquare(counts.numpy(), (counts.sum() * p).numpy()).pvalue


@DTYPE
@QUICK
def test_classes_are_drawn_with_their_probabilities(device, key, dtype):
    x = many(LOGITS, device, dtype)
    exact = x[0].double().cpu()
    for tau in (0.1, 1.0, 10.0):
        y = gumbel_softmax(x, tau, hard=True, key=key)
        assert fits(y.argmax(-1), exact) > LEAST
    assert fits(categorical_latent(x, hard=True, key=key)[0].argmax(-1), exact) > LEAST
    for share in (0.0, 0.01, 0.5):
        labels = one_hot_categorical(x, share, key=key).argmax(-1)
        assert fits(labels, exact, share) > LEAST
        assert share != 0.5 or fits(labels, exact) < 1e-9, "the mixture is not the softmax"


@QUICK
def test_classes_along_another_dim(device, key):
    """Each of the inner places draws for itself."""
    x = LOGITS.to(device)[None, :, None].expand(1001, -1, 20).contiguous()
    for y in (gumbel_softmax(x, hard=True, dim=1, key=key), one_hot_categorical(x, dim=1, key=key)):
        labels = y.argmax(1)
        assert fits(labels, LOGITS) > LEAST
        # Neighbours inside and outside: pairs of independent draws.
        for a, b in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
            table = torch.bincount((7 * a + b).flatten().cpu(), minlength=49).view(7, 7).numpy()
            assert stats.chi2_contingency(table).pvalue > LEAST


@pytest.mark.parametrize(
    ("rows", "classes"), [(20_011, 2), (20_011, 33), (20_011, 64), (2003, 1000), (503, 16_411)]
)
@QUICK
def test_equal_classes(device, key, rows, classes):
    """No place in a row is preferred: not the first or the last, nor a lane of a vector."""
    zeros = torch.zeros(rows, classes, device=device)
    labels = gumbel_softmax(zeros, hard=True, key=key).argmax(-1).cpu()
    places = torch.arange(classes)
    for of in (lambda i: i * 16 // classes, lambda i: i % 16):
        expected = torch.bincount(of(places)).double() / classes
        counts = torch.bincount(of(labels), minlength=len(expected)).double()
        occupied = expected > 0
        test = stats.chisquare(counts[occupied].numpy(), rows * expected[occupied].numpy())
        assert test.pvalue > LEAST


@QUICK
def test_the_largest_soft_entry_is_the_hard_class_at_any_temperature(device, key):
    x = many(LOGITS, device)
    labels = [gumbel_softmax(x, tau, key=key).argmax(-1) for tau in (0.2, 1.0, 5.0)]
    assert fits(labels[0], LOGITS) > LEAST
    for other in (*labels[1:], gumbel_softmax(x, hard=True, key=key).argmax(-1)):
        assert torch.equal(labels[0], other)


@pytest.mark.parametrize("tau", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@QUICK
def test_two_relaxed_classes_are_logistic(device, key, dtype, tau):
    """tau * logit(y) is logistic around the difference of the logits."""
    x = torch.tensor([0.4, -0.5], dtype=dtype, device=device).expand(ROWS, 2).contiguous()
    y = gumbel_softmax(x, tau, key=key).double().cpu()
    values = tau * (torch.log(y[:, 0]) - torch.log(y[:, 1]))
    inside = values.isfinite()  # y of 0 where float32 has no smaller number
    assert inside.float().mean() > 0.99
    assert stats.kstest(values[inside].numpy(), stats.logistic(0.9).cdf).pvalue > LEAST
    assert stats.kstest(values[inside].numpy(), stats.logistic(0.8).cdf).pvalue < 1e-6


@DTYPE
@QUICK
def test_differences_of_relaxed_classes_are_logistic(device, key, dtype):
    """Of any two of many classes, also in 16 bits and in the last columns."""
    tau = 2.0
    x = logits_of((33,), dtype, device, scale=1.0).detach()
    y = gumbel_softmax(x.expand(ROWS, 33).contiguous(), tau, key=key).double().cpu().numpy()
    centre = x.double().cpu().numpy()
    for a, b in ((0, 1), (31, 32), (3, 17)):
        first, second = y[:, a], y[:, b]
        if dtype == torch.bfloat16:
            # Rounded to 8 bits: each number stands for an interval, and lies anywhere in it.
            spread = np.random.default_rng(a).uniform(-0.5, 0.5, (2, ROWS))
            first, second = (v + s * np.exp2(np.floor(np.log2(v)) - 7)
                             for v, s in zip((first, second), spread, strict=True))  # fmt: skip
        values = tau * (np.log(first) - np.log(second))
        assert stats.kstest(values, stats.logistic(centre[a] - centre[b]).cdf).pvalue > LEAST


@QUICK
def test_draws_are_independent(device, key):
    """Of rows, classes and keys: ranks of the noise, got back from y."""

    def draws(key):
        y = gumbel_softmax(torch.zeros(2003, 8, device=device, dtype=torch.float64), key=key)
        log_y = torch.log(y).cpu()
        return (log_y[:, ::2] - log_y[:, 1::2]).numpy()  # 4 independent logistics

    a, b = draws(key), draws(noise.key(124, 45, device=device))
    c = draws(noise.key(123, 45 + 2**20, device=device))
    pairs = [(a, b), (a, c), (a[1:], a[:-1]), (a[:, 1:], a[:, :-1]), (a[5:], a[:-5])]
    for x, y in pairs:
        correlation = np.corrcoef(x.ravel(), y.ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(x.size)
    assert stats.kstest(a.ravel(), stats.logistic.cdf).pvalue > LEAST


def test_the_generator_decides():
    x = torch.zeros(5, 9)
    for call in (gumbel_softmax, categorical_latent, one_hot_categorical):

        def draw(call=call, **options):
            out = call(x, **options)
            return out[0] if isinstance(out, tuple) else out

        torch.manual_seed(4)
        first, second = draw(), draw()
        torch.manual_seed(4)
        assert torch.equal(draw(), first)
        assert not torch.equal(first, second)
        one, other = (draw(generator=torch.Generator().manual_seed(5)) for _ in range(2))
        assert torch.equal(one, other)
        assert not torch.equal(one, first)


@QUICK
def test_gradient_of_the_expected_value(device, key):
    """One-hot: E[sum v y] has the gradient p (v - sum p v) exactly, for it is that of p."""
    x = many(LOGITS, device).requires_grad_()
    v = torch.arange(7.0, device=device)
    share = 0.25
    y = one_hot_categorical(x, share, key=key)
    (grad,) = torch.autograd.grad((y * v).sum(), x)
    p = torch.softmax(LOGITS.to(device), -1)
    want = (1 - share) * p * (v - (p * v).sum())
    torch.testing.assert_close(grad, want.expand(ROWS, 7), rtol=1e-5, atol=1e-6)
    # Relaxed: the mean of the path-wise gradient is that of the mean, by finite differences.
    step, tau = 0.05, 1.0
    x = many(LOGITS, device, torch.float64).requires_grad_()
    (grad,) = torch.autograd.grad((gumbel_softmax(x, tau, key=key) * v).sum(), x)
    for i in (0, 5):
        shift = torch.zeros(7, device=device, dtype=torch.float64)
        shift[i] = step
        up, down = ((gumbel_softmax(x.detach() + s * shift, tau, key=key) * v).sum(-1).mean()
                    for s in (1, -1))  # fmt: skip
        slope = (up - down) / (2 * step)
        torch.testing.assert_close(slope, grad[:, i].mean(), rtol=1e-2, atol=1e-4)
