"""The short way through relaxed categories agrees with the general one, or declines.

And rows of few classes, which the native library sees as columns.
"""

from __future__ import annotations

import pytest
import torch
from category_cases import CASES, logits_of
from draw_cases import QUICK, cotangents

import fused_reparam
from fused_reparam import noise
from fused_reparam.ops import rows_short
from fused_reparam.ops.rows import relaxed_categories


@pytest.fixture
def key():
    return noise.key(2**63 + 5, 2**32 - 7)


def outputs_of(way, case, logits, key, dim, want_kl):
    if way == "short":
        found = rows_short.draw(logits, *case, dim, "none" if want_kl else None, key, None)
        assert found is not None
    else:
        found = relaxed_categories(logits, key, None, *case, dim, True, want_kl)
    return found if want_kl else found[:1]


def derivatives(outputs, logits):
    """The gradient of a weighted sum, and the gradient of a weighted sum of that."""
    grads = cotangents(outputs)
    (first,) = torch.autograd.grad(outputs, logits, grads, create_graph=True)
    if not first.requires_grad:
        return (first,)
    (second,) = torch.autograd.grad(first, logits, cotangents([first], seed=5))
    return first.detach(), second


@pytest.mark.parametrize(
    ("shape", "dim"), [((40, 20), 1), ((3, 7, 4), 1), ((9,), 0), ((5, 2, 3), 0)]
)
@pytest.mark.parametrize("want_kl", [False, True])
@pytest.mark.parametrize("name", CASES)
@QUICK
def test_agrees_with_the_general_way(device, key, name, want_kl, shape, dim):
    found = {}
    for way in ("short", "general"):
        logits = logits_of(shape, device=device)
        outputs = outputs_of(way, CASES[name], logits, key, dim, want_kl)
        plain = torch.autograd.grad(outputs, logits, cotangents(outputs), retain_graph=True)
        found[way] = *(o.detach() for o in outputs), *plain, *derivatives(outputs, logits)
    for short, general in zip(found["short"], found["general"], strict=True):
        assert torch.equal(short, general)


def test_parts_of_the_outputs_alone(device, key):
    for name in CASES:
        for part in (0, 1):
            gradients = []
            for way in ("short", "general"):
                logits = logits_of((6, 5), device=device)
                output = outputs_of(way, CASES[name], logits, key, 1, True)[part]
                gradients += torch.autograd.grad(output, logits, cotangents([output]))
            assert torch.equal(*gradients)


def test_what_it_declines(device, key):
    case = CASES["soft"]

    def takes(logits, key=key):
        return rows_short.draw(logits, *case, 1, None, key, None) is not None

    logits = logits_of((4, 6), device=device).detach()
    assert takes(logits)
    assert not takes(logits_of((6, 4), device=device).detach().T)
    assert not takes(logits[:, ::2])
    assert not takes(logits.int())
    assert not takes(logits[:0])
    assert not takes(logits, torch.stack([key.view(torch.int64)] * 2, 1)[:, 0])
    taken = []
    torch.vmap(lambda x: taken.append(takes(x)) or x)(logits[None])
    assert taken == [False]


def test_a_fresh_key_at_each_call(device):
    logits = logits_of((4, 50), device=device)
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws += [fused_reparam.gumbel_softmax(logits) for _ in range(2)]
    assert torch.equal(draws[0], draws[2])
    assert torch.equal(draws[1], draws[3])
    assert not torch.equal(draws[0], draws[1])


@pytest.mark.parametrize("classes", [2, 3, 20, 63, 64, 65, 127, 128, 129])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_rows_of_few_classes(isa, key, classes, dtype):
    """Noise and results of each row are those that the reference gives it."""
    tolerance = {torch.float32: 3e-6, torch.float64: 1e-13, torch.bfloat16: 8e-3}[dtype]
    for rows in (2, 15, 16, 17, 64, 65, 200):
        for name in ("soft", "unimix"):
            found = []
            for backend in ("reference", "native"):
                with fused_reparam.backend(backend):
                    logits = logits_of((rows, classes), dtype)
                    outputs = outputs_of("general", CASES[name], logits, key, 1, True)
                    found.append((*outputs, *derivatives(outputs, logits)[:1]))
            for want, got in zip(*found, strict=True):
                torch.testing.assert_close(got, want, rtol=tolerance, atol=3 * tolerance)


@pytest.mark.parametrize("threads", [2, 3])
def test_bits_of_turned_rows_do_not_depend_on_threads(key, threads):
    found = []
    for n in (1, threads):
        before = torch.get_num_threads()
        torch.set_num_threads(n)
        try:
            with fused_reparam.backend("native"):
                logits = logits_of((3001, 37))
                outputs = outputs_of("short", CASES["soft"], logits, key, 1, True)
                found.append((*outputs, *derivatives(outputs, logits)))
        finally:
            torch.set_num_threads(before)
    for one, many in zip(*found, strict=True):
        assert torch.equal(one, many)
