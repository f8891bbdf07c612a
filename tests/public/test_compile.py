"""Every public function under torch.compile: results, gradients, keys, shapes, recomputation."""

import itertools

import pytest
import torch
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from fused_reparam import (
    exponential_rsample,
    functional,
    gaussian_latent,
    gaussian_rsample,
    gumbel_softmax,
    noise,
    one_hot_categorical,
)
from tests.helpers.elementwise_cases import FAMILIES, cotangents, gradients
from tests.helpers.public_cases import (
    CASES,
    EVERY_NOISY,
    assert_same,
    given_noise,
    given_noise_params,
    loss,
    run,
)


class Recorder(TorchDispatchMode):
    """The calls of the package's ops that a block makes: (op, arguments)."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.namespace == "fused_reparam":
            self.calls.append((op, args))
        return op(*args, **(kwargs or {}))


def ops_of(case):
    """The ops of a forward and a backward pass."""
    with Recorder() as recorder:
        run(case, case.params())
    return recorder.calls


def test_the_table_has_every_function_and_family():
    # Of a family with a law, a sample with its divergence is a sample too.
    stood_for = {f"{name}_rsample" for name, row in FAMILIES.items() if row.law and row.terms}
    called = {c.function.__name__ for c in CASES.values()}
    assert called == set(functional.__all__) - stood_for
    elementwise = torch.ops.fused_reparam.elementwise.default
    at = [a.name for a in elementwise._schema.arguments].index("family")
    seen = {args[at] for c in CASES.values() for op, args in ops_of(c) if op is elementwise}
    assert seen == set(FAMILIES)


# Of what differs from one op and its backward op: how many of each.
OPS_MADE = {
    "sample_weight mu rho prior_mean mixture=(0.3, 1.5, 0.2)": (2, 2),
    "sample_weight mu rho prior_mean share reduction=none": (2, 2),
    "tanh_normal_rsample mean log_std dims=(0, 2) return_pre_tanh=True": (2, 2),
    # Drawn by the op, and the rest by PyTorch's operators.
    "gumbel_softmax logits tau dim=0": (1, 0),
    # PyTorch's operators alone.
    "kumaraswamy_kl concentration1 concentration0 prior_concentration0=3.0": (0, 0),
    "gumbel_softmax_log_prob y logits tau=0.7 dim=0 reduction=sum": (0, 0),
    "categorical_log_prob logits index=1 dim=0 reduction=sum": (0, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_schemas_and_fake_kernels(name):
    """Of the ops that a call and its gradient make; the other parts of opcheck compile."""
    calls = ops_of(CASES[name])
    made = [op.name() for op, _ in calls]
    op, (forward, backward) = made[0] if made else "", OPS_MADE.get(name, (1, 1))
    assert sorted(made) == [op] * forward + [f"{op}_backward"] * backward
    for op, args in calls:
        given = [
            t.detach().requires_grad_(t.is_floating_point()) if isinstance(t, torch.Tensor) else t
            for t in args
        ]
        opcheck(op, given, test_utils=("test_schema", "test_faketensor"))


def test_the_key_as_an_op():
    opcheck(torch.ops.fused_reparam.draw_key.default, (torch.empty(0),))


def keys_drawn(call):
    """What a call returns, and how many keys its compiled graphs drew."""
    with torch.autograd.profiler.profile() as profile:
        found = call()
    return found, sum(e.name == "fused_reparam::draw_key" for e in profile.function_events)


# Bases and formulas differ in the kernels only, which a compiler does not see: one of each number
# of parameters and values will do, with every layout, reduction and way from a function to its op.
ALIKE = (
    "gaussian_kl mu logvar", "sample_weight mu rho prior", "log_normal_rsample", "kumaraswamy",
    "relaxed_bernoulli logits tau=0.7 hard", "loc_scale_rsample loc scale base=normal",
    *(
        f"{name}_latent"
        for name, row in FAMILIES.items()
        if row.law and row.terms and name not in ("exponential", "weibull")
    ),
    *(
        f"loc_scale_{kind} loc scale base={base}"
        for kind in ("rsample", "latent")
        for base in ("laplace", "logistic", "gumbel", "uniform", "cauchy")
    ),
)  # fmt: skip
COMPILED = {name: case for name, case in CASES.items() if not name.startswith(ALIKE)}
# One of each op, and of each way from a function to it.
OF_OPS = [
    next(name for name in CASES if name.startswith(start))
    for start in ("gaussian_latent mu logvar", "sample_weight mu rho mixture", "log_normal_latent",
                  "gumbel_softmax", "one_hot_categorical")
]  # fmt: skip


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_equals_eager(name):
    """Also where all is computed twice for want of memory, and for a new shape without a compile.

    The key of a call is given, that of another drawn: the graph's numbers are eager mode's. Of each
    op there is one call more, whose key no compiler may take for the other's.
    """
    torch._dynamo.reset()
    case = CASES[name]
    calls = 1 if not case.noisy else 3 if name in OF_OPS else 2

    def call(key, *params):
        inner = [t.sin() for t in params]  # to be made again in the backward pass
        keys = ({"key": key}, {}, {})[:calls]
        # sin: whose gradient takes the output again
        return [o.sin() for given in keys for o in case(*inner, **given)]

    compiled = torch.compile(
        call, fullgraph=True, dynamic=True, backend="aot_eager_decomp_partition"
    )
    key, found = noise.key(8), {}
    with (
        torch._dynamo.config.patch(error_on_recompile=True),
        torch._functorch.config.patch(activation_memory_budget=0),
    ):
        for shape in ((4, 3, 5), (6, 5, 7)):
            params = case.params(shape)
            for way in (call, compiled):
                torch.manual_seed(1)
                outputs = way(key, *params)
                grads, drawn = keys_drawn(lambda: gradients(outputs, params, cotangents(outputs)))
                found[way] = *outputs, *grads
                assert drawn == (calls - 1 if way is compiled else 0)
            for got, want in zip(found[compiled], found[call], strict=True):
                torch.testing.assert_close(got, want)
        outputs, later = found[compiled][: len(outputs)], compiled(key, *params)
    if case.noisy:
        samples = range(0, len(outputs), len(outputs) // calls)
        given, *drawn = (outputs[i] for i in samples)
        assert torch.equal(given, later[0])
        for a, b in itertools.combinations((given, *drawn, later[samples[1]]), 2):
            assert not torch.equal(a, b), "a key of its own"


def test_other_sources_of_noise():
    """Noise that is given, drawn as PyTorch draws it, or returned."""
    torch._dynamo.reset()

    def call(mu, x, eps, stacked):
        drawn = gaussian_latent(mu, x, rng="torch", num_samples=2, return_eps=True)
        others = [
            exponential_rsample(mu.exp(), rng="torch", sample_shape=(2, 1)),
            gumbel_softmax(mu, rng="torch"),
            one_hot_categorical(x, rng="torch"),
        ]
        returned = gaussian_rsample(mu, x, return_eps=True)
        return *given_noise(mu, x, eps, stacked), *drawn, *others, *returned

    params, found = given_noise_params(), []
    for way in (call, torch.compile(call, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        outputs = way(*params)
        of = [o for o in outputs if o.requires_grad]
        found.append((*outputs, *gradients(of, params, cotangents(of))))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", OF_OPS)
def test_checkpoints_under_a_compiler(name):
    torch._dynamo.reset()
    case = CASES[name]

    def call(*params):
        return checkpoint(lambda *p: loss(case(*p)), *params, use_reentrant=False)

    params, found = case.params(), []
    for way in (call, torch.compile(call, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        found.append(torch.autograd.grad(way(*params), params))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


@EVERY_NOISY
def test_the_seed_decides_in_eager_mode(case):
    torch.manual_seed(1)
    params = case.params()
    one, other = case(*params), case(*params)
    torch.manual_seed(1)
    assert_same(case(*params), one)
    assert not torch.equal(one[0], other[0])
