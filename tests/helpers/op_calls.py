"""Arguments of the package's ops in their schemas' order, for calls by hand."""

from fused_reparam.families import FAMILIES
from fused_reparam.ops.elementwise import Spec
from fused_reparam.ops.softmax_call import Spec as SoftmaxSpec


def elementwise(family, params, key, eps=None, **changed):
    """Of ``elementwise``; those of its backward op stand between the gradients and ``needs``."""
    spec = Spec([], family, 0, 0, [0.5] * FAMILIES[family].constants, 0, True, None)
    return [*params, *[None] * (4 - len(params)), key, eps, *spec._replace(**changed)]


def softmax(**changed):
    """The arguments of ``gumbel_softmax`` and its backward op that are not tensors."""
    return list(SoftmaxSpec([], 0, 0.7, 0.0, 1, True, False, None)._replace(**changed))


def needs(*places):
    """Which of the five gradients of ``elementwise_backward`` are asked for."""
    return [i in places for i in range(5)]
