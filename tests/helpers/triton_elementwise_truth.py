"""Runs a Triton draw and compares it with the reference's formulas in float64 on the same noise."""

from __future__ import annotations

from unittest import mock

import torch

from fused_reparam.backends import reference
from fused_reparam.backends import triton as backend
from fused_reparam.families import FAMILIES, stream_of
from fused_reparam.rng import bases as streams
from tests.helpers.triton_truth import (
    DEVICE,
    INF,
    KINDS,
    check,
    gathered,
    guarded,
    make_key,
    noise64,
    rows_of,
    scale_values,
    unit_roundoff,
    untouched,
    values,
)

SEED, OFFSET = 0x123456789ABCDEF, 2**64 - 3  # a carry past 64 bits
CONSTANTS = {
    "gaussian": (-INF, INF, 0.3, 1.7, -INF),
    "gaussian_prior": (-INF, INF, -INF),
    "log_prob": (-INF, INF, -0.2, 0.6),
    "log_prob_prior": (-INF, INF),
    "mixture": (-INF, INF, 0.1, 0.3, 1.5, 0.05),
    "tanh_normal": (-INF, INF, -2.0, 0.5),
    "tanh_normal_score": (-INF, INF, -2.0, 0.5),
    "tanh_normal_density": (-INF, INF, -1.5, 1.0, 0.1),  # some points are held
    "tanh_normal_between": (-INF, INF),
    "tanh_normal_score_between": (-INF, INF, 1e-3),
    "tanh_normal_density_between": (-INF, INF),
    "gaussian_density": (-INF, INF),
    "relaxed_bernoulli_density": (0.3, 0.8),
    "discretized_logistic_density": (0.2, -0.5, 0.5),
    "categorical_kl": (0.9, 0.05),
    "log_normal": (-INF, INF),
    "student_t": (5.0,),
    "relaxed_bernoulli": (0.7,),
}
FACTOR = 0.75


def base64(base: str, number: float, n: int, dtype: torch.dtype) -> torch.Tensor:
    """Base noise of the key, evaluated in float64 from the uniform numbers of its dtype."""
    if base == "normal":
        return noise64(SEED, OFFSET, n, dtype)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    made = streams.uniform

    def uniform(key, count, _):
        u = made(key, count, compute)
        return streams.Uniform(u.v.double(), u.upper)

    with mock.patch.object(streams, "uniform", uniform):
        return streams.BASES[base](make_key(SEED, OFFSET).cpu(), n, torch.float64, number)


