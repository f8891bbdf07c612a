"""The families of distributions, a file for each kind: facts and formula, the specification."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .family import HALF_LOG_2PI, Family
from .gaussian import GAUSSIAN, GAUSSIAN_PRIOR, LOG_PROB, LOG_PROB_PRIOR
from .kumaraswamy import KUMARASWAMY
from .loc_scale import CAUCHY, GUMBEL, LAPLACE, LOGISTIC, STUDENT_T, UNIFORM
from .log_normal import LOG_NORMAL
from .mixture import MIXTURE
from .relaxed_bernoulli import RELAXED_BERNOULLI
from .tanh_normal import TANH_NORMAL

__all__ = ["FAMILIES", "HALF_LOG_2PI", "Family", "base_number", "is_standard"]

FAMILIES: dict[str, Family] = {
    "gaussian": GAUSSIAN,
    "gaussian_prior": GAUSSIAN_PRIOR,
    "log_prob": LOG_PROB,
    "log_prob_prior": LOG_PROB_PRIOR,
    "mixture": MIXTURE,
    "tanh_normal": TANH_NORMAL,
    "log_normal": LOG_NORMAL,
    "laplace": LAPLACE,
    "logistic": LOGISTIC,
    "gumbel": GUMBEL,
    "uniform": UNIFORM,
    "cauchy": CAUCHY,
    "student_t": STUDENT_T,
    "relaxed_bernoulli": RELAXED_BERNOULLI,
    "kumaraswamy": KUMARASWAMY,
}
"""By name, which backends receive; the order is the native library's numbering."""


def is_standard(family: str, numbers: Sequence[float], samples: int) -> bool:
    """Whether a call is a sample of a Gaussian and its KL to N(0, 1), for which a backend may have
    kernels of its own.
    """
    return family == "gaussian" and samples == 1 and tuple(numbers[2:]) == (0.0, 1.0, -math.inf)


def base_number(family: str, numbers: Sequence[float]) -> float:
    """The number that the family's base noise takes: Student's degrees of freedom, else unused."""
    return numbers[0] if family == "student_t" else 0.0
