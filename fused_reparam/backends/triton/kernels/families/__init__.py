"""The formulas of the element-wise families of `fused_reparam.families`, in a file for each kind.

A function is found by its name. There are two kinds of families. One takes its parameters as they
are: its functions have the name of the row's `transform` (or `hard`) or `term`, and take tiles a ..
d of the parameters, of which a sample has three at most, noise, and the constants n2 .. n6:

    <transform>_sample(a, b, c, eps, n2 .. n6)                  z
    <transform>_sample_gradients(a, b, c, eps, gz, n2 .. n6)    what gz, z's gradient, gives a, b, c
    <term>_term(a, b, c, d, n2 .. n6)                           the term
    <term>_term_gradients(a, b, c, d, gk, n2 .. n6)             what gk, the term's, gives a .. d

A gradient is 0.0 for a parameter that the family lacks; Triton 3.6 can't return None. The other
kind, as every family whose second parameter is a scale keyword, prepares something of its
parameters, once for all samples. Its functions have the family's name, and take tuples: p of the
four parameters, s of what is prepared, n of the constants. `formulas` has those that a family has
not:

    <family>_prepare(p, n)                            s
    <family>_draw(p, s, eps, n, GIVEN)                z, and two terms, or 0.0 in their places
    <family>_divergence(p, s, n)                      a term that needs no noise
    <family>_pull(p, s, eps, gz, g0, g1, sums, n)     sums, one sample's part of the gradients added
    <family>_zeros()                                  where the third of these sums begins
    <family>_divergence_gradients(p, s, gk, found, to_sigma, to_log, n)
                                                      found, with gk's part of the gradients added
    <family>_finish(p, s, gk, sums, n)                the parameters' gradients of these sums

gz is the gradient of z; g0, g1 and gk are those of terms, scaled, or None. The sums are the
gradients of loc, of sigma through the sample, of the density's -log sigma, of the prior's mean and
of its -log sigma. `found` is the gradients of loc, of the scale's parameter, and the last two sums;
to_sigma and to_log are the slopes of sigma and of log sigma in the scale's parameter. GIVEN:
whether the noise is the caller's.

`<family>_constants` of either kind makes n of the row's constants, on the host; without it they are
n, but for a scale's bounds. Kernels take functions as constants.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Any

from .....families import FAMILIES
from .. import formulas

_SUFFIXES = (
    "_sample", "_term", "_gradients", "_prepare", "_draw", "_divergence", "_pull", "_zeros",
    "_finish", "_constants",
)  # fmt: skip


def _found() -> dict[str, Any]:
    functions: dict[str, Any] = {}
    for module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
        members = vars(importlib.import_module(f"{__name__}.{module}"))
        functions |= {name: member for name, member in members.items() if name.endswith(_SUFFIXES)}
    return functions


FORMULAS = _found()
"""The families' functions, by name."""

_SHARED = {
    "prepare": formulas.scale_prepare,
    "draw": formulas.linear_draw,
    "pull": formulas.linear_pull,
    "zeros": formulas.row_zeros,
    "finish": formulas.scale_finish,
}


def _own_or_shared(family: str, *steps: str) -> tuple[Any, ...]:
    return tuple(FORMULAS.get(f"{family}_{step}", _SHARED.get(step)) for step in steps)


@functools.cache
def functions(family: str, kind: int, backward: bool = False) -> tuple[Any, ...]:
    """PREPARE, SAMPLE and TERM_OF; of the backward kernel PREPARE .. FINISH."""
    about = FAMILIES[family]
    transform = about.hard if about.hard and kind == 1 else about.transform
    sample, term = f"{transform}_sample", f"{about.term}_term"
    if sample in FORMULAS and backward:
        found = FORMULAS[f"{sample}_gradients"], FORMULAS.get(f"{term}_gradients")
        return None, *found, formulas.row_zeros, None
    if sample in FORMULAS:
        return None, FORMULAS[sample], FORMULAS.get(term)
    if backward:
        return _own_or_shared(family, "prepare", "pull", "divergence_gradients", "zeros", "finish")
    return _own_or_shared(family, "prepare", "draw", "divergence")
