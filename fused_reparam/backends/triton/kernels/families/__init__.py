"""Formulas of element-wise families, a file for each: what `formulas` has no branch for.

A function's name is that of a row's `transform` or `term` (`fused_reparam.families`) and what it
gives, of tiles a, b, c of the first three parameters, of noise, and of its constants n2 ..:

    <transform>_sample(a, b, c, eps, n2 .. n6)                  z
    <transform>_sample_gradients(a, b, c, eps, gz, n2 .. n6)    what gz, z's gradient, gives a, b, c
    <term>_term(a, b, c, n2 .. n6)                            the term
    <term>_term_gradients(a, b, c, gk, n2 .. n6)              what gk, the term's, gives a, b, c

A family without b or c gives None in its place. Kernels take these functions as constants.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def _found() -> dict[str, Any]:
    functions: dict[str, Any] = {}
    for module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
        members = vars(importlib.import_module(f"{__name__}.{module}"))
        functions |= {
            name: member
            for name, member in members.items()
            if name.endswith(("_sample", "_term", "_gradients"))
        }
    return functions


FORMULAS = _found()
"""By name."""
