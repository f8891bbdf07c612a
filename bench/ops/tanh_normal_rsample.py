"""A bounded action: `tanh(mean + exp(log_std) * eps)` and its log-density, summed over dim -1."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from bench.ops import gaussian
from bench.ops.base import Alive, Compute, Expected, Op, Oracle, Shape, Tensors, rounding
from bench.ops.gaussian_rsample_log_prob import HALF_LOG_2PI


def inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensors:
    """As a policy in training gives them."""
    mean, log_std = gaussian.normals(2, shape, dtype, device)
    return gaussian.leaves(mean.mul_(0.3), log_std.mul_(0.3).sub_(1))


def textbook(mean: Tensor, log_std: Tensor) -> Tensors:
    """As soft actor-critic is written, in the form that is right where tanh saturates."""
    std = torch.exp(log_std)
    eps = torch.randn_like(std)
    x = mean + std * eps
    log_slope = 2 * (math.log(2) - x - F.softplus(-2 * x))
    log_prob = -0.5 * eps**2 - log_std - HALF_LOG_2PI - log_slope
    return torch.tanh(x), log_prob.sum(-1)


def distributions(validate: bool) -> Compute:
    def compute(mean: Tensor, log_std: Tensor) -> Tensors:
        normal = Normal(mean, torch.exp(log_std), validate_args=validate)
        transform = TanhTransform(cache_size=1)
        policy = TransformedDistribution(normal, [transform], validate_args=validate)
        action = policy.rsample()
        return action, policy.log_prob(action).sum(-1)

    return compute


def ours(mean: Tensor, log_std: Tensor) -> Tensors:
    from fused_reparam import tanh_normal_rsample

    return tanh_normal_rsample(mean, log_std=log_std)


def incoming(shape: Shape, outputs: Tensors, sample_grad: Callable[[], Tensor]) -> Tensors:
    log_prob = outputs[1]
    weights = torch.linspace(0.5, 1.5, log_prob.numel(), dtype=torch.float64)
    return sample_grad(), weights.view(log_prob.shape).to(log_prob)


def oracle(shape: Shape, operands: Tensors, outputs: Tensors, incoming: Tensors) -> Oracle:
    """From the action's pre-image, which its rounding moves by `error`."""
    mean, log_std, action, grad, grad_log = (t.double() for t in (*operands, outputs[0], *incoming))
    unit = torch.finfo(outputs[0].dtype).eps / 2
    # A float16 action may be 1; its pre-image is then as far out as the rounding lets it be.
    x = torch.atanh(action.clamp(unit / 2 - 1, 1 - unit / 2))
    slope = 1 - torch.tanh(x) ** 2
    error = action.abs() / slope + mean.abs()
    sigma = torch.exp(log_std)
    off, grad_log = x - mean, grad_log.unsqueeze(-1)
    eps = off / sigma
    # The log-density falls by the logarithm of tanh's slope, whose derivative is -2 tanh(x).
    to_x = grad * slope + 2 * grad_log * action
    # Autograd takes tanh(x) for 2 sigmoid(2 x) - 1 where softplus was: terms of size 1.
    to_x_scale = grad.abs() * (1 + 2 * action.abs() * error * slope) + 2 * grad_log.abs() * (
        1 + slope * error
    )
    to_log_std = to_x * off - grad_log
    # Autograd sends eps' part of the density through x and back in some forms: it cancels.
    cancels = grad_log.abs() * (eps.abs() / sigma)
    elements = {
        "log prob": _log_prob(outputs[1].dtype, x, eps, log_std, error / sigma),
        "grad mean": Expected(to_x, to_x_scale + cancels),
        "grad log_std": Expected(
            to_log_std,
            to_x_scale * off.abs() + to_x.abs() * error + grad_log.abs() * (1 + eps**2)
            + cancels * error,
        ),
    }  # fmt: skip
    return Oracle(eps, elements)


def _log_prob(
    dtype: torch.dtype, x: Tensor, eps: Tensor, log_std: Tensor, eps_error: Tensor
) -> Expected:
    """Of whole rows, with the size of the terms and of what the pre-image's error adds to them."""
    log_slope = 2 * (math.log(2) - x - F.softplus(-2 * x))
    value = -0.5 * eps**2 - log_std - HALF_LOG_2PI - log_slope
    terms = 0.5 * eps**2 + log_std.abs() + HALF_LOG_2PI + 2 * (math.log(2) + x.abs())
    read = (eps.abs() + 2 * torch.exp(log_std)) * eps_error
    rows = (t.sum(-1) for t in (value, terms, read))
    shift = rounding(HALF_LOG_2PI, dtype) + 2 * rounding(math.log(2), dtype)
    return Expected(*rows, shift=shift * value.shape[-1])


def results(outputs: Tensors, gradients: Tensors) -> dict[str, Tensor]:
    return {"log prob": outputs[1], "grad mean": gradients[0], "grad log_std": gradients[1]}


OP = Op(
    name="tanh_normal_rsample",
    inputs=inputs,
    textbook=textbook,
    distributions=distributions,
    ours=ours,
    output_shapes=lambda shape: (shape, shape[:-1]),
    operands=gaussian.itself,
    incoming=incoming,
    oracle=oracle,
    sums=gaussian.no_sums,
    results=results,
    # forward: mean, log_std in, action out; backward: these two and the action's gradient in, two
    # gradients out. The log-density, a number for a row, is not counted.
    moved={"forward": 3, "backward": 5, "forward+backward": 8},
    made={"forward": 1, "backward": 2, "forward+backward": 3},
    noise_passes={"forward": 1, "backward": 1, "forward+backward": 2},
    alive={"pytorch": Alive(14, 16), "reference": Alive(20, 34), "fused": Alive(1, 3)},
    # The log-density is a sum over whole rows.
    sliced=lambda _: 0,
    sizes=("256x6", "65536x6"),
    dtypes=("float32",),
)
