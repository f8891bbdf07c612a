"""Location-scale samples, `z = loc + scale * eps`: an op for each distribution of eps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Cauchy,
    Distribution,
    Gumbel,
    Laplace,
    SigmoidTransform,
    StudentT,
    TransformedDistribution,
    Uniform,
)

from bench import scores
from bench.ops import gaussian, gaussian_rsample
from bench.ops.base import Alive, Base, Compute, Expected, Op, Oracle, Shape, Tensors

DF = 4.0  # as scores.of_student_t4 has it


@dataclass(frozen=True)
class Family:
    base: Base
    eps: Callable[[Tensor], Tensor]
    """How it is drawn, of the shape and dtype of a tensor, where nothing but PyTorch is at hand."""
    distribution: Callable[..., Distribution]
    """From loc, scale and `validate_args`."""
    score: Callable[[Tensor, Tensor], Tensor]
    """Standard normals of noise, and of how far it may be off."""
    alive: dict[str, Alive]
    """Of what is not ours."""
    cancels: float = 0.0
    """What cancels in some form's gradient of the scale, in sizes of the incoming gradient."""


def _uniform(like: Tensor) -> Tensor:
    """In (0, 1), away from both ends, whose logarithms are infinite."""
    least = torch.finfo(like.dtype).eps
    return torch.empty_like(like).uniform_(least, 1 - least)


def _laplace(like: Tensor) -> Tensor:
    """By the inverse of the distribution function, the numbers -1 and 1 left out."""
    u = torch.empty_like(like).uniform_(torch.finfo(like.dtype).eps - 1, 1)
    return -u.sign() * torch.log1p(-u.abs())


def _logistic(like: Tensor) -> Tensor:
    u = _uniform(like)
    return torch.log(u) - torch.log1p(-u)


def _gumbel(like: Tensor) -> Tensor:
    """As in torch.nn.functional.gumbel_softmax."""
    return -torch.empty_like(like).exponential_().log()


def _student_t(like: Tensor) -> Tensor:
    """Bailey, 1994: it takes no gamma variates, which are slow."""
    radius = torch.sqrt(DF * torch.expm1(-2 / DF * torch.log(_uniform(like))))
    return radius * torch.cos(2 * math.pi * torch.rand_like(like))


def _logistic_distribution(loc: Tensor, scale: Tensor, validate_args: bool) -> Distribution:
    """As torch.distributions' documentation builds it."""
    zero, one = torch.zeros_like(loc), torch.ones_like(loc)
    uniform = Uniform(zero, one, validate_args=validate_args)
    transforms = [SigmoidTransform().inv, AffineTransform(loc, scale)]
    return TransformedDistribution(uniform, transforms, validate_args=validate_args)


def _alive(pytorch: int, distributions: int) -> dict[str, Alive]:
    """torch.distributions' also of 16-bit cases, which go through float32."""
    return {
        "pytorch": Alive(pytorch, pytorch),
        "distributions": Alive(distributions, distributions),
    }


def _uniform_distribution(loc: Tensor, scale: Tensor, validate_args: bool) -> Distribution:
    return Uniform(loc - scale, loc + scale, validate_args=validate_args)


FAMILIES = (
    Family(
        Base("laplace"),
        _laplace,
        Laplace,
        lambda eps, _: scores.of_laplace(eps),
        _alive(6, 14),
    ),
    Family(
        Base("logistic"),
        _logistic,
        _logistic_distribution,
        lambda eps, _: scores.of_logistic(eps),
        _alive(6, 18),
    ),
    Family(
        Base("gumbel"),
        _gumbel,
        Gumbel,
        lambda eps, _: scores.of_exponential(torch.exp(-eps)),
        _alive(5, 18),
    ),
    Family(
        Base("uniform"),
        lambda like: torch.empty_like(like).uniform_(-1, 1),
        _uniform_distribution,
        scores.of_uniform,
        _alive(5, 12),
        cancels=1.0,  # the gradients of the two ends
    ),
    Family(
        Base("cauchy"),
        lambda like: torch.empty_like(like).cauchy_(),
        Cauchy,
        lambda eps, _: scores.of_cauchy(eps),
        _alive(5, 9),
    ),
    Family(
        Base("student_t", DF),
        _student_t,
        partial(StudentT, DF),
        lambda eps, _: scores.of_student_t4(eps),
        _alive(5, 16),
    ),
)


def inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensors:
    loc, scale = gaussian.normals(2, shape, dtype, device)
    return gaussian.leaves(loc, scale.mul_(0.5).exp_())


def results(outputs: Tensors, gradients: Tensors) -> dict[str, Tensor]:
    return {"grad loc": gradients[0], "grad scale": gradients[1]}


def _op(family: Family) -> Op:
    name, number = family.base

    def textbook(loc: Tensor, scale: Tensor) -> Tensors:
        return (loc + scale * family.eps(loc),)

    def distributions(validate: bool) -> Compute:
        def compute(loc: Tensor, scale: Tensor) -> Tensors:
            # torch.distributions' 16-bit uniform numbers are too few for logarithms, and there are
            # no 16-bit gamma variates.
            dtype = torch.promote_types(loc.dtype, torch.float32)
            one = family.distribution(loc.to(dtype), scale.to(dtype), validate_args=validate)
            return (one.rsample().to(loc.dtype),)

        return compute

    def ours(loc: Tensor, scale: Tensor) -> Tensors:
        from fused_reparam import loc_scale_rsample

        return (loc_scale_rsample(loc, scale, name, df=number or None),)

    def oracle(shape: Shape, operands: Tensors, outputs: Tensors, incoming: Tensors) -> Oracle:
        loc, scale, z, grad = (t.double() for t in (*operands, *outputs, *incoming))
        eps = (z - loc) / scale
        # z was rounded: its error, of the size of z, stands where eps is read off.
        read_off = (z.abs() + loc.abs()) / scale
        elements = {
            "grad loc": Expected(grad, grad.abs()),
            "grad scale": Expected(grad * eps, grad.abs() * (read_off + family.cancels)),
        }
        unit = torch.finfo(outputs[0].dtype).eps / 2
        return Oracle(family.score(eps, unit * read_off), elements)

    return Op(
        name=f"loc_scale_{name}",
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
        moved=gaussian_rsample.OP.moved,
        made=gaussian_rsample.OP.made,
        noise_passes=gaussian_rsample.OP.noise_passes,
        alive=family.alive | {"reference": Alive(16, 20), "fused": Alive(1, 3)},
        base=family.base,
        sizes=("128x20", "1M"),
        dtypes=("float32",),
    )


OPS = tuple(map(_op, FAMILIES))
