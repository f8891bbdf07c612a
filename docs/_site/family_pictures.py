"""What a family's page draws: a density with draws of this package over it, or a likelihood."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import matplotlib
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fused_reparam as fr
from fused_reparam import distributions as D

# Okabe and Ito's colours, each with a dash and a mark of its own.
STYLES = (("#0072B2", "-", "o"), ("#D55E00", "--", "s"), ("#009E73", ":", "^"))
DRAWS = 20_000


class Shown(NamedTuple):
    """Under its label each distribution, or log-likelihood where no sample is drawn."""

    curves: dict[str, Any]
    span: tuple[float, float]
    distribution: str = ""
    """The class of `fused_reparam.distributions` that has the family."""
    points: int = 0
    """How many values there are, where they are not a continuum."""


GAUSSIAN = {"mu 0, sigma 1": D.Normal(0.0, 1.0), "mu 1, sigma 0.5": D.Normal(1.0, 0.5)}
SHOWN = {
    "Gaussian": Shown(GAUSSIAN, (-4.0, 4.0), "Normal"),
    "Gaussian, K samples": Shown(GAUSSIAN, (-4.0, 4.0), "Normal"),
    "sampled weights": Shown({f"rho {rho}": D.Normal(0.0, rho=torch.tensor(float(rho)))
                              for rho in (0, -1)}, (-3.0, 3.0)),
    "bounded action": Shown(
        {"mu 0, sigma 0.5": D.TanhNormal(0.0, 0.5), "mu 0.5, sigma 1": D.TanhNormal(0.5, 1.0)},
        (-0.999, 0.999), "TanhNormal"),
    "log-normal": Shown({f"mu 0, sigma {s}": D.LogNormal(0.0, s) for s in (0.5, 1.0)},
                        (0.01, 5.0), "LogNormal"),
    **{title: Shown({f"scale {s:g}": getattr(D, name)(0.0, s) for s in (1.0, 0.5)}, (-6.0, 6.0),
                    name)
       for title, name in (("Laplace", "Laplace"), ("Gumbel", "Gumbel"), ("Cauchy", "Cauchy"),
                           ("logistic", "Logistic"))},
    "uniform": Shown(
        {"loc 0, scale 1": D.Uniform(-1.0, 1.0), "loc 1, scale 3": D.Uniform(-2.0, 4.0)},
        (-6.0, 6.0), "Uniform"),
    "Student-t": Shown({f"df {df:g}": D.StudentT(df) for df in (1.5, 8.0)}, (-6.0, 6.0),
                       "StudentT"),
    "relaxed Bernoulli": Shown(
        {f"tau {tau}, logits 0.5": D.RelaxedBernoulli(tau, logits=torch.tensor(0.5))
         for tau in (0.5, 1.5)}, (0.005, 0.995), "RelaxedBernoulli"),
    "Kumaraswamy": Shown({f"a {a:g}, b {b:g}": D.Kumaraswamy(a, b) for a, b in ((2, 5), (3, 1.5))},
                         (0.001, 0.999), "Kumaraswamy"),
    "exponential": Shown({f"rate {r:g}": D.Exponential(r) for r in (1.0, 2.0)}, (0.001, 5.0),
                         "Exponential"),
    "Weibull": Shown({f"scale 1, concentration {c:g}": D.Weibull(1.0, c) for c in (1.5, 4.0)},
                     (0.001, 3.0), "Weibull"),
    "Pareto": Shown({f"alpha {a:g}": D.Pareto(1.0, a) for a in (1.5, 4.0)}, (1.001, 5.0), "Pareto"),
    "generalized Pareto": Shown(
        {f"concentration {c:g}": D.GeneralizedPareto(0.0, 1.0, c) for c in (0.5, -0.25)},
        (0.001, 3.9), "GeneralizedPareto"),
    "half-normal": Shown({f"scale {s:g}": D.HalfNormal(s) for s in (1.0, 0.5)}, (0.001, 3.5),
                         "HalfNormal"),
    "half-Cauchy": Shown({f"scale {s:g}": D.HalfCauchy(s) for s in (1.0, 0.5)}, (0.001, 6.0),
                         "HalfCauchy"),
    "continuous Bernoulli": Shown(
        {f"logits {x:g}": D.ContinuousBernoulli(logits=torch.tensor(x)) for x in (2.0, -4.0)},
        (0.001, 0.999), "ContinuousBernoulli"),
    "Gumbel-softmax": Shown({}, (0.0, 1.0), "RelaxedOneHotCategorical"),
    "one-hot categories": Shown({}, (0.0, 1.0), "OneHotCategorical"),
    # Likelihoods: functions of values.
    "Bernoulli likelihood": Shown(
        {"logits 1": lambda x: fr.bernoulli_log_prob(x, 1.0),
         "logits -2": lambda x: fr.bernoulli_log_prob(x, -2.0),
         "logits -2, continuous": lambda x: fr.bernoulli_log_prob(x, -2.0, continuous=True)},
        (0.0, 1.0)),
    "Gaussian likelihood": Shown(
        {f"mu 0, std {std:g}": lambda x, std=std: fr.gaussian_log_prob(x, 0.0, std=std)
         for std in (1.0, 0.5)}, (-4.0, 4.0)),
    "Laplace likelihood": Shown(
        {f"loc 0, scale {s:g}": lambda x, s=s: fr.laplace_log_prob(x, 0.0, s) for s in (1.0, 0.5)},
        (-4.0, 4.0)),
    "Student-t likelihood": Shown(
        {f"df {df:g}, scale 1": lambda x, df=df: fr.student_t_log_prob(x, df, 0.0, 1.0)
         for df in (1.0, 8.0)}, (-6.0, 6.0)),
    "negative binomial likelihood": Shown(
        {"mean 8, theta 2": lambda x: fr.negative_binomial_log_prob(x, 8.0, 2.0),
         "mean 8, theta 20": lambda x: fr.negative_binomial_log_prob(x, 8.0, 20.0),
         "mean 8, theta 20, more zeros":
             lambda x: fr.zero_inflated_negative_binomial_log_prob(x, 8.0, 20.0, -1.0)},
        (0, 30), points=31),
    "categorical likelihood": Shown(
        {"logits 0, 1, ... 7": lambda x: fr.categorical_log_prob(x.long(), torch.arange(8.0)),
         "logits 0": lambda x: fr.categorical_log_prob(x.long(), torch.zeros(8))},
        (0, 7), points=8),
    "discretized logistic likelihood": Shown(
        {f"loc 0, scale {s:g}": lambda x, s=s: fr.discretized_logistic_log_prob(x, 0.0, s, bins=21)
         for s in (0.05, 0.2)}, (-1.0, 1.0), points=21),
}  # fmt: skip


def words(shown: Shown) -> str:
    """What the picture of a family is of."""
    if not shown.curves:
        return "Shares of draws"
    return "Density, and a histogram of draws" if shown.distribution else "Likelihood"


def picture(title: str, shown: Shown) -> bytes:
    torch.manual_seed(0)
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7.5, 3.4), layout="constrained", dpi=110)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        if not shown.curves:
            _shares(axes, title)
        elif any(callable(one) for one in shown.curves.values()):
            _likelihoods(axes, shown)
        else:
            _densities(axes, shown)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        file = io.BytesIO()
        figure.savefig(file, metadata={"Software": None})
    return file.getvalue()


def _densities(axes: Any, shown: Shown) -> None:
    """The density of each, and over it the share of its draws in each bin, by the bin's width."""
    low, high = shown.span
    line = torch.linspace(low, high, 400)
    edges = torch.linspace(low, high, 51)
    for (color, dash, _), (label, law) in zip(STYLES, shown.curves.items(), strict=False):
        values = line.clamp(max=float(getattr(law.support, "upper_bound", high)))
        inside = law.support.check(values)
        density = torch.full_like(line, torch.nan)
        density[inside] = law.log_prob(values[inside]).exp()
        draws = law.rsample((DRAWS,)).flatten()
        counts = torch.histogram(draws.detach(), edges)[0] / (DRAWS * (edges[1] - edges[0]))
        axes.stairs(counts, edges, color=color, alpha=0.25, fill=True, label=f"draws, {label}")
        axes.plot(line, density, color=color, ls=dash, lw=2, label=label)
    axes.set(xlabel="value", ylabel="density", ylim=(0, None), xlim=(low, high))


