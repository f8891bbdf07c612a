"""A backend's functions as the Gaussian latent calls them: one sample, its KL to N(0, 1)."""

import math


def _constants(low, high):
    return low, high, 0.0, 1.0, -math.inf


def forward(backend, loc, scale, key, eps, kind, low, high, factor, dense, z, kl):
    """``z`` or ``kl`` may be None; a KL of S elements is of S equal parts of the latent."""
    backend.elementwise_forward(
        "gaussian", kind, 0, _constants(low, high), (loc, scale), key, eps, 1, factor, dense, z,
        [] if kl is None else [kl],
    )  # fmt: skip


def backward(
    backend, grad_z, grad_kl, loc, scale, key, eps, kind, low, high, factor, dense, grad_loc,
    grad_scale,
):  # fmt: skip
    """Each gradient may be None: it did not come, or is not wanted."""
    backend.elementwise_backward(
        "gaussian", kind, 0, _constants(low, high), grad_z, [grad_kl], (loc, scale), key, eps, 1,
        factor, dense, (grad_loc, grad_scale),
    )  # fmt: skip
