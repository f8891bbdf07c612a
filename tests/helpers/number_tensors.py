"""What the tests of numbers that are tensors share."""

import torch
from torch.nn.functional import softplus

from fused_reparam import noise

KEY = noise.key(11)
SHAPE = (3, 5, 4)


def values(seed, shape=SHAPE, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


def positive(*args, **options):
    return softplus(values(*args, **options)) + 0.2


def as_tuple(found):
    return found if isinstance(found, tuple) else (found,)


def together(call, tensors):
    """The results of a call and the gradients of its tensors."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    found = as_tuple(call(*leaves))
    loss = sum((torch.linspace(0.5, 1.5, o.numel(), device=o.device) * o.flatten()).sum()
               for o in found)  # fmt: skip
    return *(o.detach() for o in found), *torch.autograd.grad(loss, leaves)


BOUNDS = [-1.0, 0.0, 2.0, -3.5], [1.5, 0.25, 7.0, -3.0]
