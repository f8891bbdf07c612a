"""Parameters for every element-wise family, and its formula in float64."""

import math

import pytest
import torch

from fused_reparam.core import reductions
from fused_reparam.families import FAMILIES, stream_of
from fused_reparam.ops.elementwise import Spec, elementwise
from fused_reparam.ops.elementwise_formula import evaluate
from fused_reparam.ops.elementwise_spec import (
    kept,
    parameters,
    settled,
    shape_of,
    stacked,
    stacked_order,
    term_samples,
)

# Without the interpreter, for what the ops do around a backend's call.
QUICK = pytest.mark.parametrize(
    "target",
    ["reference-cpu", "native-cpu"]
    + (["reference-cuda", "triton-cuda"] if torch.cuda.is_available() else []),
    indirect=True,
)
_FREE = (-math.inf, math.inf)
_CONSTANTS = {
    "gaussian": (-1.0, 1.0, 0.3, 1.5, 0.1),
    "gaussian_prior": (*_FREE, -math.inf),
    "log_prob": (*_FREE, 0.3, 1.5),
    "log_prob_prior": _FREE,
    "mixture": (*_FREE, 0.1, 0.3, 1.0, 0.2),
    "tanh_normal": (-1.5, 0.5, -2.0, 1.0),
    "tanh_normal_score": (-1.5, 0.5, -2.0, 1.0),
    "tanh_normal_density": (-1.5, 0.5, -1.0, 0.9, 0.1),  # some points are held
    "tanh_normal_between": (-1.5, 0.5),
    "tanh_normal_score_between": (-1.5, 0.5, 0.01),
    "tanh_normal_density_between": (-1.5, 0.5),
    "gaussian_density": (-1.5, 0.5),
    "relaxed_bernoulli_density": (0.3, 0.8),
    "discretized_logistic_density": (0.2, -0.5, 0.5),
    "categorical_kl": (0.9, 0.05),
    "log_normal": _FREE,
    "student_t": (3.0,),
    "relaxed_bernoulli": (0.7,),
}
# Positions of the parameters that must be positive.
_POSITIVE = {
    name: [i for i, word in enumerate(row.names.split()) if word.endswith("+")]
    for name, row in FAMILIES.items()
}
# Where a term is finite: uniform members inside the standard one, a Pareto above its prior, a share
# below 1.
_SHRINK = {
    ("uniform", 0): 0.2,
    ("uniform", 1): 0.2,
    ("pareto_prior", 2): 0.1,
    ("mixture_density", 1): 0.3,
}
# Those that take noise which is given.
GIVEN = [name for name, row in FAMILIES.items() if row.base_parameter is None]
# Those whose scale parameter has a kind.
SCALED = [name for name, row in FAMILIES.items() if row.scaled]


def spec(family, samples=0, reduction="sample", order=(), kind=None, sample=True):
    """A call of a family; the scale's kind is log_std where the family has one."""
    kind = (1 if family in SCALED else 0) if kind is None else kind
    row = FAMILIES[family]
    constants = list(_CONSTANTS.get(family, row.prior_constants(*row.some_prior().values())))
    return Spec(list(order), family, kind, 4, constants, samples, sample, reduction)


def params(family, shape=(5, 7), dtype=torch.float32, device="cpu", seed=0):
    """Parameters in the family's domain; leaves that require grad."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(FAMILIES[family].parameters):
        t = 0.6 * torch.randn(shape, generator=generator, dtype=torch.float64)
        shrink = _SHRINK.get((family, i), 1.0)
        t = shrink * (t.abs() + 0.2) if i in _POSITIVE[family] else shrink * t
        if i > 1 and family == "tanh_normal_density_between":  # none is held
            t = t.abs() + 0.4
        elif i > 2 and family.endswith("_between"):  # beyond the lower end
            t = t.abs() + 0.4 + found[2].detach().double().cpu()
        found.append(t.to(device=device, dtype=dtype).requires_grad_())
    return found


def noise_for(key, params, s, dtype=None):
    """The base noise of a call, shaped and laid out as its z, or as pairs where its formula takes
    them.
    """
    compute = torch.float64 if params[0].dtype == torch.float64 else torch.float32
    s = settled(params, s)
    shape = stacked(s.samples, shape_of(parameters(params, s)))
    order = stacked_order(s.samples, s.order)
    base, number, each = stream_of(s.family, s.constants)
    if each > 1:
        shape, order = (*shape, each), [*(order or range(len(shape))), len(shape)]
    return torch.ops.fused_reparam.base_noise(key, shape, order, dtype or compute, base, number)


def results(params, s, key=None, eps=None):
    """z, if wanted, and the values in one tuple."""
    z, terms = elementwise(params, key, eps, s)
    return (z, *terms) if s.sample else terms


def formula(params, eps, s, dtype=torch.float64):
    """The same by the families' formulas in one dtype, by default float64."""
    found = evaluate_in(params, eps, s, dtype)
    return found if s.sample else found[1:]


def evaluate_in(params, eps, s, dtype):
    if dtype.itemsize > 2:
        return evaluate([p.to(dtype) for p in params], None if eps is None else eps.to(dtype), s)
    # As plain PyTorch would compute it: every step rounded to 16 bits.
    params = parameters(params, s)
    shape = shape_of(params)
    p = [t.to(dtype).expand(shape) for t in params]
    z, terms = FAMILIES[s.family].formula(p, eps.to(dtype), s.kind, s.prior_kind, s.constants)
    first = kept(shape, s) + (1 if term_samples(s) else 0)
    factor = reductions.factor(shape, s.reduction)
    return z, *(factor * v.flatten(first).sum(-1) if v.dim() > first else v for v in terms)


def cotangents(outputs, seed=3):
    """A gradient for each output."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.device, o.dtype)
        for o in outputs
    ]


def gradients(outputs, inputs, grads):
    return torch.autograd.grad(outputs, inputs, grads, materialize_grads=True)
