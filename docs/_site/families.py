"""The API's pages: every public name by its docstring, and a page for each family.

A family's page holds its formula, a plot of its density with draws of this package over it, who
uses it, and the docstrings of its functions, module and distribution.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fused_reparam as fr
from fused_reparam import distributions as D
from fused_reparam.families import FAMILIES

# Okabe and Ito's colours, each with a dash of its own.
STYLES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", ":"))
DRAWS = 20_000


class Page(NamedTuple):
    title: str
    sample: str
    users: str
    functions: tuple[str, ...]
    modules: tuple[str, ...]
    distribution: str
    shown: dict[str, Any]  # a label of each curve, and its distribution
    span: tuple[float, float]


def _row(family: str, distribution: str, shown: dict[str, Any], span: tuple[float, float]) -> Page:
    """The page of a family whose row in `fused_reparam.families` says what it is."""
    title, sample, users = FAMILIES[family].about
    functions = [f"{family}_rsample"]
    functions += [f"{family}_latent"] if FAMILIES[family].terms else []
    sample = sample.replace("\\|", "|")
    return Page(title, sample, users, tuple(functions), (), distribution, shown, span)


def _loc_scale(name: str, sample: str, users: str, shown: dict[str, Any], latent: bool) -> Page:
    functions = ("loc_scale_rsample", "loc_scale_latent") if latent else ("loc_scale_rsample",)
    title = {"StudentT": "Student-t"}.get(name, name if name[0] in "LGC" else name.lower())
    return Page(title, sample, users, functions, (), name, shown, (-6.0, 6.0))


GAUSSIAN = tuple(name for name in fr.__all__ if name.startswith("gaussian_"))
BAYESIAN = tuple(name for name in fr.__all__ if name.startswith("Bayesian"))
PAGES = {
    "gaussian": Page(
        "Gaussian", "mu + sigma eps", "VAEs, latent diffusion, importance-weighted bounds",
        GAUSSIAN, ("FusedGaussianLatent",), "Normal",
        {"mu 0, sigma 1": D.Normal(0.0, 1.0), "mu 1, sigma 0.5": D.Normal(1.0, 0.5)}, (-4.0, 4.0)),
    "sampled_weights": Page(
        "sampled weights", "mu + log(1 + e^rho) eps", "Bayes by backprop",
        ("sample_weight", "kl_divergence"), BAYESIAN, "",
        {"rho 0": D.Normal(0.0, rho=torch.tensor(0.0)),
         "rho -1": D.Normal(0.0, rho=torch.tensor(-1.0))}, (-3.0, 3.0)),
    "tanh_normal": Page(
        "bounded action (tanh-normal)", "middle + half tanh(mu + sigma eps)", "soft actor-critic",
        ("tanh_normal_rsample", "tanh_normal_sample", "tanh_normal_log_prob"), ("FusedTanhNormal",),
        "TanhNormal", {"mu 0, sigma 0.5": D.TanhNormal(0.0, 0.5),
                       "mu 0.5, sigma 1": D.TanhNormal(0.5, 1.0)}, (-0.999, 0.999)),
    "log_normal": Page(
        "log-normal", "exp(mu + sigma eps)", "positive latents",
        ("log_normal_rsample", "log_normal_latent"), (), "LogNormal",
        {"mu 0, sigma 0.5": D.LogNormal(0.0, 0.5), "mu 0, sigma 1": D.LogNormal(0.0, 1.0)},
        (0.01, 5.0)),
    "laplace": _loc_scale(
        "Laplace", "loc + scale sign(u - 1/2) (-ln(1 - |2u - 1|))", "sparse latents",
        {"scale 1": D.Laplace(0.0, 1.0), "scale 0.5": D.Laplace(0.0, 0.5)}, True),
    "gumbel": _loc_scale("Gumbel", "loc - scale ln(-ln u)", "perturbed maximum",
                         {"scale 1": D.Gumbel(0.0, 1.0), "scale 0.5": D.Gumbel(0.0, 0.5)}, True),
    "uniform": _loc_scale("Uniform", "loc + scale (2u - 1)",
                          "dithering, additive-noise quantization",
                          {"loc 0, scale 1": D.Uniform(-1.0, 1.0),
                           "loc 1, scale 3": D.Uniform(-2.0, 4.0)}, True),
    "cauchy": _loc_scale("Cauchy", "loc + scale tan(pi (u - 1/2))", "heavy tails",
                         {"scale 1": D.Cauchy(0.0, 1.0), "scale 0.5": D.Cauchy(0.0, 0.5)}, True),
    "logistic": _loc_scale(
        "Logistic", "loc + scale ln(u / (1 - u))", "discretized likelihoods, flows",
        {"scale 1": D.Logistic(0.0, 1.0), "scale 0.5": D.Logistic(0.0, 0.5)}, False),
    "student_t": _loc_scale(
        "StudentT", "loc + scale sqrt(df (u^(-2/df) - 1)) cos(2 pi u')", "heavy tails",
        {"df 1.5": D.StudentT(1.5), "df 8": D.StudentT(8.0)}, False),
    "relaxed_bernoulli": Page(
        "relaxed Bernoulli",
        "sigmoid((logits + ln(u / (1 - u))) / tau), or 0 and 1 straight-through",
        "gates, masks, L0 penalties",
        ("relaxed_bernoulli", "relaxed_bernoulli_log_prob", "bernoulli_kl"),
        ("FusedRelaxedBernoulli",), "RelaxedBernoulli",
        {f"tau {tau}, logits 0.5": D.RelaxedBernoulli(tau, logits=torch.tensor(0.5))
         for tau in (0.5, 1.5)}, (0.005, 0.995)),
    "kumaraswamy": _row("kumaraswamy", "Kumaraswamy",
                        {"a 2, b 5": D.Kumaraswamy(2.0, 5.0),
                         "a 3, b 1.5": D.Kumaraswamy(3.0, 1.5)},
                        (0.001, 0.999)),
    "exponential": _row("exponential", "Exponential",
                        {"rate 1": D.Exponential(1.0), "rate 2": D.Exponential(2.0)}, (0.001, 5.0)),
    "weibull": _row("weibull", "Weibull",
                    {"scale 1, concentration 1.5": D.Weibull(1.0, 1.5),
                     "scale 1, concentration 4": D.Weibull(1.0, 4.0)}, (0.001, 3.0)),
    "pareto": _row("pareto", "Pareto",
                   {"alpha 1.5": D.Pareto(1.0, 1.5), "alpha 4": D.Pareto(1.0, 4.0)}, (1.001, 5.0)),
    "generalized_pareto": _row(
        "generalized_pareto", "GeneralizedPareto",
        {"concentration 0.5": D.GeneralizedPareto(0.0, 1.0, 0.5),
         "concentration -0.25": D.GeneralizedPareto(0.0, 1.0, -0.25)}, (0.001, 3.9)),
    "half_normal": _row("half_normal", "HalfNormal",
                        {"scale 1": D.HalfNormal(1.0), "scale 0.5": D.HalfNormal(0.5)},
                        (0.001, 3.5)),
    "half_cauchy": _row("half_cauchy", "HalfCauchy",
                        {"scale 1": D.HalfCauchy(1.0), "scale 0.5": D.HalfCauchy(0.5)},
                        (0.001, 6.0)),
    "continuous_bernoulli": _row(
        "continuous_bernoulli", "ContinuousBernoulli",
        {"logits 2": D.ContinuousBernoulli(logits=torch.tensor(2.0)),
         "logits -4": D.ContinuousBernoulli(logits=torch.tensor(-4.0))}, (0.001, 0.999)),
    "gumbel_softmax": Page(
        "Gumbel-softmax", "softmax((logits - ln(-ln u)) / tau), or one-hot straight-through",
        "discrete VAEs, routing",
        ("gumbel_softmax", "categorical_latent", "gumbel_softmax_log_prob"),
        ("FusedGumbelSoftmax", "FusedCategoricalLatent"), "RelaxedOneHotCategorical",
        {}, (0.0, 1.0)),
    "one_hot_categorical": Page(
        "one-hot categories", "one-hot of i ~ (1 - unimix) softmax(logits) + unimix / C",
        "world models", ("one_hot_categorical", "categorical_kl"), ("FusedOneHotCategorical",),
        "OneHotCategorical", {}, (0.0, 1.0)),
}  # fmt: skip


def pages() -> Iterator[tuple[str, str | bytes]]:
    """Paths below docs and their contents."""
    with fr.backend("reference"):  # the specification, which needs no compiler
        for name, page in PAGES.items():
            yield f"api/families/{name}.md", _family(name, page)
            yield f"api/families/{name}.png", _picture(page)
    yield "api/families.md", _table()
    functions = sorted(name for name in fr.functional.__all__)
    classes = [name for name in fr.nn.__all__ if name[0].isupper()]
    others = [name for name in fr.nn.__all__ if name[0].islower()]
    yield "api/functions.md", _listing("Functions", [*functions, *others])
    yield "api/modules.md", _listing("Modules", classes)
    ours = sorted(name for name, one in vars(D).items() if is_ours(one))
    head = "[What is fused, and what differs from PyTorch](../distributions.md)."
    yield "api/distributions.md", _listing("Distributions", ours, D, head)
    text = "# Noise and backends {#api-noise}\n\n::: fused_reparam.noise\n"
    backends = (
        fr.backend,
        fr.current_backend,
        fr.empty_cache,
        fr.memory_stats,
        fr.integrations.patch,
    )
    yield "api/noise.md", text + "".join(f"\n::: {identifier(one)}\n" for one in backends)


def is_ours(one: Any) -> bool:
    return isinstance(one, type) and one.__module__.startswith("fused_reparam.distributions")


def identifier(one: Any) -> str:
    """Where the docstring stands, which is what the site links to."""
    return f"{one.__module__}.{one.__qualname__}"


def _listing(title: str, names: list[str], module: Any = fr, head: str = "") -> str:
    parts = [
        f"# {title} {{#api-{title.lower()}}}",
        head,
        *(f"::: {identifier(getattr(module, name))}" for name in names),
    ]
    return "\n\n".join(parts) + "\n"


def _link(name: str, module: Any = fr) -> str:
    return f"[`{name}`][{identifier(getattr(module, name))}]"


def _table() -> str:
    lines = [
        "# Families {#api-families}",
        "u and u' are uniform on (0, 1), eps is a standard normal. Every sample is differentiable "
        "in its parameters. Each page shows the density with draws of this package over it.",
        "| family | sample | used for |\n|---|---|---|",
    ]
    rows = (f"| [{page.title}](families/{name}.md) | `{_cell(page.sample)}` | {page.users} |"
            for name, page in PAGES.items())  # fmt: skip
    return "\n\n".join(lines) + "\n" + "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "&#124;") if "`" in text else text.replace("|", "\\|")


def _family(name: str, page: Page) -> str:
    title = page.title[0].upper() + page.title[1:]
    parts = [f"# {title}", f"A sample is\n\n```text\n{page.sample}\n```", f"Used for {page.users}."]
    what = "Shares of draws" if not page.shown else "Density, and a histogram of draws"
    parts.append(f"![{what} of the family {page.title}]({name}.png)")
    rows = [("Functions", [_link(one) for one in page.functions])]
    rows.append(("Modules", [_link(one) for one in page.modules]))
    rows.append(("Distribution", [_link(page.distribution, D)] if page.distribution else []))
    parts += [f"{kind}: {', '.join(links)}." for kind, links in rows if links]
    return "\n\n".join(parts) + "\n"


def _picture(page: Page) -> bytes:
    torch.manual_seed(0)
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7.0, 3.4), layout="constrained", dpi=110)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        if page.shown:
            _densities(axes, page)
        else:
            _shares(axes, page)
        legend = axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        legend.set_in_layout(True)
        file = io.BytesIO()
        figure.savefig(file, metadata={"Software": None})
    return file.getvalue()


def _densities(axes: Any, page: Page) -> None:
    """The density of each, and over it the share of its draws in each bin, by the bin's width."""
    low, high = page.span
    line = torch.linspace(low, high, 400)
    edges = torch.linspace(low, high, 51)
    for (color, dash), (label, law) in zip(STYLES, page.shown.items(), strict=False):
        values = line.clamp(max=float(getattr(law.support, "upper_bound", high)))
        inside = law.support.check(values)
        density = torch.full_like(line, torch.nan)
        density[inside] = law.log_prob(values[inside]).exp()
        draws = law.rsample((DRAWS,)).flatten()
        counts = torch.histogram(draws.detach(), edges)[0] / (DRAWS * (edges[1] - edges[0]))
        axes.stairs(counts, edges, color=color, alpha=0.25, fill=True, label=f"draws, {label}")
        axes.plot(line, density, color=color, ls=dash, lw=2, label=label)
    axes.set(xlabel="value", ylabel="density", ylim=(0, None), xlim=(low, high))


def _shares(axes: Any, page: Page) -> None:
    """Of three classes: their chances, and how much of the draws each gets."""
    logits = torch.tensor([1.0, 0.0, -1.0])
    many = logits.expand(DRAWS, 3)
    if "gumbel_softmax" in page.functions:
        shown = {f"mean of draws, tau {tau}": fr.gumbel_softmax(many, tau) for tau in (0.5, 2.0)}
    else:
        shown = {f"share of draws, unimix {u}": fr.one_hot_categorical(many, u) for u in (0.0, 0.3)}
    places = torch.arange(3)
    axes.plot(places, logits.softmax(-1), "kx", ms=9, label="softmax(logits)", ls="none")
    for index, ((color, _), (label, draws)) in enumerate(zip(STYLES, shown.items(), strict=False)):
        mark = "os"[index]
        shift = 0.12 * (2 * index - 1)
        axes.plot(places + shift, draws.mean(0), mark, color=color, label=label)
    axes.set(xlabel="class", ylabel="share", ylim=(0, 1), xticks=range(3))
