"""Swaps in other packages: one line lets the ops serve where people already work.

Each file is one package's, and is imported with it only when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..core.mistakes import suggestion
from .protocol import Report

CONSUMERS = (
    "torch_distributions",
    "diffusers",
    "pythae",
    "bayesian_torch",
    "blitz",
    "stable_baselines3",
    "torchrl",
    "scvi",
)
__all__ = ["CONSUMERS", "Report", "patch"]


def patch(consumer: str, **options: Any) -> Report:
    """Let the ops serve in place of another package's own formulas, in this process.

    Each function that is replaced is first compared with what it was when its replacement was
    written, by its parameters and by its source; another one is left alone, with a warning. A call
    that the ops can't serve goes to the original, and is counted. Patch before anything is
    compiled, and before other modules import a function (a class is no matter) by its name.

    Args:
        consumer: one of ``fused_reparam.integrations.CONSUMERS``, such as "diffusers".
        options: those of the consumer's own ``patch``. All have ``rng``: "philox", this package's
            noise, which is the default, or "torch", the very noise that was drawn before, the
            generator left in the same state.

    Returns:
        a report. ``str()`` makes a table of it: the consumer's version; each target replaced,
        already replaced, or skipped and why; and the calls so far, "fused" or "fallback: ..." with
        the reason, so that a swap that serves nothing is seen. ``undo()`` puts back what it has
        replaced and nobody else since; so does the end of a ``with`` block. To patch twice changes
        nothing.

    Raises:
        ValueError: the consumer is none of these.
        ModuleNotFoundError: it is not installed.

    Example:
        >>> import torch
        >>> from fused_reparam import integrations
        >>> normal = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
        >>> with integrations.patch("torch_distributions") as report:
        ...     z = normal.rsample()
        >>> report["Normal.rsample"].status, report.calls
        ('undone', {'fused': 1})
    """
    if consumer not in CONSUMERS:
        raise ValueError(
            f"there are integrations of {', '.join(CONSUMERS)}, got {consumer!r}"
            f"{suggestion(consumer, CONSUMERS)}"
        )
    return importlib.import_module(f"{__name__}.{consumer}").patch(**options)
