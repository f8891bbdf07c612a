"""The Gaussian latent: checks the arguments, finds the noise, calls an op."""

from __future__ import annotations

from typing import Literal, Never, Unpack, overload

from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.noise_options import Generators, SampleShape
from ..core.scalars import flag
from ..core.tracers import fx, special
from ..ops import gaussian_torch
from . import latent
from .arguments import clamped, one_scale, scale_kind
from .divergence import PriorArgument, divergence, usual
from .min_std import from_moments, raised
from .options import LatentOptions, MomentsOptions, RsampleOptions
from .reduction import Dims
from .sources import one_source

__all__ = ["gaussian_latent", "gaussian_latent_from_moments", "gaussian_rsample"]


@overload
def gaussian_latent(
    mu: Tensor | float,
    logvar: Tensor | float | None = None,
    *,
    return_eps: Literal[False] = False,
    **options: Unpack[LatentOptions],
) -> tuple[Tensor, Tensor]: ...
@overload
def gaussian_latent(
    mu: Tensor | float,
    logvar: Tensor | float | None = None,
    *,
    return_eps: Literal[True],
    **options: Unpack[LatentOptions],
) -> tuple[Tensor, Tensor, Tensor]: ...
@overload
def gaussian_latent(
    mu: Tensor | float,
    logvar: Tensor | float | None = None,
    *,
    return_eps: bool,
    **options: Unpack[LatentOptions],
) -> tuple[Tensor, ...]: ...
@names_mistakes
def gaussian_latent(
    mu: Tensor | float,
    logvar: Tensor | float | None = None,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    reduction: str = "batchmean",
    dims: Dims = None,
    min_std: float | None = None,
    clamp: tuple[float, float] | None = None,
    prior: PriorArgument = None,
    free_bits: float | Tensor | None = None,
    free_bits_per: str = "sample",
    beta: Tensor | float = 1,
    num_samples: int | None = None,
    sample_shape: SampleShape | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    rng: str = "philox",
    eps: Tensor | None = None,
    return_eps: bool = False,
    **mistaken: Never,
) -> tuple[Tensor, ...]:
    r"""Sample a diagonal Gaussian by reparameterization and its KL divergence to N(0, I).

    .. math::
        z = \mu + \sigma \epsilon, \quad \epsilon \sim N(0, 1) \qquad
        KL = \tfrac12 (\mu^2 + \sigma^2 - 1 - \log \sigma^2) \text{ per element, reduced}

    Noise, sample and KL take one pass over memory, and so does the backward pass, which makes the
    noise again from a 16-byte key: nothing of the latent's size is saved but the inputs.

    Args:
        mu: means, any shape; float32, float64, float16 or bfloat16; or a number beside a tensor.
        logvar: log sigma^2. Exactly one of the five scales must be given. Tensors broadcast
            against ``mu``; a number (Python's or NumPy's) stands for a 0-d tensor.
        log_std: log sigma.
        std: sigma.
        var: sigma^2.
        rho: sigma = softplus(rho) = log(1 + exp(rho)).
        reduction: of the KL, in nats. "none": element-wise; "sample": summed over all dims but the
            first; "sum"; "mean": over all elements; "batchmean": sum / size of dim 0.
        dims: in place of a reduction, the dims that the KL is summed over: an int or a sequence of
            ints, negative ones counted from the end, of the shape of one sample; () sums over none.
        min_std: what is added to std or to softplus(rho), a number not below 0: in z, in the KL and
            in the gradient alike.
        clamp: (low, high) bounds on logvar or log_std, the same in z, in the KL and in the gradient
            (1 at and inside the bounds, 0 outside).
        prior: what the KL is measured against. None: N(0, 1). ``(mean, std)``: N(mean, std^2), of
            numbers or tensors. ``(mean, {"logvar": tensor})``, or any other of the five scales: a
            learned or hierarchical prior; its tensors broadcast and receive gradients. Or a
            ``torch.distributions.Normal``, also an ``Independent`` one.
        free_bits: the least KL that counts; below it the gradient is 0. A tensor broadcasts to what
            it is of, is read on its device, and has a gradient where it counts.
        free_bits_per: of what: "sample", the sum over all dims but the first, with ``dims`` each
            sum over these, or "element".
        beta: factor of the KL, after free bits; a number or a 0-d tensor.
        sample_shape: dims of samples in front of z, as ``torch.distributions`` has them: one size
            or several, which may be 0. z is then (\*sample_shape, \*shape), a sample lies in memory
            as mu does, and the KL is unchanged; a log-density gets the same dims.
        num_samples: K, short for ``sample_shape=(K,)``.
        key: noise key, see :func:`fused_reparam.noise.key`. When None, one is drawn. Noise of a
            float64 call is another draw of the key than that of the other three dtypes.
        generator: where the key (or, with ``rng="torch"``, the noise) is drawn from; the default
            generator of mu's device when None. A list has one for each item of the batch, dim 0 of
            shape: each item is then what it would be alone, as a batch of one, and its noise is
            saved for the backward pass. A generator of the CPU serves every device: what it draws
            is moved there.
        rng: "philox": this package's stream. "torch": the very numbers that
            ``torch.randn_like(mu)`` would draw (``rsample`` of the counterpart in
            ``torch.distributions``, in functions of another kind), the generator left in the same
            state; the noise is then saved for the backward pass, except where the kernel can make
            it again (CUDA, contiguous float32, float16 or bfloat16 tensors, a summed KL, eager
            mode).
        eps: noise to use instead of drawing any, of z's shape; it may require grad. It is standard
            normal here, and what is said there in other functions. With it, as with
            ``rng="torch"``, z of a std is ``mu + std * eps`` bit for bit in float32 and float64;
            noise of a key is multiplied and added in one rounding.
        return_eps: also return the noise.

    Returns:
        ``(z, kl)``, or ``(z, kl, eps)`` with ``return_eps``. z has the broadcast shape, the inputs'
        promoted dtype and mu's memory format. kl is float32 (float64 for float64 inputs) of that
        shape ("none"), of its first dim ("sample"), of it without ``dims`` or (). eps is like
        z, and detached unless it was given.

    Raises:
        TypeError: an input is not a floating tensor of the four dtypes, or the key's dtype is not
            uint64.
        ValueError: no scale or several, shapes that do not broadcast, an unknown reduction or rng,
            a reduction beside dims, dims that the shape has not, different devices, a clamp that
            is not two numbers low <= high, a min_std below 0 or of another scale, a prior std that
            is not positive, negative free bits, conflicting sources of noise, or generators that
            are not one for each item.
        RuntimeError: the backend asked for can't serve mu's device.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, section 2.4 and appendix B;
    free bits: Kingma et al., "Improved variational inference with inverse autoregressive flow",
    2016, appendix C.8 (of a minibatch's mean there, of each sample or element here); beta: Higgins
    et al., "beta-VAE", 2017.

    Example:
        >>> import torch
        >>> from fused_reparam import gaussian_latent, noise
        >>> mu = torch.zeros(4, 3, requires_grad=True)
        >>> z, kl = gaussian_latent(mu, logvar=torch.zeros(4, 3), key=noise.key(0))
        >>> z.shape, kl.item()
        (torch.Size([4, 3]), 0.0)
        >>> z.sum().backward()
        >>> mu.grad.unique()
        tensor([1.])
        >>> one_each = [torch.Generator().manual_seed(seed) for seed in range(4)]
        >>> gaussian_latent(mu, std=1.0, sample_shape=(2, 5), generator=one_each)[0].shape
        torch.Size([2, 5, 4, 3])
        >>> prior = torch.zeros(3), {"log_std": torch.zeros(3)}
        >>> z, kl = gaussian_latent(mu, std=1.0, prior=prior, num_samples=5, free_bits=2.0)
        >>> z.shape, kl.item()
        (torch.Size([5, 4, 3]), 2.0)
    """
    if not isinstance(mu, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(gaussian_latent, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    if return_eps is not False:
        return_eps = flag("return_eps", return_eps)
    kind, scale = one_scale("mu", mu, logvar, log_std, std, var, rho)
    if min_std is not None:
        kind, scale = raised(kind, scale, min_std, mu)
    sources = one_source(key, generator, rng, eps, sample_shape, num_samples)
    scale, bounds = clamped(scale, clamp, kind)
    like = mu if isinstance(mu, Tensor) else scale
    wanted = divergence(reduction, prior, free_bits, free_bits_per, beta, dims, like)
    fused_draw = rng == "torch" and not (return_eps or len(sources.sample_shape))
    if fused_draw and wanted.standard and isinstance(mu, Tensor):
        fused = gaussian_torch.latent(mu, scale, kind, bounds, wanted.inner, sources.generator)
        if fused is not None:
            return fused
    return latent.latent(mu, scale, kind, bounds, wanted, sources, return_eps)


@overload
def gaussian_rsample(
    mu: Tensor | float,
    logvar: Tensor | float | None = None,
    *,
    return_eps: Literal[False] = False,
    **options: Unpack[RsampleOptions],
) -> Tensor: ...
@overload
def gaussian_rsample(
    mu: Tensor | float,
    logvar: Tensor | float | None = None,
    *,
    return_eps: Literal[True],
    **options: Unpack[RsampleOptions],
) -> tuple[Tensor, Tensor]: ...
@overload
def gaussian_rsample(
    mu: Tensor | float,
    logvar: Tensor | float | None = None,
    *,
    return_eps: bool,
    **options: Unpack[RsampleOptions],
) -> Tensor | tuple[Tensor, Tensor]: ...
@names_mistakes
def gaussian_rsample(
    mu: Tensor | float,
    logvar: Tensor | float | None = None,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    min_std: float | None = None,
    clamp: tuple[float, float] | None = None,
    num_samples: int | None = None,
    sample_shape: SampleShape | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    rng: str = "philox",
    eps: Tensor | None = None,
    return_eps: bool = False,
    **mistaken: Never,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Sample ``z = mu + sigma * eps`` without the KL.

    Args:
        mu, logvar, log_std, std, var, rho, min_std, clamp, num_samples, sample_shape, key,
            generator, rng, eps, return_eps: see :func:`gaussian_latent`.

    Returns:
        z, of shape (\*sample_shape, \*shape), or ``(z, eps)`` with ``return_eps``.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, section 2.4.

    Example:
        >>> import torch
        >>> from fused_reparam import gaussian_rsample, noise
        >>> z = gaussian_rsample(torch.zeros(3), std=2.0, key=noise.key(1))
        >>> torch.equal(z, 2.0 * noise.normal(noise.key(1), 3))
        True
    """
    if not isinstance(mu, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(gaussian_rsample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    if return_eps is not False:
        return_eps = flag("return_eps", return_eps)
    kind, scale = one_scale("mu", mu, logvar, log_std, std, var, rho)
    if min_std is not None:
        kind, scale = raised(kind, scale, min_std, mu)
    sources = one_source(key, generator, rng, eps, sample_shape, num_samples)
    scale, bounds = clamped(scale, clamp, kind)
    z, *used = latent.latent(mu, scale, kind, bounds, usual(None), sources, return_eps)
    return (z, *used) if return_eps else z  # type: ignore[return-value]


@overload
def gaussian_latent_from_moments(
    moments: Tensor,
    dim: int = 1,
    *,
    return_eps: Literal[False] = False,
    **options: Unpack[MomentsOptions],
) -> tuple[Tensor, Tensor]: ...
@overload
def gaussian_latent_from_moments(
    moments: Tensor,
    dim: int = 1,
    *,
    return_eps: Literal[True],
    **options: Unpack[MomentsOptions],
) -> tuple[Tensor, Tensor, Tensor]: ...
@overload
def gaussian_latent_from_moments(
    moments: Tensor,
    dim: int = 1,
    *,
    return_eps: bool,
    **options: Unpack[MomentsOptions],
) -> tuple[Tensor, ...]: ...
@names_mistakes
def gaussian_latent_from_moments(
    moments: Tensor,
    dim: int = 1,
    *,
    scale: str = "logvar",
    reduction: str = "batchmean",
    dims: Dims = None,
    min_std: float | None = None,
    clamp: tuple[float, float] | None = None,
    prior: PriorArgument = None,
    free_bits: float | Tensor | None = None,
    free_bits_per: str = "sample",
    beta: Tensor | float = 1,
    num_samples: int | None = None,
    sample_shape: SampleShape | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    rng: str = "philox",
    eps: Tensor | None = None,
    return_eps: bool = False,
    **mistaken: Never,
) -> tuple[Tensor, ...]:
    """:func:`gaussian_latent` of the two halves of one tensor: means first, then scales.

    The halves are read in place, and the backward pass writes one gradient in the layout of
    ``moments``.

    Args:
        moments: tensor whose size along ``dim`` is even.
        dim: the dim to halve.
        scale: what the second half is: "logvar", "log_std", "std", "var" or "rho".
        reduction, dims, min_std, clamp, prior, free_bits, free_bits_per, beta, sample_shape,
            num_samples, key,
            generator, rng, eps, return_eps: see :func:`gaussian_latent`.

    Returns:
        ``(z, kl)`` or ``(z, kl, eps)``, see :func:`gaussian_latent`.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does; ValueError also for an
            odd size along ``dim``, a dim that moments does not have, or an unknown scale.

    Source: the layout is that of latent-diffusion autoencoders (Rombach et al., 2022).

    Example:
        >>> import torch
        >>> from fused_reparam import gaussian_latent_from_moments
        >>> z, kl = gaussian_latent_from_moments(torch.zeros(2, 8, 4, 4))
        >>> z.shape
        torch.Size([2, 4, 4, 4])
    """
    if not isinstance(moments, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(gaussian_latent_from_moments, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    kind = scale_kind(scale)
    if return_eps is not False:
        return_eps = flag("return_eps", return_eps)
    sources = one_source(key, generator, rng, eps, sample_shape, num_samples)
    wanted = divergence(reduction, prior, free_bits, free_bits_per, beta, dims, moments)
    halves, split = from_moments(moments, dim, kind, min_std, clamp)
    return latent.latent(*halves, wanted, sources, return_eps, split)
