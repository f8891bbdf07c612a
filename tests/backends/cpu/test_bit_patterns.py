"""Parameters of any bits whatever, with each instruction set: no element minds its neighbours.

Under the sanitizers (`make sanitize`) this is also where an exponent or a sign that no formula
thought of would overflow an integer.
"""

import pytest
import torch

import fused_reparam as fr
from fused_reparam.families import FAMILIES
from tests.helpers import op_calls
from tests.helpers.cpu_truth import DTYPES, needs_native
from tests.helpers.elementwise_cases import GIVEN
from tests.helpers.loops import where

pytestmark = [needs_native, pytest.mark.usefixtures("isa")]
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
KEY = fr.noise.key(7)


def patterns(dtype):
    """Every sign and exponent with some mantissas: zeros, denormals, infinities and NaNs too."""
    bits, fraction = torch.finfo(dtype).bits, {torch.float32: 23, torch.float64: 52}
    kept = fraction.get(dtype, 10 if dtype == torch.float16 else 7)
    tops = torch.arange(2 ** (bits - kept)) << kept
    mantissas = torch.tensor([0, 1, 2 ** (kept - 1), 2**kept // 3, 2**kept - 1])
    found = (tops[:, None] + mantissas).flatten()
    return found.to(INTEGERS[bits // 8]).view(dtype)


def same(a, b):
    """Equal, where one NaN is as good as another."""
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


def computed(call, inputs):
    """What a call gives, and its gradients."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    outputs = [t for t in call(*leaves) if t.numel()]
    ones = [torch.ones_like(t) for t in outputs]
    return [*outputs, *torch.autograd.grad(outputs, leaves, ones)]


@pytest.mark.parametrize("family", GIVEN)
def test_draws(family):
    for dtype in DTYPES:
        with where(dtype):
            member, special = FAMILIES[family], patterns(dtype)
            eps = torch.linspace(-3, 3, special.numel()).to(dtype)
            if family in ("relaxed_bernoulli", "kumaraswamy", "uniform"):
                eps = torch.linspace(0.01, 0.99, special.numel()).to(dtype)
            constants = [-1e300, 1e300, 0.0, 1.0, 1.0, 0.5][: member.constants] or []
            if family in ("student_t", "relaxed_bernoulli"):
                constants = [1.5]
            for kind in range(5 if member.parameters > 1 else 1):

                def call(eps, *params, kind=kind):
                    args = op_calls.elementwise(
                        family, params, None, eps, kind=kind, prior_kind=kind, constants=constants,
                        reduction="sample",
                    )  # fmt: skip
                    return torch.ops.fused_reparam.elementwise(*args)

                for place in range(member.parameters):
                    params = [torch.full_like(special, 0.5) for _ in range(member.parameters)]
                    params[place] = special
                    forwards = computed(lambda *p, eps=eps: call(eps, *p), params)
                    flipped = computed(
                        lambda *p, eps=eps: call(eps.flip(0), *p), [p.flip(0) for p in params]
                    )
                    for a, b in zip(forwards, flipped, strict=True):
                        assert same(a, b.flip(0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_latents(dtype):
    for keyword in ["logvar", "log_std", "std", "var", "rho"]:
        with where(keyword):
            special = patterns(dtype)
            eps, half = (
                torch.linspace(-3, 3, special.numel()).to(dtype),
                torch.full_like(special, 0.5),
            )

            def call(loc, scale, eps):
                return fr.gaussian_latent(loc, **{keyword: scale}, eps=eps, reduction="none")

            for inputs in ((special, half), (half, special), (special, special)):
                forwards = computed(lambda *p: call(*p, eps), inputs)
                flipped = computed(lambda *p: call(*p, eps.flip(0)), [t.flip(0) for t in inputs])
                for a, b in zip(forwards, flipped, strict=True):
                    assert same(a, b.flip(0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [0, 1])
def test_categories(dim, dtype):
    """Each pattern among ordinary classes; the softmaxes side by side are the neighbours."""
    special = patterns(dtype)
    logits = torch.stack([special, torch.zeros_like(special), torch.ones_like(special)], 1 - dim)
    logits = logits if dim else logits.t().contiguous()
    along = logits.shape.index(3)
    other = 1 - along
    noise = torch.linspace(-1, 4, logits.numel()).view(logits.shape).to(dtype)
    for mode in range(3):

        def call(logits, noise, mode=mode):
            spec = op_calls.softmax(
                mode=mode, unimix=0.01 * (mode == 2), dim=along, reduction="none"
            )
            y, _, kl = torch.ops.fused_reparam.gumbel_softmax(logits, None, noise, None, *spec)
            return y, kl

        forwards = computed(lambda t, call=call: call(t, noise), [logits])
        flipped = computed(lambda t, call=call: call(t, noise.flip(other)), [logits.flip(other)])
        for a, b in zip(forwards, flipped, strict=True):
            assert same(a, b.flip(other if b.dim() == 2 else 0))
