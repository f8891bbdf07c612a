"""Bounded actions: a Gaussian pushed through tanh, with its log-density, also at given actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Never, Unpack, overload

import torch
from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.noise_options import Generators, NoiseOptions, misnamed
from ..core.scalars import flag
from ..core.scales import SCALE_KINDS
from ..core.tracers import fx, node_of, special
from ..rng import keys
from . import elementwise
from .action_bounds import Bound, apart, bounds_between, distances
from .arguments import check_tensor, clamped, one_scale, parameters
from .divergence import usual
from .min_std import raised
from .options import TanhNormalOptions
from .reduction import Reduction, as_dims, reduced
from .sources import Sources, made_in_op, sources_of

__all__ = ["tanh_normal_log_prob", "tanh_normal_rsample", "tanh_normal_sample"]

Policy = tuple[tuple[elementwise.Named, ...], int, tuple[float, float]]


@overload
def tanh_normal_rsample(
    mean: Tensor | float,
    *,
    return_pre_tanh: Literal[False] = False,
    **options: Unpack[TanhNormalOptions],
) -> tuple[Tensor, Tensor]: ...
@overload
def tanh_normal_rsample(
    mean: Tensor | float,
    *,
    return_pre_tanh: bool,
    **options: Unpack[TanhNormalOptions],
) -> tuple[Tensor, ...]: ...
@names_mistakes
def tanh_normal_rsample(
    mean: Tensor | float,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    logvar: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    low: Bound = -1.0,
    high: Bound = 1.0,
    min_std: float | None = None,
    clamp: tuple[float, float] | None = None,
    dims: int | Sequence[int] = -1,
    key: Tensor | None = None,
    generator: Generators | None = None,
    return_pre_tanh: bool = False,
    **noise: Unpack[NoiseOptions],
) -> tuple[Tensor, ...]:
    r"""Sample an action between two bounds and its log-density.

    .. math::
        x = \mu + \sigma \epsilon \qquad a = m + h \tanh x \qquad
        \log p(a) = \sum -\tfrac12 \epsilon^2 - \log \sigma - \tfrac12 \log 2\pi - \log h
            - 2 (\log 2 - |x| - \log(1 + e^{-2 |x|}))

    with m and h the bounds' mean and half their distance. The log-density is computed from x, not
    from the action: it is right where tanh rounds to 1. It is summed over the last dim, or
    over ``dims``.

    Args:
        mean: of x; float32, float64, float16 or bfloat16, shape (\*batch, actions).
        log_std, std, logvar, var, rho: the scale of x. Exactly one must be given; see
            :func:`gaussian_latent`.
        low, high: bounds of the action, finite numbers; or tensors, or lists or arrays of numbers,
            of one for each action: what broadcasts to the actions. Tensors may require grad and are
            read on their device: nobody checks that low < high, as is checked of numbers and lists.
            A list is made a tensor by each call.
        min_std: what is added to std or to softplus(rho).
        clamp: (low, high) bounds on log_std or logvar; the gradient outside is 0.
        dims: the dims that the log-density is summed over, an int or a sequence of ints, negative
            ones counted from the end, of the shape of one sample; () sums over none.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gaussian_latent`. eps is standard normal.
        return_pre_tanh: also return x, from which :func:`gaussian_log_prob` gives the action's
            log-density under other parameters but for the tanh's term, which is the same of both.

    Returns:
        ``(action, log_prob)``, or ``(action, log_prob, x)`` with ``return_pre_tanh``, of shapes
        (\*sample_shape, \*batch, actions), that without its last dim or ``dims``, and as action.
        log_prob is float32 (float64 for float64 inputs), the others are of the inputs' dtype.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does; ValueError also unless
            low < high.

    Source: Haarnoja et al., "Soft actor-critic", 2018, appendix C.

    Example:
        >>> import torch
        >>> from fused_reparam import tanh_normal_rsample
        >>> mean, log_std = torch.zeros(256, 6), torch.full((256, 6), -1.0)
        >>> action, log_prob = tanh_normal_rsample(mean, log_std=log_std, low=-2.0, high=2.0)
        >>> action.shape, log_prob.shape, bool(action.abs().max() <= 2.0)
        (torch.Size([256, 6]), torch.Size([256]), True)
    """
    if not isinstance(mean, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(tanh_normal_rsample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    policy = _policy(mean, (logvar, log_std, std, var, rho), min_std, clamp)
    sources = sources_of(key, generator, noise)
    if return_pre_tanh is not False:
        return_pre_tanh = flag("return_pre_tanh", return_pre_tanh)
    return _draw("tanh_normal", policy, low, high, _over(dims), sources, return_pre_tanh)


@overload
def tanh_normal_sample(
    mean: Tensor | float,
    *,
    return_pre_tanh: Literal[False] = False,
    **options: Unpack[TanhNormalOptions],
) -> tuple[Tensor, Tensor]: ...
@overload
def tanh_normal_sample(
    mean: Tensor | float,
    *,
    return_pre_tanh: bool,
    **options: Unpack[TanhNormalOptions],
) -> tuple[Tensor, ...]: ...
@names_mistakes
def tanh_normal_sample(
    mean: Tensor | float,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    logvar: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    low: Bound = -1.0,
    high: Bound = 1.0,
    min_std: float | None = None,
    clamp: tuple[float, float] | None = None,
    dims: int | Sequence[int] = -1,
    key: Tensor | None = None,
    generator: Generators | None = None,
    return_pre_tanh: bool = False,
    **noise: Unpack[NoiseOptions],
) -> tuple[Tensor, ...]:
    r"""Sample an action without a gradient, and its log-density with that of the score.

    What :func:`tanh_normal_rsample` gives for the same key, but the action is fixed: it is
    detached, and the log-density's gradient is that of the parameters at this action, as of
    ``distribution.log_prob(distribution.sample())``; bounds that require grad are parameters too.

    .. math::
        \nabla_\mu \log p(a) = \frac{x - \mu}{\sigma^2} \qquad
        \nabla_{\log \sigma} \log p(a) = \Big(\frac{x - \mu}{\sigma}\Big)^2 - 1, \qquad
        a = m + h \tanh x

    Args:
        mean, log_std, std, logvar, var, rho, low, high, min_std, clamp, dims, key, generator,
            sample_shape, rng, eps, return_pre_tanh: see :func:`tanh_normal_rsample`.

    Returns:
        ``(action, log_prob)``, or ``(action, log_prob, x)`` with ``return_pre_tanh``, as
        :func:`tanh_normal_rsample` does. Only log_prob has a gradient.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`tanh_normal_rsample` does.

    Source: Williams, "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning", 1992.

    Example:
        >>> import torch
        >>> from fused_reparam import tanh_normal_sample
        >>> mean = torch.zeros(256, 6, requires_grad=True)
        >>> action, log_prob = tanh_normal_sample(mean, std=0.5)
        >>> reward = -action.square().sum(-1)
        >>> (-(reward * log_prob).mean()).backward()
        >>> action.requires_grad, mean.grad.shape
        (False, torch.Size([256, 6]))
    """
    if not isinstance(mean, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(tanh_normal_sample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    policy = _policy(mean, (logvar, log_std, std, var, rho), min_std, clamp)
    sources = sources_of(key, generator, noise)
    return_pre_tanh = flag("return_pre_tanh", return_pre_tanh)
    found = _draw("tanh_normal_score", policy, low, high, _over(dims), sources, return_pre_tanh)
    action, log_prob, *x = found
    return (action.detach(), log_prob, *[t.detach() for t in x])


@names_mistakes
def tanh_normal_log_prob(
    action: Tensor,
    mean: Tensor | float,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    logvar: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    low: Bound = -1.0,
    high: Bound = 1.0,
    min_std: float | None = None,
    clamp: tuple[float, float] | None = None,
    dims: int | Sequence[int] = -1,
    **mistaken: Never,
) -> Tensor:
    r"""Log-density of the tanh of a Gaussian at given actions, of a replay buffer or a teacher.

    .. math::
        x = \tfrac12 \log \frac{a - \mathrm{low}}{\mathrm{high} - a} \qquad
        \log p(a) = \sum \log N(x; \mu, \sigma^2) + \log h
            - \log (a - \mathrm{low}) - \log (\mathrm{high} - a)

    with h half the distance of the bounds. Near a bound its distance to the action is exact, where
    an atanh of the scaled action would have no digits left. An action on a bound was rounded to it:
    no distance counts as less than half the spacing of the action's dtype at the larger bound, so
    that the log-density is finite. There, and beyond, the action itself has no gradient, nor have
    bounds. In float32 and lower the action no longer tells how far x was out: where that matters,
    keep x (``return_pre_tanh``) and use :func:`gaussian_log_prob` of it.

    Args:
        action: between low and high, any shape; float32, float64, float16 or bfloat16. All tensors
            broadcast against each other, and receive gradients.
        mean, log_std, std, logvar, var, rho, min_std, low, high, clamp: the policy, as
            :func:`tanh_normal_rsample` takes it.
        dims: the dims to sum over, see :func:`tanh_normal_rsample`.

    Returns:
        float32 tensor (float64 for float64 inputs) of the broadcast shape without ``dims``, by
        default without its last dim.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`tanh_normal_rsample` does.

    Source: Haarnoja et al., "Soft actor-critic", 2018, appendix C.

    Example:
        >>> import torch
        >>> from fused_reparam import tanh_normal_log_prob
        >>> action, mean = torch.tensor([[0.5, 2.0]]), torch.zeros(1, 2, requires_grad=True)
        >>> log_prob = tanh_normal_log_prob(action, mean, std=1.0, low=-2.0, high=2.0)
        >>> log_prob.sum().backward()
        >>> log_prob.shape, bool(mean.grad.isfinite().all())
        (torch.Size([1]), True)
    """
    if not isinstance(action, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(tanh_normal_log_prob, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    check_tensor("action", action)
    policy = _policy(mean, (logvar, log_std, std, var, rho), min_std, clamp)
    return _log_prob_at(action, policy, low, high, _over(dims))


def without_noise(
    mean: Tensor,
    scale: Tensor | float,
    kind: str,
    low: float | Tensor,
    high: float | Tensor,
    clamp: tuple[float, float] | None,
) -> tuple[Tensor, Tensor]:
    """What a draw would be without noise; for modules in eval mode. ``kind`` names the scale."""
    if not isinstance(mean, Tensor) or fx._is_fx_tracing_flag:
        node = node_of(without_noise, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    params = parameters(("mean", mean), (kind, scale))
    eps = mean.new_zeros(torch.broadcast_shapes(*(t.shape for t in params)))
    return tanh_normal_rsample(mean, low=low, high=high, clamp=clamp, eps=eps, **{kind: scale})  # type: ignore[call-overload, no-any-return]


def _policy(
    mean: Tensor | float,
    scales: tuple[Tensor | float | None, ...],
    min_std: float | None,
    clamp: tuple[float, float] | None,
) -> Policy:
    """The Gaussian, checked: its parameters by their names, its scale's keyword and bounds."""
    kind, scale = one_scale("mean", mean, *scales)
    if min_std is not None:
        kind, scale = raised(kind, scale, min_std, mean)
    scale, bounds = clamped(scale, clamp, kind)
    return (("mean", mean), (SCALE_KINDS[kind], scale)), kind, bounds


def _over(dims: int | Sequence[int]) -> Reduction:
    return "last" if type(dims) is int and dims == -1 else as_dims(dims)


def _log_prob_at(
    action: Tensor, policy: Policy, low: Bound, high: Bound, over: Reduction
) -> Tensor:
    named, kind, bounds = policy
    eps = torch.finfo(action.dtype).eps
    like = action
    if not (type(low) is type(high) is float):
        like = parameters(("action", action), *named)[0]
    ends, between = bounds_between(low, high, "action", like)
    if between is not None:
        above, below = distances(like, between, eps)
        named = (*named, ("action", above), ("action", below))
        family = "tanh_normal_density_between"
        found = elementwise.terms_alone(family, named, kind, 0, bounds, over)[1][0]
        if action.dtype.itemsize < 4:  # in float32 it is a rounding
            shape = torch.broadcast_shapes(*(t.shape for _, t in named if isinstance(t, Tensor)))
            found = found + reduced(apart(above, below, between).expand(shape), over)
        return found
    # Half the distance to the next number of the action's dtype.
    least = max(map(abs, ends)) * 0.5 * eps
    return elementwise.terms_alone(
        "tanh_normal_density", (*named, ("action", action)), kind, 0, (*bounds, *ends, least), over
    )[1][0]


def _draw(
    family: str,
    policy: Policy,
    low: Bound,
    high: Bound,
    over: Reduction,
    sources: Sources,
    with_x: bool,
) -> tuple[Tensor, ...]:
    """The action and its log-density, and x, of which it is the tanh, where that is wanted."""
    named, kind, bounds = policy
    name, like = named[0] if isinstance(named[0][1], Tensor) else named[1]
    ends, between = bounds_between(low, high, name, like)  # type: ignore[arg-type]
    wide: tuple[tuple[str, Tensor], ...] = ()
    if between is None:
        constants = (*bounds, *ends)
    else:
        wide = ("low", between[0]), ("high", between[1])
        dtype = parameters(*named)[0].dtype
        spacing = () if family == "tanh_normal" else (torch.finfo(dtype).eps,)
        family, constants = f"{family}_between", (*bounds, *spacing)
    if not with_x:
        action, terms, _ = elementwise.sample(
            family, named, sources, kind, constants=constants, reduction=over, wide=wide
        )
        return action, terms[0]
    # x is drawn apart, of the same noise: of one key, or what was drawn once.
    of_key = made_in_op(sources)
    if of_key and sources.key is None:
        key = keys.draw_key(parameters(*named)[0].device, sources.generator)  # type: ignore[arg-type]
        sources = sources._replace(key=key, generator=None)
    action, terms, eps = elementwise.sample(
        family, named, sources, kind, constants=constants, reduction=over, return_eps=not of_key,
        wide=wide,
    )  # fmt: skip
    if not of_key:
        sources = Sources(eps=eps, sample_shape=sources.sample_shape)
    gaussian = (*bounds, *usual(None).constants)
    x = elementwise.sample("gaussian", named, sources, kind, constants=gaussian)[0]
    return action, terms[0], x
