"""One table of the distributions, each beside its counterpart in ``torch.distributions``."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import distributions as T
from torch.nn.functional import softplus

from fused_reparam import distributions as D

SHAPE = (3, 4)


class Case(NamedTuple):
    """A distribution by its parameters: ours, and PyTorch's."""

    ours: Callable
    theirs: Callable | None
    names: tuple[str, ...]
    same_noise: bool = True
    """Whether ``rng="torch"`` gives the numbers of the counterpart."""

    def params(self, dtype=torch.float64, shape=SHAPE, seed=0):
        generator = torch.Generator().manual_seed(seed)
        found = {}
        for name in self.names:
            t = torch.rand(shape, generator=generator, dtype=torch.float64)
            if name in ("probs", "shares"):
                t = 0.1 + 0.8 * t
            elif name == "high":
                t = 2.5 + t
            elif name in ("scale", "var", "rate", "df", "alpha") or name.startswith("conc"):
                t = 0.4 + 1.5 * t
            else:
                t = 2.0 * t - 1.0
            found[name] = t.to(dtype).requires_grad_()
        return found

    def made(self, dtype=torch.float64, shape=SHAPE, seed=0, **options):
        """Ours."""
        return self.ours(**self.params(dtype, shape, seed), **options)

    def counterpart(self, dtype=torch.float64, shape=SHAPE, seed=0):
        return self.theirs(**self.params(dtype, shape, seed), validate_args=False)


def case(name, names, same_noise=True):
    return Case(getattr(D, name), getattr(T, name), tuple(names.split()), same_noise)


_SIGMA = {
    "log_std": torch.exp, "logvar": lambda x: torch.exp(0.5 * x), "var": torch.sqrt,
    "rho": softplus,
}  # fmt: skip


def _by_keyword(name, keyword):
    theirs = getattr(T, name)

    def made(loc, validate_args=None, **scale):
        return theirs(loc, _SIGMA[keyword](scale[keyword]), validate_args=validate_args)

    return Case(getattr(D, name), made, ("loc", keyword))


def _logistic(loc, scale, validate_args=None):
    unit = T.Uniform(torch.zeros_like(loc), torch.ones_like(loc), validate_args=validate_args)
    back = T.SigmoidTransform().inv
    return T.TransformedDistribution(unit, [back, T.AffineTransform(loc, scale)], validate_args)


def _tanh_normal(loc, scale, low=None, high=None, validate_args=None):
    normal = T.Normal(loc, scale, validate_args=validate_args)
    transforms = [T.TanhTransform(cache_size=1)]
    if low is not None:
        half = 0.5 * (high - low)
        transforms.append(T.AffineTransform(low + half, half, cache_size=1))
    return T.TransformedDistribution(normal, transforms, validate_args)


def _tempered(name, value=0.7):
    def ours(**given):
        return getattr(D, name)(value, **given)

    def theirs(**given):
        return getattr(T, name)(torch.tensor(value, dtype=torch.float64), **given)

    return ours, theirs


def _mixed(logits, validate_args=None):
    shares = 0.9 * torch.softmax(logits, -1) + 0.1 / logits.shape[-1]
    return T.OneHotCategoricalStraightThrough(shares, validate_args=validate_args)


CASES = {
    "Normal": case("Normal", "loc scale"),
    **{f"Normal {k}": _by_keyword("Normal", k) for k in _SIGMA},
    "LogNormal": case("LogNormal", "loc scale"),
    "LogNormal logvar": _by_keyword("LogNormal", "logvar"),
    "HalfNormal": case("HalfNormal", "scale"),
    "Laplace": case("Laplace", "loc scale"),
    "Gumbel": case("Gumbel", "loc scale"),
    "Cauchy": case("Cauchy", "loc scale"),
    "Logistic": Case(D.Logistic, _logistic, ("loc", "scale")),
    "StudentT": case("StudentT", "df loc scale"),
    "Uniform": case("Uniform", "low high"),
    "Exponential": case("Exponential", "rate"),
    "Weibull": case("Weibull", "scale concentration"),
    "Pareto": case("Pareto", "scale alpha"),
    "GeneralizedPareto": case("GeneralizedPareto", "loc scale concentration"),
    "HalfCauchy": case("HalfCauchy", "scale"),
    "ContinuousBernoulli": case("ContinuousBernoulli", "logits"),
    "ContinuousBernoulli probs": case("ContinuousBernoulli", "probs"),
    "Kumaraswamy": case("Kumaraswamy", "concentration1 concentration0"),
    "RelaxedBernoulli": Case(*_tempered("RelaxedBernoulli"), ("logits",)),
    "RelaxedBernoulli probs": Case(*_tempered("RelaxedBernoulli"), ("probs",)),
    "RelaxedOneHotCategorical": Case(
        *_tempered("RelaxedOneHotCategorical"), ("logits",), same_noise=False
    ),
    "RelaxedOneHotCategorical probs": Case(
        *_tempered("RelaxedOneHotCategorical"), ("probs",), same_noise=False
    ),
    "OneHotCategorical": Case(
        D.OneHotCategorical, T.OneHotCategoricalStraightThrough, ("logits",)
    ),
    "OneHotCategorical probs": Case(
        D.OneHotCategorical, T.OneHotCategoricalStraightThrough, ("probs",)
    ),
    "OneHotCategorical unimix": Case(
        lambda **given: D.OneHotCategorical(unimix=0.1, **given), _mixed, ("logits",)
    ),
    "TanhNormal": Case(D.TanhNormal, _tanh_normal, ("loc", "scale")),
    "TanhNormal bounds": Case(D.TanhNormal, _tanh_normal, ("loc", "scale", "low", "high")),
}  # fmt: skip


def close(got, want, tolerance=1e-9):
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)


def has_no_stride_of_0(t):
    return all(stride > 0 for stride, size in zip(t.stride(), t.shape, strict=True) if size > 1)
