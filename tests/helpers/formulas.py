"""The Gaussian latent written with PyTorch operators alone: what every backend is compared with."""

import torch

KINDS = ("logvar", "log_std", "std", "var", "rho")
REDUCTIONS = ("none", "sample", "sum", "mean", "batchmean")
LOW_PRECISION = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *LOW_PRECISION)


def composition(mu, x, eps, kind="logvar", reduction="batchmean", clamp=None):
    """z and KL in the dtype of the arguments, differentiable."""
    if clamp is not None:
        # Not torch.clamp: what its gradient is at the bounds depends on the release of PyTorch.
        outside = (x < clamp[0]) | (x > clamp[1])
        x = torch.where(outside, x.detach().clamp(*clamp), x)
    sigma, log_var = {
        "logvar": lambda: (torch.exp(0.5 * x), x),
        "log_std": lambda: (torch.exp(x), 2 * x),
        "std": lambda: (x, 2 * torch.log(x)),
        "var": lambda: (torch.sqrt(x), torch.log(x)),
        "rho": lambda: _softplus(x),
    }[kind]()
    kl = 0.5 * (mu**2 + sigma**2 - 1 - log_var)
    batch = kl.shape[0] if kl.dim() else 1
    kl = {
        "none": lambda: kl,
        "sample": lambda: kl.reshape(batch, -1).sum(1) if kl.dim() else kl,
        "sum": lambda: kl.sum(),
        "mean": lambda: kl.mean(),
        "batchmean": lambda: kl.sum() / batch,
    }[reduction]()
    return mu + sigma * eps, kl


def _softplus(x):
    sigma = torch.logaddexp(x, torch.zeros_like(x))
    log_sigma = torch.where(x < -700, x, torch.log(torch.where(x < -700, 1.0, sigma)))
    return sigma, 2 * log_sigma


def parameters(kind, shape, dtype=torch.float32, device="cpu", seed=0):
    """Means and scale parameters of a kind, in its domain; leaves that require grad."""
    generator = torch.Generator().manual_seed(seed)
    mu = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind in ("std", "var"):
        x = x.abs() + 0.2
    return [t.to(device=device, dtype=dtype).requires_grad_() for t in (mu, x)]


def exact(mu, x, eps, grad_z, grad_kl, **options):
    """z, KL and the two gradients in float64, for inputs of any dtype."""
    mu, x = (t.detach().double().requires_grad_() for t in (mu, x))
    z, kl = composition(mu, x, eps.double(), **options)
    cotangents = [None if g is None else g.double() for g in (grad_z, grad_kl)]
    outputs = [(o, g) for o, g in zip((z, kl), cotangents, strict=True) if g is not None]
    grads = torch.autograd.grad(
        [o for o, _ in outputs], (mu, x), [g for _, g in outputs], allow_unused=True
    )
    return z.detach(), kl.detach(), *grads


def within_twice_the_error(got, want, plain, largest=0.0, roundings=1):
    """The rule of the design: the largest error is at most twice that of plain PyTorch.

    Some roundings of the largest value, or of the largest term of a sum, are allowed besides, where
    plain PyTorch happens to be exact. On a GPU it is four in float32, whose instructions are
    approximate; in float64 there is no better reference to take the rule's measure.
    """
    error = (got.double() - want).abs().max().item()
    allowed = 2 * (plain.double() - want).abs().max().item()
    if got.dtype == torch.float64:
        roundings = max(roundings, 16)
    elif got.dtype == torch.float32 and got.is_cuda:
        roundings = 4
    largest = max(largest, want.abs().max().item())
    return error <= allowed + roundings * torch.finfo(got.dtype).eps * largest
