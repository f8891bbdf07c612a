"""The Triton backend's draws against the reference's formulas in float64 with the same noise.

Without a GPU the kernels run in Triton's interpreter on CPU tensors; with one, on the GPU.
"""

from __future__ import annotations

import pytest
import torch

from fused_reparam import noise
from fused_reparam.backends import triton as backend
from fused_reparam.families import FAMILIES
from fused_reparam.rng import bases as streams
from tests.helpers.triton_elementwise_truth import (
    CONSTANTS,
    OFFSET,
    SEED,
    base64,
    noise_error,
    parameters,
    run_and_check,
)
from tests.helpers.triton_truth import (
    DEVICE,
    DTYPES,
    KINDS,
    check,
    guarded,
    make_key,
    needs_backend,
    rows_of,
    unit_roundoff,
    untouched,
    values,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    needs_backend,
]


# --- base noise -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("base", streams.BASES)
def test_base_noise(base, dtype):
    n = 1029
    out, buffer = guarded(n, dtype)
    backend.base_noise(base, 5.0, make_key(SEED, OFFSET), out)
    want = base64(base, 5.0, n, dtype)
    rounding = unit_roundoff(dtype) * want.abs() * 1.01 if dtype.itemsize == 2 else 0 * want
    check(base, out, want, noise_error(want, dtype) + rounding)
    assert untouched(buffer, n)


# --- every family ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family):
    run_and_check(family, torch.float32, 517)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.float32], ids=str)
@pytest.mark.parametrize("family", ["gaussian", "tanh_normal"])
def test_every_dtype(family, dtype):
    run_and_check(family, dtype, 517, kind=1)


@pytest.mark.parametrize("family", ["log_prob_prior", "cauchy", "student_t_df", "gumbel"])
def test_float64(family):
    run_and_check(family, torch.float64, 67)


@pytest.mark.parametrize("family", FAMILIES)
def test_samples(family):
    """Of lengths that are whole vectors, and of others for each base noise."""
    run_and_check(family, torch.float32, 40, samples=3)
    if family not in ("gaussian", "gaussian_prior", "log_prob", "log_normal", "logistic"):
        run_and_check(family, torch.float32, 37, samples=2)


@pytest.mark.parametrize(
    ("dtype", "n"), [(torch.float64, 6), (torch.float64, 5), (torch.bfloat16, 4)], ids=str
)
def test_samples_of_other_widths(dtype, n):
    run_and_check("tanh_normal", dtype, n, samples=4, kind=1)
    run_and_check("student_t", dtype, n, samples=2)


@pytest.mark.parametrize("prior_kind", range(5), ids=KINDS)
def test_every_scale(prior_kind):
    kind = (prior_kind + 2) % 5
    for family in ("gaussian_prior", "log_prob_prior"):
        run_and_check(family, torch.float32, 130, kind=kind, prior_kind=prior_kind)


@pytest.mark.parametrize(("n", "segments", "samples"), [
    (60, 60, 1), (40, 40, 3), (37, 37, 2),  # each element
    (96, 12, 1), (96, 6, 2), (15, 5, 2), (1001, 7, 1),  # in a tile; across groups
    (3 * 2054, 3, 2), (2 * 5120, 2, 2), (5000, 1, 3),  # longer than a tile
])  # fmt: skip
def test_sums(n, segments, samples):
    """Values that belong to the element, and values that each sample has."""
    for family in ("gaussian", "log_prob"):
        run_and_check(family, torch.float32, n, segments=segments, samples=samples)


@pytest.mark.parametrize(
    "layouts",
    [("half", "one_row", "contiguous", "scalar"), ("transposed", "one_column", "half", "half")],
)
@pytest.mark.parametrize(("rows", "columns", "samples"), [(6, 24, 1), (3, 7, 1), (4, 8, 2)])
def test_rows(rows, columns, samples, layouts):
    """Views are read in place; gradients may be views too."""
    for family in ("gaussian_prior", "log_prob_prior"):
        run_and_check(
            family, torch.float32, rows * columns, rows=rows, layouts=layouts, segments=rows,
            samples=samples,
        )  # fmt: skip


