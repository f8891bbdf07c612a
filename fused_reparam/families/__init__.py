"""The families of distributions, a file for each kind: facts and formula, the specification.

Every row that a file here has is a family, whose name is the row's in lower case. A family with a
prior of numbers has a second row, ``<name>_prior``, which takes them as parameters.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Sequence

from .family import HALF_LOG_2PI, Family

__all__ = ["FAMILIES", "HALF_LOG_2PI", "Family", "base_number", "is_standard", "stream_of"]


def _found() -> dict[str, Family]:
    rows: dict[str, Family] = {}
    for module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
        members = vars(importlib.import_module(f"{__name__}.{module}"))
        rows |= {name.lower(): row for name, row in members.items() if isinstance(row, Family)}
    return rows | {f"{name}_prior": row.to_tensors() for name, row in rows.items() if row.prior}


FAMILIES: dict[str, Family] = _found()
"""By name, which backends receive. The order of files and of rows in them means nothing."""


def is_standard(family: str, constants: Sequence[float], samples: int) -> bool:
    """Whether a call is a sample of a Gaussian and its KL to N(0, 1), for which a backend may have
    kernels of its own.
    """
    return family == "gaussian" and samples == 1 and tuple(constants[2:]) == (0.0, 1.0, -math.inf)


def base_number(family: str, constants: Sequence[float]) -> float:
    """The number that the family's base noise takes, as Student's degrees of freedom; else 0."""
    at = FAMILIES[family].base_number
    return 0.0 if at is None else constants[at]


def stream_of(family: str, constants: Sequence[float]) -> tuple[str, float, int]:
    """The base noise that the family's formula takes, its number, and how many for an element.

    Where a parameter decides the noise, these are -ln u and -ln u' of its two uniform numbers.
    """
    if FAMILIES[family].base_parameter is not None:
        return "exponential", 0.0, 2
    return FAMILIES[family].base, base_number(family, constants), 1
