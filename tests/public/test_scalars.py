"""Numbers: every public function takes what Python can read as one, and nothing else."""

import copy
import inspect
from decimal import Decimal
from fractions import Fraction

import pytest
import torch

import fused_reparam as fr
from fused_reparam import noise
from fused_reparam.families import FAMILIES
from tests.helpers.loops import where

np = pytest.importorskip("numpy")

KEY = noise.key(7)
MU = torch.linspace(-1.0, 1.0, 24).view(4, 6)
PUBLIC = [getattr(fr, name) for name in fr.__all__]
LAYERS = [c for c in PUBLIC if inspect.isclass(c) and issubclass(c, torch.nn.Module)]
FUNCTIONS = [*filter(inspect.isfunction, PUBLIC), noise.key, noise.normal]
# A value of each number, the same in every binary type; a tuple where several belong together.
VALUES = {
    "tau": 0.5, "unimix": 0.5, "beta": 0.5, "free_bits": 0.5, "df": 0.5, "rho_init": 0.5,
    "logvar": 0.5, "log_std": 0.5, "std": 0.5, "var": 0.5, "rho": 0.5, "scale": 0.5,
    "concentration0": 0.5, "low": -0.5, "high": 0.5, "clamp": (-0.5, 0.5), "prior": (0.5, 0.5),
    "prior_mean": 0.5, "prior_std": 0.5, "mixture": (0.5, 0.5, 0.25), "min_std": 0.5,
    "mu": 0.5, "mean": 0.5, "loc": 0.5, "logits": 0.5, "prior_probs": 0.5,
    "prior_concentration1": 0.5, "prior_concentration0": 0.5, "terms": 2, "dims": 1,
    "dim": 1, "num_samples": 2, "index_offset": 2, "seed": 2, "offset": 2, "shape": 2,
    "in_features": 2, "out_features": 2, "in_channels": 2, "out_channels": 2, "kernel_size": 2,
    "stride": 2, "padding": 2, "dilation": 2, "groups": 1, "num_embeddings": 3, "embedding_dim": 2,
    "padding_idx": 1, "max_norm": 0.5, "norm_type": 0.5, "input_size": 2, "hidden_size": 3,
    "num_layers": 2, "dropout": 0.0, "proj_size": 2, "threshold": 0.5,
    "bins": 3,
}  # fmt: skip
OF_ROWS = {
    name.rstrip("+") for row in FAMILIES.values() for name in f"{row.names} {row.prior}".split()
} - {
    "loc", "logits", "rate", "concentration1", "y", "x", "share", "std1", "std2",
    "count_mean",
}  # fmt: skip # which are tensors
VALUES = dict.fromkeys(sorted(OF_ROWS), 0.5) | VALUES
SCALES = {"logvar", "log_std", "std", "var", "rho"}
# What a function requires beside the number; of several scales none, where one is the number.
REQUIRED = {
    "mu": MU, "mean": MU, "loc": MU, "logits": MU, "moments": MU, "concentration1": MU.exp(),
    "z": MU, "action": 0.5 * MU, "y": MU.sigmoid(), "x": MU.sigmoid(), "theta": 0.7, "df": 3.0,
    "concentration0": 1.0, "key": KEY, "seed": 1, "shape": 3, "in_features": 3, "out_features": 3,
    "in_channels": 2, "out_channels": 2, "kernel_size": 3, "rho": 0.0, "scale": MU.exp(),
    "num_embeddings": 3, "embedding_dim": 2, "input_size": 2, "hidden_size": 3,
    "model": torch.nn.Linear(2, 3), "rate": MU.exp(), "alpha": 1.0, "concentration": 1.0,
    "prior_scale": 0.25, "prior_alpha": 1.0, "index": torch.tensor(1),
}  # fmt: skip


def numbers_of(function):
    """Names of the parameters that may be numbers."""
    for name, p in inspect.signature(function).parameters.items():
        said = str(p.annotation)
        if any(word in said for word in ("int", "float", "Prior", "Mixture")):
            yield name


def arguments(function, name):
    """All other arguments of a call with a number."""
    parameters = inspect.signature(function).parameters
    given = {
        other: copy.deepcopy(REQUIRED[other])
        for other, p in parameters.items()
        if p.default is p.empty and other != name
    }
    if name == "min_std":
        given |= {"rho": MU} if "rho" in parameters else {"scale": "rho"}
    elif parameters.keys() >= SCALES and name not in SCALES:
        given["log_std"] = MU
    if "theta" in parameters and name != "mu":  # of counts
        given["mu"] = MU.exp()
    if name == "df" and "base" in parameters:
        given["base"] = "student_t"
    if "key" in parameters and function is not noise.normal:
        given["key"] = KEY
    return given


PAIRS = [(f, name) for f in FUNCTIONS + LAYERS for name in numbers_of(f)]
EACH = pytest.mark.parametrize("function", FUNCTIONS + LAYERS, ids=lambda f: f.__name__)
FLOATS = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16,
    "longdouble": np.longdouble, "array": np.array, "fraction": Fraction, "decimal": Decimal,
    "tensor": torch.tensor, "one element": lambda v: torch.tensor([v]),
}  # fmt: skip
INTS = {
    "int64": np.int64, "int32": np.int32, "uint8": np.uint8, "array": np.array,
    "tensor": torch.tensor,
}  # fmt: skip


def forms(function, name):
    value = VALUES[name]
    first = value[0] if isinstance(value, tuple) else value
    found = dict(FLOATS if isinstance(first, float) else INTS)
    if takes_tensors(function, name):  # and they stay tensors
        found.pop("tensor", None)
        found.pop("one element", None)
    return found


def takes_tensors(function, name):
    said = str(inspect.signature(function).parameters[name].annotation)
    return "Tensor" in said or name in ("prior", "mixture")