def test_strided_gradients_and_noise():
    """The halves of one gradient; z's gradient and eps as rows."""
    n, rows = 4 * 24, 4
    params = [rows_of(p, rows, "half") for p in parameters("gaussian", n, torch.float32)]
    eps, grad_z = (rows_of(values(n, torch.float32, s), rows, "transposed") for s in (2, 5))
    whole = torch.full((rows, 2 * n // rows + 1), float("nan"), device=DEVICE)
    grads = [whole[:, : n // rows], whole[:, n // rows : 2 * n // rows]]
    constants = CONSTANTS["gaussian"]
    z = torch.full((rows, n // rows), float("nan"), device=DEVICE)
    backend.elementwise_forward(
        "gaussian", 0, 0, constants, params, None, eps, 1, 1.0, False, z, []
    )
    backend.elementwise_backward(
        "gaussian", 0, 0, constants, grad_z, [None], params, None, eps, 1, 1.0, False, grads
    )
    sigma = torch.exp(0.5 * params[1])
    torch.testing.assert_close(z, params[0] + sigma * eps)
    torch.testing.assert_close(grads[0], grad_z.contiguous())
    torch.testing.assert_close(grads[1], grad_z * eps * 0.5 * sigma)
    assert whole[:, -1].isnan().all()


@pytest.mark.parametrize("family", ["gaussian", "gaussian_prior", "mixture", "tanh_normal"])
def test_clamp(family):
    constants = (-1.0, 0.5, *CONSTANTS[family][2:])
    params = parameters(family, 67, torch.float32)
    params[1][:3] = torch.tensor([-1.0, 0.5, float("nan")])  # on the bounds: gradient factor 1
    run_and_check(family, torch.float32, 67, constants=constants, params=params, segments=67)


@pytest.mark.parametrize("family", ["gaussian", "gaussian_prior"])
def test_free_bits(family):
    constants = (*CONSTANTS[family][:-1], 0.8)
    run_and_check(family, torch.float32, 131, constants=constants, segments=131)


@pytest.mark.parametrize("parts", [
    {"with_z": False}, {"with_terms": False}, {"grad_of": (False, True, True)},
    {"grad_of": (True, True, False)}, {"grad_of": (True, False, True)},
    {"grad_of": (True, False, False)}, {"grad_of": (False, True, False)},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("family", ["gaussian_prior", "log_prob_prior", "tanh_normal"])
def test_parts(family, parts):
    run_and_check(family, torch.float32, 35, samples=2, **parts)


@pytest.mark.parametrize("index", range(4))
def test_one_gradient(index):
    wanted = [i == index for i in range(4)]
    run_and_check("log_prob_prior", torch.float32, 36, wanted=wanted)
    if index < 2:
        run_and_check("tanh_normal", torch.float32, 36, wanted=wanted[:2])


@pytest.mark.parametrize("family", ["gaussian", "mixture", "kumaraswamy", "cauchy"])
def test_given_noise_and_pointers_off_alignment(family):
    eps_is_positive = family == "kumaraswamy"
    if not eps_is_positive:
        run_and_check(family, torch.float32, 70, samples=2, given=True, shift=1)
    run_and_check(family, torch.float16, 71, shift=1)


# --- keys -----------------------------------------------------------------------------------------


def test_a_key_from_the_host_is_the_same_key():
    params = parameters("tanh_normal", 70, torch.float32)
    run_and_check("tanh_normal", torch.float32, 70, key=make_key(SEED, OFFSET).cpu())
    drawn = []
    for key in (make_key(7, 0), noise.HostKey(7, 0)):
        z = torch.full((70,), float("nan"), device=DEVICE)
        backend.elementwise_forward(
            "tanh_normal", 0, 0, CONSTANTS["tanh_normal"], [p.to(DEVICE) for p in params], key,
            None, 1, 1.0, True, z, [],
        )  # fmt: skip
        drawn.append(z)
    assert torch.equal(*drawn)


# --- the edges of the numbers ---------------------------------------------------------------------


def test_saturated_actions():
    """mean = +-20: the action is an end of its range, the density from the exact pre-image."""
    mean = torch.tensor([-20.0, 20.0, -9.0, 9.0, 0.0, 200.0])
    scale = torch.tensor([-5.0, -5.0, -1.0, 1.0, 0.0, 3.0])
    run_and_check("tanh_normal", torch.float32, 6, kind=1, params=[mean, scale], segments=6)


def test_rho_of_110():
    rho = torch.tensor([-110.0, 110.0, -50.0, 50.0, -1e-3])
    run_and_check("gaussian", torch.float32, 5, kind=4, params=[0 * rho, rho], segments=5)
    run_and_check("mixture", torch.float32, 5, kind=4, params=[0 * rho, rho], segments=5)


def test_temperatures():
    for tau in (1e-6, 1e6):
        run_and_check("relaxed_bernoulli", torch.float32, 33, constants=(tau,))
    run_and_check("relaxed_bernoulli", torch.float32, 33, kind=1)


def test_repeatable_bit_for_bit():
    params = [p.to(DEVICE) for p in parameters("log_prob", 5000, torch.float32)]
    runs = []
    for _ in range(2):
        found = [torch.full((2,), float("nan"), device=DEVICE) for _ in range(2)]
        backend.elementwise_forward(
            "log_prob", 0, 0, CONSTANTS["log_prob"], params, make_key(3), None, 2, 1.0, True, None,
            found,
        )  # fmt: skip
        runs.append(torch.cat(found))
    assert torch.equal(*runs)
