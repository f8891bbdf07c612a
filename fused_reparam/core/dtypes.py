"""The dtypes that are served, and what each is computed in."""

from __future__ import annotations

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_COMPUTED_IN = dict.fromkeys(DTYPES, torch.float32) | {torch.float64: torch.float64}


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic, of divergences and of log-densities."""
    return _COMPUTED_IN.get(dtype, torch.float32)