def each(change, value):
    return tuple(map(change, value)) if isinstance(value, tuple) else change(value)


def results(function, name, value):
    torch.manual_seed(3)
    found = function(**arguments(function, name), **{name: value})
    if isinstance(found, torch.nn.Module):
        return repr(found)
    if isinstance(found, dict):
        found = tuple(map(torch.tensor, found.values()))
    return found if isinstance(found, tuple) else (found,)


def test_the_table_is_whole():
    assert {name for _, name in PAIRS} == VALUES.keys()
    assert len(LAYERS) == 13 and len(FUNCTIONS) >= 18  # noqa: PT018
    assert len(PAIRS) > 100


@EACH
def test_numbers_of_other_types(function):
    for name in numbers_of(function):
        with where(name):
            same_in_every_form(function, name)


def same_in_every_form(function, name):
    want = results(function, name, VALUES[name])
    for form, change in forms(function, name).items():
        got = results(function, name, each(change, VALUES[name]))
        if isinstance(want, str):
            assert got == want, form
            assert "np." not in got and "tensor" not in got  # noqa: PT018
        else:
            for g, w in zip(got, want, strict=True):
                assert g.dtype == w.dtype, form
                torch.testing.assert_close(
                    g.view(torch.int64) if g.dtype == torch.uint64 else g,
                    w.view(torch.int64) if w.dtype == torch.uint64 else w,
                    rtol=0, atol=0,
                )  # fmt: skip


BAD = [
    True, np.True_, torch.tensor(True), "1", b"1", np.str_("1"), 1j, np.complex64(1),
    torch.tensor(1j), [[1.0]], np.ones(3), np.array(["1"]), object(), torch.nn.Linear(1, 1),
]  # fmt: skip


@EACH
def test_what_is_no_number(function):
    for name in numbers_of(function):
        with where(name):
            refuse_what_is_none(function, name)


def refuse_what_is_none(function, name):
    bad = list(BAD)
    if not takes_tensors(function, name):
        bad += [torch.ones((), requires_grad=True), torch.ones(3), torch.ones((), device="meta")]
    if isinstance(VALUES[name], int):
        bad += [2.0, np.float32(2.0), Fraction(2), torch.tensor(2.0)]
    if name in ("low", "high"):  # an array is one for each action
        bad = [b for b in bad if type(b) is not np.ndarray or b.dtype.kind != "f"]
    # Other meanings of the same argument: a word, a size for each dim.
    if name == "padding":
        bad = [b for b in bad if not isinstance(b, str)]
    for value in bad:
        if name == "shape" and isinstance(value, list):
            continue
        with pytest.raises((TypeError, ValueError)) as caught:
            results(function, name, each(lambda v, b=value: b, VALUES[name]))
        said = str(caught.value)
        assert name.replace("_", " ") in said.replace("_", " "), (value, said)
        assert "tensor(" not in said, said
        assert "overload" not in said and "argument must be" not in said, said  # noqa: PT018
        assert len(said) < 400, said


@pytest.mark.parametrize("value", [10**400, Fraction(10**400)])
def test_what_no_float_holds(value):
    with pytest.raises(ValueError, match=r"tau must be finite, got .*1000"):
        fr.gumbel_softmax(MU, value)


def test_numbers_of_a_prior_and_its_scale():
    want = fr.gaussian_kl(MU, MU, prior=(MU, {"std": 0.5}))
    assert torch.equal(fr.gaussian_kl(MU, MU, prior=(MU, {"std": np.float32(0.5)})), want)
    assert torch.equal(fr.gaussian_kl(MU, MU, prior=(MU, np.float64(0.5))), want)
    with pytest.raises(TypeError, match="prior std must be a floating tensor or a number, got '1'"):
        fr.gaussian_kl(MU, MU, prior=(MU, {"std": "1"}))


def test_a_layer_annealed_by_numpy():
    layer, x = fr.FusedGumbelSoftmax(), MU
    layer.tau = np.float32(0.5)
    assert torch.equal(layer(x, key=KEY), fr.gumbel_softmax(x, 0.5, key=KEY))
    latent = fr.FusedGaussianLatent()
    latent.beta = np.array(0.5)
    want = fr.gaussian_latent(x, x, beta=0.5, key=KEY)
    for got, w in zip(latent(x, x, key=KEY), want, strict=True):
        assert torch.equal(got, w)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_with_numbers_as_arguments(dynamic):
    """Python numbers stay in one graph, also where the compiler makes symbols of them."""

    def step(x, tau, beta, samples, dim, low):
        y = fr.gumbel_softmax(x, tau, dim=dim, key=KEY)
        z, kl = fr.gaussian_latent(
            x, std=0.5, beta=beta, num_samples=samples, prior=(0, 2), free_bits=tau, key=KEY
        )
        a, _ = fr.tanh_normal_rsample(x, std=1, low=low, key=KEY)
        return y, z, kl, a

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="eager", dynamic=dynamic)
    for numbers in ((0.5, 2.0, 3, 1, -2), (1, 3, 2, 0, -0.5), (0.25, 0.5, 4, -1, 0.25)):
        for got, want in zip(compiled(MU, *numbers), step(MU, *numbers), strict=True):
            torch.testing.assert_close(got, want)


def test_symbols_of_a_tracer():
    """A shape as a number of samples, traced with symbols."""

    def step(x, key):
        return fr.gaussian_rsample(x, std=0.5, num_samples=x.shape[0], key=key)

    from torch.fx.experimental.proxy_tensor import make_fx

    traced = make_fx(step, tracing_mode="symbolic")(MU, KEY)
    torch.testing.assert_close(traced(MU, KEY), step(MU, KEY))
