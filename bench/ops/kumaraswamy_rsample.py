"""A Kumaraswamy draw: `(1 - u^(1/b))^(1/a)`, u uniform."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Kumaraswamy

from bench import scores
from bench.ops import gaussian
from bench.ops.base import Alive, Base, Compute, Expected, Op, Oracle, Shape, Tensors


def inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensors:
    """Concentrations about 1."""
    a, b = gaussian.normals(2, shape, dtype, device)
    return gaussian.leaves(a.mul_(0.3).exp_(), b.mul_(0.3).exp_())


def textbook(a: Tensor, b: Tensor) -> Tensors:
    """With expm1 for the difference: `1 - u^(1/b)` is 0 for some u, and its gradient NaN."""
    least = torch.finfo(a.dtype).eps
    u = torch.empty_like(a).uniform_(least, 1 - least)
    return ((-torch.expm1(torch.log(u) / b)) ** (1 / a),)


def distributions(validate: bool) -> Compute:
    def compute(a: Tensor, b: Tensor) -> Tensors:
        return (Kumaraswamy(a, b, validate_args=validate).rsample(),)

    return compute


def ours(a: Tensor, b: Tensor) -> Tensors:
    from fused_reparam import kumaraswamy_rsample

    return (kumaraswamy_rsample(a, b),)


def oracle(shape: Shape, operands: Tensors, outputs: Tensors, incoming: Tensors) -> Oracle:
    """With x = z^a = 1 - exp(-noise / b), of which a is the slope on a logarithmic scale."""
    a, b, z, grad = (t.double() for t in (*operands, *outputs, *incoming))
    # Where rounding made it 0 or 1, it may have been as far from it as that.
    info = torch.finfo(outputs[0].dtype)
    z = z.clamp(info.smallest_normal * info.eps, 1 - info.eps / 4)
    x = z**a
    rest, log_rest = 1 - x, torch.log1p(-x)
    to_a = -z * torch.log(z) / a
    to_b = z * rest * log_rest / (a * b * x)
    # Rounding errors of z, and of 1 - x where that is how x was made.
    a_scale = to_a.abs() + z * (1 + 1 / x) / a
    b_scale = z / (a * b * x) * ((rest * log_rest).abs() + a * x * (log_rest.abs() + 1) + 1)
    elements = {
        "grad a": Expected(grad * to_a, grad.abs() * a_scale),
        "grad b": Expected(grad * to_b, grad.abs() * b_scale),
    }
    return Oracle(scores.of_exponential(-b * log_rest), elements)


def results(outputs: Tensors, gradients: Tensors) -> dict[str, Tensor]:
    return {"grad a": gradients[0], "grad b": gradients[1]}


OP = Op(
    name="kumaraswamy_rsample",
    inputs=inputs,
    textbook=textbook,
    distributions=distributions,
    ours=ours,
    output_shapes=lambda shape: (shape,),
    operands=gaussian.itself,
    incoming=gaussian.incoming,
    oracle=oracle,
    sums=gaussian.no_sums,
    results=results,
    # forward: two concentrations in, z out; backward: these and grad z in, two gradients out.
    moved={"forward": 3, "backward": 5, "forward+backward": 8},
    made={"forward": 1, "backward": 2, "forward+backward": 3},
    noise_passes={"forward": 1, "backward": 1, "forward+backward": 2},
    alive={"pytorch": Alive(8, 13), "reference": Alive(14, 20), "fused": Alive(1, 3)},
    base=Base("exponential"),
    sizes=("128x20", "1M"),
    dtypes=("float32",),
)