def noise_error(eps: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (4e-6 + 1e-6 * eps.abs()) * (1e-8 if dtype == torch.float64 else 1.0)


def parameters(family: str, n: int, dtype: torch.dtype, kind: int = 0, prior: int = 0) -> list:
    """Each flat and on the CPU."""
    loc = values(n, dtype, 1)
    names = FAMILIES[family].names.split()
    if len(names) > 1 and names[0] != "loc":
        lighter = 2.0 if names[1] == "alpha+" else 0.0  # a tail that stays within float32
        rest = [(0.2 * values(n, dtype, 3)).abs().to(dtype)] * (len(names) - 2)
        return [(loc.abs() + 0.2).to(dtype), scale_values("std", n, dtype) + lighter, *rest]
    if len(names) > 1:
        rest = [(0.2 * values(n, dtype, 3)).to(dtype)] * (len(names) - 2)
        if names[-1] == "df+":
            rest = [(1.0 + values(n, dtype, 3).abs()).to(dtype)]
        return [(0.3 * loc).to(dtype), scale_values("std", n, dtype, 7), *rest]
    if names:
        return [(loc.abs() + 0.2).to(dtype) if names[0].endswith("+") else loc]
    made = [loc, scale_values(KINDS[kind], n, dtype)]
    if FAMILIES[family].parameters > 2:
        made.append(values(n, dtype, 3))
    if family.endswith("_between"):
        ahead = 0.0 if "density" in family else made[2]
        made.append((values(n, dtype, 4).abs() + 0.4 + ahead).to(dtype))
    elif FAMILIES[family].parameters > 3:
        made.append(scale_values(KINDS[prior], n, dtype, 4))
    return made


class Exact:
    """The reference in float64, element by element, and how far inputs that are a little off move
    it: the tolerance.
    """

    def __init__(self, family, kind, prior_kind, constants, params, eps, samples, dtype):
        self.options = family, kind, prior_kind, constants
        self.params, self.eps, self.samples, self.dtype = params, eps, samples, dtype
        self.unit = unit_roundoff(torch.float64 if dtype == torch.float64 else torch.float32)
        self.shape = (samples, params[0].numel()) if samples > 1 else (params[0].numel(),)

    def inputs(self, error):
        """The inputs, then the inputs with one of them moved at a time."""
        yield self.params, self.eps
        for i, p in enumerate(self.params):
            moved = p * (1 + 8 * self.unit) + 1e-30
            yield [*self.params[:i], moved, *self.params[i + 1 :]], self.eps
        if self.eps is not None:
            yield self.params, self.eps + error
            yield self.params, self.eps - error

    def spread(self, call, error):
        """(result, tolerance) of each result of a call."""
        first, *others = [call(*inputs) for inputs in self.inputs(error)]
        out = []
        for i, want in enumerate(first):
            moves = [(o[i] - want).abs().nan_to_num(0.0, 0.0) for o in others]
            size = want.abs().nan_to_num(0.0, 0.0, 0.0)
            out.append((want, sum(moves) + 16 * self.unit * (1 + size)))
        return out

    def forward(self, error):
        def call(params, eps):
            family, *rest = self.options
            z, found = FAMILIES[family].formula(params, self.shaped(eps), *rest)
            return [z.reshape(-1), *(v.reshape(-1) for v in found)]

        return self.spread(call, error)

    def backward(self, error, grad_z, grad_terms, wanted):
        def call(params, eps):
            pairs = zip(params, wanted, strict=True)
            grads = [torch.empty_like(p) if asked else None for p, asked in pairs]
            reference.elementwise_backward(
                *self.options, grad_z, grad_terms, params, None, eps, self.samples, FACTOR, True,
                grads,
            )  # fmt: skip
            return [g for g in grads if g is not None]

        return self.spread(call, error)

    def shaped(self, eps):
        pairs = FAMILIES[self.options[0]].base_parameter is not None
        return eps if eps is None else eps.view(*self.shape, *((2,) if pairs else ()))


def run_and_check(
    family, dtype, n, *, kind=0, prior_kind=0, constants=None, samples=1, segments=1, rows=0,
    layouts=(), given=False, params=None, with_z=True, with_terms=True, wanted=None, shift=0,
    key=None, grad_of=(True, True),
):  # fmt: skip
    """Forward and backward of one configuration, every element of every output.

    segments: of one sample. rows: 0 dense, else the parameters are rows with these layouts.
    """
    about = FAMILIES[family]
    if constants is None:
        constants = CONSTANTS.get(family, about.prior_constants(*about.some_prior().values()))
    flat = parameters(family, n, dtype, kind, prior_kind) if params is None else params
    dense = rows == 0
    count = samples * n
    place = (lambda t: t.to(DEVICE)) if dense or samples > 1 else (lambda t: t.view(rows, -1))
    params = [
        p.to(DEVICE) if dense else rows_of(p, rows, layout)
        for p, layout in zip(flat, layouts or [""] * len(flat), strict=True)
    ]
    eps = values(count, dtype, 2) if given else None
    noisy = with_z or (about.sampled and with_terms)
    if given:
        eps64, error = eps.double(), torch.zeros(())
    elif noisy:
        base, number, each = stream_of(family, constants)
        eps64 = base64(base, number, each * count, dtype)
        error = noise_error(eps64, dtype)
    else:
        eps64, error = None, None
    exact = Exact(
        family, kind, prior_kind, constants, [gathered(p) for p in params], eps64, samples, dtype
    )
    use = (make_key(SEED, OFFSET) if key is None else key) if noisy and not given else None
    eps = place(eps.to(DEVICE)) if given else None

    term_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    total = segments * (samples if about.sampled else 1)
    z, z_buffer = guarded(count, dtype, shift)
    made = [guarded(total, term_dtype) for _ in range(about.terms if with_terms else 0)]
    backend.elementwise_forward(
        family, kind, prior_kind, constants, params, use, eps, samples, FACTOR, dense,
        z if with_z else None, [v for v, _ in made],
    )  # fmt: skip
    (want, tolerance), *found = exact.forward(error)
    rounding = unit_roundoff(dtype) * 1.01
    if with_z:
        tiny = torch.finfo(dtype).tiny
        check(f"{family}: z", z, want, tolerance + rounding * want.abs() + tiny)
        assert untouched(z_buffer, count, shift)
    for i, ((term, buffer), (each, off)) in enumerate(zip(made, found, strict=False)):
        want = FACTOR * each.view(total, -1).sum(1)
        check(f"{family}: value {i}", term, want, FACTOR * off.view(total, -1).sum(1))
        assert untouched(buffer, total)

    grad_z = values(count, dtype, 5) if with_z and grad_of[0] else None
    grad_terms = [
        values(total, term_dtype, 6 + i).to(DEVICE) if use_it else None
        for i, use_it in zip(range(len(made)), (grad_of[1], grad_of[-1]), strict=False)
    ]
    wanted = wanted or [True] * len(params)
    outs = [guarded(n, dtype, shift) if w else (None, None) for w in wanted]
    grads = [o if o is None or dense else o.view(rows, -1) for o, _ in outs]
    backend.elementwise_backward(
        family, kind, prior_kind, constants, None if grad_z is None else place(grad_z.to(DEVICE)),
        grad_terms, params, use, eps, samples, FACTOR, dense, grads,
    )  # fmt: skip
    pulled = exact.backward(
        error, None if grad_z is None else grad_z.double(),
        [None if g is None else gathered(g) for g in grad_terms], wanted,
    )  # fmt: skip
    largest = max([1.0, *(g.abs().max().item() for g in grad_terms if g is not None)])
    for i, ((out, buffer), (want, off)) in enumerate(
        zip([o for o in outs if o[0] is not None], pulled, strict=True)
    ):
        bound = largest * samples * off + rounding * want.abs() + torch.finfo(dtype).tiny
        check(f"{family}: gradient {i}", out, want, bound)
        assert untouched(buffer, n, shift)