def _likelihoods(axes: Any, shown: Shown) -> None:
    """Of a continuum the logarithm, which shows the tails; of single values their probability."""
    values = torch.linspace(*shown.span, shown.points or 400)
    for (color, dash, mark), (label, log_prob) in zip(STYLES, shown.curves.items(), strict=False):
        made = log_prob(values)
        if shown.points:
            axes.plot(values, made.exp(), mark, color=color, ms=5, ls=dash, lw=0.8, label=label)
        else:
            axes.plot(values, made, color=color, ls=dash, lw=2, label=label)
    name = "probability" if shown.points else "log-likelihood"
    axes.set(xlabel="value", ylabel=name)
    if shown.points:
        axes.set_ylim(0, None)


def _shares(axes: Any, title: str) -> None:
    """Of three classes: their chances, and how much of the draws each gets."""
    logits = torch.tensor([1.0, 0.0, -1.0])
    many = logits.expand(DRAWS, 3)
    if title == "Gumbel-softmax":
        shown = {f"mean of draws, tau {tau}": fr.gumbel_softmax(many, tau) for tau in (0.5, 2.0)}
    else:
        shown = {f"share of draws, unimix {u}": fr.one_hot_categorical(many, u) for u in (0.0, 0.3)}
    places = torch.arange(3)
    axes.plot(places, logits.softmax(-1), "kx", ms=9, label="softmax(logits)", ls="none")
    for index, ((color, _, mark), (label, draws)) in enumerate(
        zip(STYLES, shown.items(), strict=False)
    ):
        shift = 0.12 * (2 * index - 1)
        axes.plot(places + shift, draws.mean(0), mark, color=color, label=label)
    axes.set(xlabel="class", ylabel="share", ylim=(0, 1), xticks=range(3))
