"""Calls of the Gumbel-softmax, and what they should give by PyTorch's operators alone."""

import math
from typing import NamedTuple

import torch

from fused_reparam.families.categorical import HARD, ONE_HOT, SOFT
from fused_reparam.ops.layout import memory_order
from fused_reparam.ops.softmax import gumbel_softmax
from fused_reparam.ops.softmax_call import Spec
from tests.helpers.elementwise_cases import cotangents
from tests.helpers.formulas import within_twice_the_error


class Case(NamedTuple):
    mode: int
    tau: float = 0.7
    unimix: float = 0.0


CASES = {
    "soft": Case(SOFT),
    "hard": Case(HARD),
    "one hot": Case(ONE_HOT),
    "unimix": Case(ONE_HOT, unimix=0.05),
}


def logits_of(shape, dtype=torch.float32, device="cpu", seed=0, scale=2.0):
    """A leaf that requires grad."""
    generator = torch.Generator().manual_seed(seed)
    t = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    return t.to(device=device, dtype=dtype).requires_grad_()


def noise_of(shape, dtype=torch.float32, device="cpu", seed=1):
    """Gumbel numbers, but not the package's."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(shape, generator=generator, dtype=torch.float64).clamp_min(1e-9)
    return -torch.log(-torch.log(u)).to(device=device, dtype=dtype)


def own_noise(key, logits):
    """The stream's numbers as a call with this key meets them, unrounded."""
    compute = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return torch.ops.fused_reparam.base_noise(
        key, logits.shape, memory_order(logits), compute, "gumbel", 0.0
    )


def run(case, logits, key=None, noise=None, dim=-1, want_y=True, want_kl=True):
    """The outputs that are wanted: y, the KL of each variable."""
    reduction = "none" if want_kl else None
    if want_y:
        y, kl = gumbel_softmax(logits, key, noise, *case, dim, reduction)
    else:
        spec = Spec(None, *case, dim % logits.dim(), want_y, False, reduction)
        y, _, kl = torch.ops.fused_reparam.gumbel_softmax(logits, key, noise, None, *spec)
    return (*(y,) * want_y, *(kl,) * want_kl)


def composition(case, logits, noise, dim=-1):
    """(y, score, KL) in the logits' dtype; the class with the largest score is drawn.

    ``top`` is taken off so that float64 can judge logits of any size.
    """
    classes = logits.shape[dim]
    x = logits - logits.detach().amax(dim, keepdim=True)
    log_p = torch.log_softmax(x, dim)
    p = torch.softmax(x, dim)
    kl = (p * log_p.masked_fill(p == 0, 0.0)).sum(dim) + math.log(classes)
    if case.mode == ONE_HOT:
        relaxed = (1.0 - case.unimix) * p + case.unimix / classes
        score = (torch.log(relaxed) if case.unimix else log_p) + noise
    else:
        score = x + noise
        top = score.detach().amax(dim, keepdim=True)
        relaxed = torch.softmax((score - top) / case.tau, dim)
    if case.mode == SOFT:
        return relaxed, score, kl
    chosen = torch.zeros_like(score).scatter_(dim, score.detach().argmax(dim, keepdim=True), 1.0)
    return chosen + (relaxed - relaxed.detach()), score, kl


def exact(case, logits, noise, dim=-1):
    """The composition in float64, the leaf its gradients belong to first."""
    leaf = logits.detach().double().requires_grad_()
    return leaf, *composition(case, leaf, noise.double(), dim)


def gradient(outputs, leaf, grads):
    """The leaf's gradient for a gradient of each output; None is a missing one."""
    used = [(o, g.to(o.dtype)) for o, g in zip(outputs, grads, strict=True) if g is not None]
    outputs, grads = zip(*used, strict=True)
    return torch.autograd.grad(outputs, leaf, grads, retain_graph=True)[0]


def assert_one_hot(y, score, dim=-1, slack=1e-5):
    """Exactly one 1 in each row, the rest 0, and it stands where the score is largest."""
    assert ((y == 0) | (y == 1)).all()
    assert (y.sum(dim) == 1).all()
    picked = score.detach().masked_fill(y == 0, 0.0).sum(dim)
    best = score.detach().amax(dim)
    assert (picked >= best - slack * best.abs().clamp_min(1.0)).all()


def compare(case, logits, key, dim=-1, grads=cotangents, rtol=2e-5, atol=2e-6):
    """A call and its gradient against float64 with the backend's noise of the same key."""
    got = run(case, logits, key, dim=dim)
    leaf, want_y, score, want_kl = exact(case, logits, own_noise(key, logits), dim)
    y, kl = got
    if case.mode == SOFT:
        torch.testing.assert_close(y.double(), want_y.detach(), rtol=rtol, atol=atol)
    else:
        assert_one_hot(y, score, dim)
    assert y.shape == logits.shape
    torch.testing.assert_close(kl.double(), want_kl.detach(), rtol=rtol, atol=atol)
    given = grads(got)
    found, right = gradient(got, logits, given), gradient((want_y, want_kl), leaf, given)
    torch.testing.assert_close(found.double(), right, rtol=rtol, atol=5 * atol)
    return got


def right_within(got, want, plain, largest=0.0):
    """With a few roundings in float32: each row is a chain of sums, whose errors are luck."""
    roundings = 4 if got.dtype == torch.float32 else 1
    return within_twice_the_error(got, want, plain, largest, roundings)


def judge(case, logits, noise, dim=-1):
    """Given noise, so that nothing but the arithmetic differs: the rule of the design."""
    leaf, want_y, score, want_kl = exact(case, logits, noise, dim)
    plain = composition(case, logits, noise, dim)
    got = run(case, logits, noise=noise, dim=dim)
    grads = [g.to(logits.dtype) for g in cotangents((want_y, want_kl))]
    if case.mode == SOFT:
        assert right_within(got[0], want_y, plain[0])
    else:
        assert_one_hot(got[0], score, dim, slack=2 * torch.finfo(got[1].dtype).eps)
    assert got[0].dtype == logits.dtype
    log_classes = math.log(logits.shape[dim])
    assert right_within(got[1], want_kl, plain[2], log_classes)
    # y alone, the KL alone, and both.
    for given in (grads, (grads[0], None), (None, grads[1])):
        found = gradient(got, logits, given)
        right = gradient((want_y, want_kl), leaf, given)
        measure = gradient(plain[::2], logits, given)
        factors = (1.0 if case.mode == ONE_HOT else 1.0 / case.tau), log_classes
        terms = max(
            f * g.abs().max().item() for f, g in zip(factors, given, strict=True) if g is not None
        )
        assert right_within(found, right, measure, terms)
