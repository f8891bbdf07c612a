"""The Triton backend: CUDA, ROCm and XPU tensors; CPU tensors in Triton's interpreter.

Importing this package imports neither triton nor a GPU runtime; the first use does.

In `kernels/`, what runs on the GPU:

- `philox`, `approx`, `box_muller`, `uniform`, `bases`, `keys`, `scale`: device functions, each
  once.
- `families`: the formulas of each family of `elementwise`; `formulas`: what they share.
- `tiles`, `softmax_tiles`: which elements a program works on, and where they lie.
- `fill`, `finish`, and `..._forward` and `..._backward` of `gaussian`, `elementwise` and
  `softmax`: the kernels.
- `torch_stream`: the Gaussian's with the numbers of ``torch.randn``, on CUDA.

Here, what runs on the host:

- `shapes`: tile shapes.
- `launch`: cutting tensors into tiles, and the launch of a variant of a kernel.
- `gaussian`, `elementwise`, `softmax`, `rng_torch`: the backend's functions: which variant a call
  takes, and its arguments.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_DEVICES = ("cuda", "xpu")


def _interpreter_asked() -> bool:
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def _interpreted() -> bool | None:
    """Whether kernels are interpreted; None when triton was imported under the other setting.

    Triton decides when its functions are defined: the variable must be set before its import.
    """
    language = sys.modules.get("triton.language.standard")
    asked = _interpreter_asked()
    if language is None or asked == (type(language.sum).__name__ == "InterpretedFunction"):
        return asked
    return None


@cache
def _triton_reason() -> str | None:
    try:
        found = importlib.util.find_spec("triton") is not None
    except (ImportError, ValueError):
        found = False
    if found:
        return None
    return "triton is not installed: pip install triton (or the extra, fused_reparam[triton])"


def unavailable_reason(device: torch.device) -> str | None:
    """None when this backend can serve tensors on `device`, else one sentence: what is missing."""
    missing = _triton_reason()
    if missing:
        return missing
    interpreted = _interpreted()
    if interpreted is None:
        return "TRITON_INTERPRET was changed after triton was imported: set it before that"
    if device.type == "cpu" and not interpreted:
        return (
            "the Triton backend serves CPU tensors only in Triton's interpreter: "
            "set TRITON_INTERPRET=1 in the environment before triton is first imported"
        )
    if device.type == "cpu":
        return None
    if device.type not in _DEVICES:
        return f"the Triton backend serves {' and '.join(_DEVICES)} devices, not {device.type}"
    return None


def info() -> dict[str, Any]:
    """Triton's version, whether kernels run in its interpreter, and the devices that are served."""
    missing = _triton_reason()
    if missing:
        return {"triton": None, "reason": missing}
    from importlib import metadata

    interpreted = bool(_interpreted())
    targets = ["cpu (interpreter)"] if interpreted else []
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:  # builds under another name
        import triton

        version = triton.__version__
    return {"triton": version, "interpreted": interpreted, "targets": [*targets, *_DEVICES]}


# Takes a `noise.HostKey`, and in the forward pass a `noise.GraphKey`.
DERIVES_KEYS = True


@cache
def torch_random() -> Any:
    """The calls for ``rng="torch"`` inside the kernels."""
    from . import rng_torch

    return rng_torch


# The backend's functions, stated in `reference`, and where they are.
_FUNCTIONS = {
    "normal": "gaussian",
    "base_noise": "gaussian",
    "elementwise_forward": "elementwise",
    "elementwise_backward": "elementwise",
    "softmax_forward": "softmax",
    "softmax_backward": "softmax",
}


def __getattr__(name: str) -> Any:
    """A function of the backend, at its first use: from then on it is in this module."""
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_FUNCTIONS[name]}")
    globals()[name] = getattr(module, name)
    return globals()[name]
