"""The calls that are executed: every kernel, family, layout, reduction and size class of tile."""

from __future__ import annotations

from functools import cache

import torch

import fused_reparam as fr
from fused_reparam.families import FAMILIES
from fused_reparam.ops import softmax
from tests.ptx.case import CARRY32, CARRY64, Case, graph_key


@cache
def cases() -> dict[str, Case]:
    made = [
        *_noise(),
        *_latents(),
        *_layouts(),
        *_other_gaussians(),
        *_families(),
        *_far_out(),
        *_categories(),
        *_numbers_of_categories(),
        *_categories_along_an_inner_dim(),
    ]
    named = {case.name: case for case in made}
    assert len(named) == len(made), "two cases have the same name"
    return named


def _case(name, function, tensors, shape, options=None, **rest) -> Case:
    return Case(name, function, tuple(tensors.split()), shape, options or {}, **rest)


def _noise():
    """The noise alone, as double backward and `vmap` ask for it."""
    for base in ("normal", "laplace", "logistic", "gumbel", "uniform", "cauchy", "student_t"):
        yield _case(f"noise {base}", _scaled_noise, "scale", (33, 21), {"base": base}, key=CARRY32)
    yield _case("noise of whole groups", _scaled_noise, "scale", (33, 24), every_dtype=True)
    yield _case("noise exponential", _scaled_noise, "scale", (4096,), {"base": "exponential"})
    rest = {"key_from": "device", "key": CARRY64}
    yield _case("noise by a key from the device", _scaled_noise, "scale", (129,), {}, **rest)


def _scaled_noise(scale, key, base="normal"):
    made = torch.ops.fused_reparam.base_noise(key, scale.shape, [], scale.dtype, base, 3.0)
    return scale * made


def _latent(name, tensors, shape, options=None, **rest) -> Case:
    return _case(f"latent {name}".strip(), fr.gaussian_latent, tensors, shape, options, **rest)


def _latents():
    for n in (1, 3, 7, 127, 1000, 4097):
        yield _latent(f"of {n}", "mu logvar", (n,), {"reduction": "sum"}, key=CARRY32)
    for kind in ("logvar", "log_std", "std", "var", "rho"):
        yield _latent(kind, f"mu {kind}", (33, 20), key=CARRY64)
    for reduction in ("none", "sample", "sum", "mean", "batchmean"):
        yield _latent(reduction, "mu logvar", (37, 41), {"reduction": reduction})
    yield _latent("rows of whole groups", "mu logvar", (32, 64), {"reduction": "sample"})
    yield _latent("rows of a tile", "mu logvar", (3, 2048), {"reduction": "sample"})
    yield _latent("long rows", "mu logvar", (3, 5000), {"reduction": "sample"})
    yield _latent("long odd rows", "mu logvar", (7, 9999), {"reduction": "sample"}, key=CARRY32)
    yield _latent("of many tiles", "mu logvar", (70001,), {"reduction": "sum"}, key=CARRY32)
    yield _latent("clamped", "mu logvar", (33, 20), {"clamp": (-0.5, 0.7)})
    options = {"clamp": (-0.5, 0.7), "reduction": "none"}
    yield _latent("clamped log_std", "mu log_std", (5, 7), options)
    yield _latent("under sum()", "mu logvar", (33, 20), {"reduction": "none"}, gradients="sum")
    for where, key in (("device", CARRY64), ("graph", graph_key())):
        rest = {"key_from": where, "key": key}
        yield _latent(f"key from the {where}", "mu logvar", (129,), {"reduction": "sum"}, **rest)
    given = {"key": None}
    yield _latent("given eps", "mu logvar eps", (33, 20), **given)
    options = {"reduction": "sample"}
    given |= {"bits": True}
    halves = {"layouts": ("half",) * 3, "every_dtype": True}
    yield _latent("given eps halves", "mu std eps", (9, 20), options, **halves, **given)
    names, one_row = "loc scale eps", ("dense", "row")
    yield _case(
        "given eps of a row", fr.loc_scale_rsample, names, (9, 20), layouts=one_row, **given
    )
    densities = fr.gaussian_rsample_log_prob
    yield _case("given eps densities", densities, "mu std eps", (9, 20), **given)
    yield _case("given eps weights", _to_large_weights, "mu std eps", (9, 20), **given)
    yield _latent("frozen mu", "mu logvar", (9, 20), frozen=("mu",))
    yield _latent("frozen scale", "mu rho", (9, 20), frozen=("rho",))
    yield _latent("of which z is used", "mu logvar", (9, 20), unused=(1,))
    yield _latent("of which the KL is used", "mu logvar", (9, 20), unused=(0,))
    yield _latent("given prior", "mu log_std", (9, 20), {"prior": (0.3, 1.5), "beta": 0.5})
    names = "mu std prior_loc prior_std"
    yield _latent("learned prior", names, (9, 20), {"reduction": "sample"})
    for kind in ("logvar", "log_std", "var", "rho"):
        yield _latent(f"learned prior {kind}", f"mu logvar prior_loc prior_{kind}", (9, 20))
    for kind, prior in (("rho", "rho"), ("rho", "std"), ("std", "logvar"), ("log_std", "var")):
        yield _latent(
            f"learned prior {prior} of {kind}", f"mu {kind} prior_loc prior_{prior}", (9, 20)
        )
    yield _latent("far prior", "mu logvar", (9, 20), {"prior": (0.3, 1e8)})
    options = {"reduction": "sample"}
    prior = "mu logvar prior_loc prior_logvar"
    yield _latent("learned prior of long rows", prior, (3, 2500), options)
    yield _latent("learned prior of rows of a tile", prior, (2, 4096), options)
    yield _latent("free bits", "mu logvar", (9, 20), {"free_bits": 12.0})
    options = {"free_bits": 0.3, "free_bits_per": "element"}
    yield _latent("free bits of elements", "mu logvar", (9, 20), options)
    yield _latent("samples", "mu logvar", (5, 16), {"num_samples": 4}, key=CARRY64)
    options = {"num_samples": 3, "reduction": "none"}
    yield _latent("odd samples", "mu logvar", (5, 7), options)


def _layouts():
    pair = "mu logvar"
    yield _latent("channels last", pair, (2, 8, 5, 6), layouts=("channels_last",) * 2)
    yield _latent("halves", pair, (33, 20), layouts=("half", "half"))
    options = {"reduction": "sample"}
    yield _latent("odd halves", pair, (33, 21), options, layouts=("half", "half"))
    options = {"reduction": "none"}
    yield _latent("long halves", pair, (3, 2200), options, layouts=("half", "half"))
    yield _latent("halves of many columns", pair, (9, 20), layouts=("half", "half"), big=True)
    yield _latent("transposed", pair, (12, 20), layouts=("transposed", "dense"))
    yield _latent("expanded row", pair, (33, 20), layouts=("dense", "row"))
    yield _latent("expanded column", pair, (33, 20), layouts=("dense", "column"))
    yield _latent("unaligned", pair, (33, 20), layouts=("shifted", "shifted"))
    options = {"reduction": "sample"}
    yield _latent("gradient's half", pair, (9, 24), options, gradients="half")
    moments = fr.gaussian_latent_from_moments
    yield _case("moments", moments, "moments", (6, 10, 4, 5))
    yield _case("odd moments", moments, "moments", (5, 6, 3, 3), {"reduction": "sample"})
    yield _case("moments along the last dim", moments, "moments", (9, 14), {"dim": -1})


def _other_gaussians():
    yield _case("rsample", fr.gaussian_rsample, "mu logvar", (7, 19))
    yield _case("rsample samples", fr.gaussian_rsample, "mu std", (7, 19), {"num_samples": 3})
    yield _case("rsample halves", fr.gaussian_rsample, "mu rho", (9, 20), layouts=("half", "half"))
    kl = fr.gaussian_kl
    yield _case("kl", kl, "mu logvar", (33, 20), key=None)
    yield _case("kl none", kl, "mu rho", (33, 20), {"reduction": "none"}, key=None)
    prior = "mu logvar prior_loc prior_log_std"
    yield _case("kl prior", kl, prior, (33, 20), key=None)
    log_prob = fr.gaussian_rsample_log_prob
    yield _case("log_prob", log_prob, "mu logvar", (9, 20))
    options = {"num_samples": 3}
    yield _case("log_prob samples", log_prob, "mu log_std", (9, 20), options, key=CARRY32)
    yield _case("log_prob prior", log_prob, prior, (9, 21), {"num_samples": 2})
    names = "mu logvar eps"
    yield _case("log_prob given eps", log_prob, names, (9, 20), key=None)
    half = ("half",) * 3
    yield _case("log_prob given eps halves", log_prob, names, (9, 20), key=None, layouts=half)
    yield _case("log_prob frozen", log_prob, "mu logvar", (9, 20), frozen=("mu",))
    yield _case("log_prob frozen scale", log_prob, "mu logvar", (9, 20), frozen=("logvar",))
    yield _case("log_prob var", log_prob, "mu var", (8, 512), {"num_samples": 2})
    half, transposed = ("half", "half"), ("transposed", "dense")
    yield _case("log_prob halves", log_prob, "mu logvar", (9, 24), layouts=half)
    yield _case("log_prob odd halves", log_prob, "mu logvar", (9, 21), layouts=half)
    yield _case("log_prob long halves", log_prob, "mu logvar", (3, 4400), layouts=half)
    yield _case("log_prob transposed", log_prob, "mu rho", (12, 20), layouts=transposed)
    name = "log_prob halves of many columns"
    yield _case(name, log_prob, "mu logvar", (9, 20), layouts=half, big=True)
    yield _case("weight", fr.sample_weight, "mu rho", (30, 41))
    options = {"prior_mean": 0.1, "prior_std": 0.5}
    yield _case("weight prior", fr.sample_weight, "mu rho", (30, 41), options)
    options = {"mixture": (0.3, 1.5, 0.2)}
    yield _case("weight mixture", fr.sample_weight, "mu rho", (30, 41), options)
    names, scaled = "mu rho share std1 std2", (1.0, 1.0, 0.25, 1.0, 0.3)
    yield _case("weight mixture learned", _to_learned_mixture, names, (9, 20), scaled=scaled)
    yield _case("large weight", fr.sample_weight, "mu rho", (60, 141))


def _families():
    options = {"low": -1.5, "high": 0.5}
    yield _case("tanh_normal", fr.tanh_normal_rsample, "mean log_std", (33, 6), options)
    options = {"clamp": (-1.0, 0.5)}
    yield _case("tanh_normal clamped", fr.tanh_normal_rsample, "mean log_std", (5, 17), options)
    yield _case("tanh_normal_sample", _score, "mean log_std", (33, 6))
    density = fr.tanh_normal_log_prob
    yield _case("tanh_normal_log_prob", density, "action mean log_std", (33, 6), key=None)
    name = "tanh_normal_log_prob between tensors"
    yield _case(name, density, "action mean log_std low high", (33, 6), key=None)
    yield _case("tanh_normal between tensors", fr.tanh_normal_rsample, "mean rho low high", (5, 17))
    yield _case("tanh_normal_sample between tensors", _score, "mean log_std low high", (33, 6))
    name, options = "categorical_kl", {"dims": -1}
    yield _case(name, fr.categorical_kl, "logits prior_logits", (9, 3, 20), options, key=None)
    options = {"dims": -1, "unimix": 0.02}
    yield _case(
        f"{name} mixed", fr.categorical_kl, "logits prior_logits", (9, 3, 20), options, key=None
    )
    name, density = "z mu logvar", fr.gaussian_log_prob
    yield _case("gaussian_log_prob", density, name, (9, 20), {"dims": -1}, key=None)
    yield _case("gaussian_log_prob rho", density, "z mu rho", (5, 17), key=None)
    names = "logits prior_logits"
    yield _case("bernoulli_kl", fr.bernoulli_kl, names, (33, 20), {"dims": -1}, key=None)
    density, options = fr.relaxed_bernoulli_log_prob, {"tau": 0.6}
    yield _case("relaxed_bernoulli_log_prob", density, "y logits", (9, 20), options, key=None)
    density, options = fr.bernoulli_log_prob, {"dims": -1}
    yield _case("bernoulli_log_prob", density, "x logits", (33, 20), options, key=None)
    half = {"key": None, "frozen": ("x",), "layouts": ("dense", "half")}
    yield _case("bernoulli_log_prob of data", density, "x logits", (9, 21), **half)
    density, names = fr.negative_binomial_log_prob, "x mu theta"
    yield _case("negative_binomial_log_prob", density, names, (33, 20), {"dims": -1}, key=None)
    half["layouts"] += ("dense",)
    yield _case("negative_binomial_log_prob of data", density, names, (9, 21), **half)
    density, names = fr.zero_inflated_negative_binomial_log_prob, f"{names} logits"
    options = {"reduction": "sample"}
    yield _case("zero_inflated", density, names, (9, 20), options, key=None)
    options = {"continuous": True, "reduction": "sample"}
    density = fr.bernoulli_log_prob
    yield _case("bernoulli_log_prob continuous", density, "x logits", (9, 20), options, key=None)
    density, options = fr.laplace_log_prob, {"dims": -1}
    yield _case("laplace_log_prob", density, "x loc scale", (33, 20), options, key=None)
    density = fr.student_t_log_prob
    yield _case("student_t_log_prob", density, "x df loc scale", (33, 20), options, key=None)
    density = fr.discretized_logistic_log_prob
    yield _case("discretized_logistic", density, "x loc scale", (33, 20), options, key=None)
    yield _case("log_normal", fr.log_normal_rsample, "loc std", (9, 20))
    options = {"clamp": (-3.0, 1.0)}
    yield _case("log_normal latent", fr.log_normal_latent, "loc logvar", (9, 20), options)
    for base in ("laplace", "logistic", "gumbel", "uniform", "cauchy", "student_t"):
        options = {"base": base} | ({"df": 3.0} if base == "student_t" else {})
        name = f"loc_scale {base}"
        yield _case(name, fr.loc_scale_rsample, "loc scale", (33, 21), options, key=CARRY32)
    options = {"base": "student_t"}
    yield _case(
        "student_t df", fr.loc_scale_rsample, "loc scale df", (33, 21), options, key=CARRY32
    )
    for base in ("laplace", "gumbel", "uniform", "cauchy"):
        name = f"loc_scale latent {base}"
        yield _case(name, fr.loc_scale_latent, "loc scale", (9, 20), {"base": base})
    graph = {"key_from": "graph", "key": graph_key()}
    name, options = "loc_scale with a graph's key", {"base": "laplace"}
    yield _case(name, fr.loc_scale_rsample, "loc scale", (5, 7), options, **graph)
    device = {"key_from": "device", "key": CARRY64}
    name = "loc_scale with a key from the device"
    yield _case(name, fr.loc_scale_rsample, "loc scale", (5, 7), options, **device)
    bernoulli = fr.relaxed_bernoulli
    yield _case("relaxed_bernoulli", bernoulli, "logits", (33, 20), {"tau": 0.6})
    options = {"tau": 0.6, "hard": True}
    yield _case("relaxed_bernoulli hard", bernoulli, "logits", (33, 20), options)
    yield _case("relaxed_bernoulli tau", bernoulli, "logits tau", (33, 20))
    options = {"hard": True}
    yield _case("relaxed_bernoulli hard tau", bernoulli, "logits tau", (33, 20), options)
    for name, row in FAMILIES.items():
        if row.law:
            function = getattr(fr, f"{name}_latent" if row.terms else f"{name}_rsample")
            yield _case(name, function, row.names.replace("+", ""), (33, 20), row.some_prior())
        if row.prior:
            names = f"{row.names} {row.prior}".replace("+", "")
            # A Pareto's KL is finite where its scale is above the prior's.
            scaled = {"scaled": (1.0, 1.0, 0.05, 1.0)} if name == "pareto" else {}
            yield _case(f"{name} learned prior", function, names, (9, 20), **scaled)

    halves = ("half", "half")
    name, options = "loc_scale halves", {"base": "logistic"}
    yield _case(name, fr.loc_scale_rsample, "loc scale", (9, 24), options, layouts=halves)


def _to_large_weights(mu, std, eps):
    """softplus(x) is x from 40 on."""
    return fr.sample_weight(mu, 40.0 + std, mixture=(0.3, 1.5, 0.2), eps=eps)


def _to_learned_mixture(mu, rho, share, std1, std2, key):
    return fr.sample_weight(mu, rho, mixture=(share, std1, std2), key=key)


def _score(key, **given):
    """The log-density alone: the action has no gradient."""
    return fr.tanh_normal_sample(key=key, **given)[1]


def _far_out():
    """Subnormal numbers, which instructions with `.ftz` take for zeros."""
    scaled = {"scaled": (1e-37, 1.6e-38, 1e-37, 1e-35), "key": None}
    names = "mu std prior_loc prior_std"
    yield _case("kl of subnormal std", fr.gaussian_kl, names, (9, 20), **scaled)
    small = {"scaled": (1.0, 1e-39)}
    yield _case(
        "log_prob of subnormal var", fr.gaussian_rsample_log_prob, "mu var", (9, 20), **small
    )


def _soft(shape, options=None, name="", **rest) -> Case:
    options = {"tau": 0.6} | (options or {})
    name = f"gumbel_softmax {name or shape}"
    return _case(name, fr.gumbel_softmax, "logits", shape, options, **rest)


def _categorical(name, shape, options, **rest) -> Case:
    return _case(
        f"categorical {name}",
        fr.categorical_latent,
        "logits",
        shape,
        {"tau": 0.9} | options,
        **rest,
    )


def _one_hot(name, shape, options, **rest) -> Case:
    return _case(f"one_hot {name}", fr.one_hot_categorical, "logits", shape, options, **rest)


def _categories_of_noise(logits, noise, dim):
    """As `vmap` calls them, which draws the noise before."""
    return softmax.gumbel_softmax(logits, None, noise, 0, 0.6, 0.0, dim, "none")


def _tau_of_each(logits, tau, dim=-1, **options):
    """A temperature for each variable."""
    return fr.categorical_latent(logits, tau.narrow(dim, 0, 1), dim=dim, **options)


def _unimix_of_each(logits, unimix, dim=-1, **options):
    return fr.one_hot_categorical(logits, unimix.narrow(dim, 0, 1), dim=dim, **options)


def _numbers_of_categories():
    """Tensors of temperatures and shares: rows and columns, in one chunk and in several."""
    shares = {"scaled": (1.0, 0.1)}
    for dim, shape in ((-1, (33, 20)), (-1, (3, 9000)), (1, (4, 10, 6)), (1, (2, 5000, 3))):
        options = {"dim": dim}
        yield _case(f"tau of each {shape}", _tau_of_each, "logits tau", shape, options)
        name, rest = f"unimix of each {shape}", shares
        yield _case(name, _unimix_of_each, "logits unimix", shape, options, **rest)
    options = {"hard": True, "reduction": "none"}
    yield _case("tau of each, hard", _tau_of_each, "logits tau", (33, 21), options)
    yield _soft((9, 20), {"tau": torch.tensor(0.6)}, "tau of all")
    yield _one_hot("unimix of all", (9, 20), {"unimix": torch.tensor(0.05)})


def _categories():
    """Of the last dim: rows."""
    for shape in (
        (33, 1),
        (33, 2),
        (33, 20),
        (17, 127),
        (8, 128),
        (5, 1000),
        (3, 5001),
        (2, 20000),
    ):
        yield _soft(shape, key=CARRY32)
    for shape in ((33, 20), (3, 9000)):
        yield _soft(shape, {"hard": True}, f"hard {shape}")
        yield _categorical(f"{shape}", shape, {})
        yield _one_hot(f"{shape}", shape, {})
        yield _one_hot(f"unimix {shape}", shape, {"unimix": 0.05})
    for shape, dim in (((9, 20), -1), ((9, 21), -1), ((3, 9000), -1), ((4, 10, 6), 1)):
        options = {"dim": dim, "sample_shape": 3}
        yield _soft(shape, options, f"samples {shape}")
        yield _one_hot(f"samples {shape}", shape, options | {"unimix": 0.05})
    options = {"hard": True, "reduction": "none"}
    yield _categorical("hard", (33, 21), options, key_from="device")
    for layout, shape in (("half", (12, 24)), ("half", (12, 21)), ("transposed", (12, 20))):
        options = {"reduction": "sample"}
        yield _categorical(f"{layout} {shape}", shape, options, layouts=(layout,))
    rest = {"reduction": "sample"}
    yield _categorical("of which the KL is used", (12, 20), rest, unused=(0,))
    rest = {"key": None, "frozen": ("noise",)}
    for name, shape, options in (
        ("given noise", (9, 20), {"dim": -1}), ("given noise odd", (9, 21), {"dim": -1}),
        ("given noise dim 1", (3, 7, 8), {"dim": 1}), ("given noise long", (2, 9000), {"dim": -1}),
    ):  # fmt: skip
        yield _case(name, _categories_of_noise, "logits noise", shape, options, **rest)
    rest = {"key_from": "graph", "key": graph_key()}
    yield _soft((9, 20), name="with a graph's key", **rest)
    yield _soft((12, 20), name="transposed", layouts=("transposed",))
    yield _soft((12, 20), name="half", layouts=("half",))
    yield _soft((12, 20), name="unaligned", layouts=("shifted",))
    yield _soft((12, 24), name="gradient's half", gradients="half")
    yield _soft((12, 24), name="under sum()", gradients="sum")
    yield _soft((12, 21), name="odd half", layouts=("half",))


def _categories_along_an_inner_dim():
    """Columns: classes x inner elements. Tiles of few elements, which several threads hold alike,
    then those of a warp and of several, and chunks.
    """
    small = [(3, 4), (5, 4), (6, 4), (7, 4), (2, 8), (3, 8), (2, 12), (3, 12), (4, 12), (3, 16)]
    odd = [(3, 5), (7, 3), (5, 1), (33, 7)]
    larger = [(10, 64), (33, 64), (100, 32), (10, 256)]
    for classes, inners in (*small, *odd, *larger):
        shape = (2, classes, inners)
        rest = {"key": CARRY32, "every_dtype": shape[1:] in small}
        yield _categorical(f"dim 1 {shape}", shape, {"dim": 1, "reduction": "none"}, **rest)
    for shape in ((4, 10, 6, 8), (3, 33, 5, 7), (2, 600, 16, 16), (2, 5000, 2, 2)):
        yield _soft(shape, {"dim": 1}, f"dim 1 {shape}", key=CARRY64)
    for shape in ((2, 6, 4), (4, 10, 5, 5), (2, 5000, 2, 2)):
        options = {"dim": 1, "hard": True, "reduction": "none"}
        yield _categorical(f"hard dim 1 {shape}", shape, options)
    for shape in ((2, 7, 4), (4, 10, 6, 8), (2, 5000, 2, 2)):
        yield _one_hot(f"unimix dim 1 {shape}", shape, {"dim": 1, "unimix": 0.05})
        yield _one_hot(f"dim 1 {shape}", shape, {"dim": 1})
    options = {"dim": 1}
    yield _soft((4, 16, 6, 8), options, "channels last", layouts=("channels_last",))
    yield _soft((4, 16, 24), options, "dim 1 half", layouts=("half",), gradients="half")
    for shape in ((4, 16, 24), (2, 5000, 3)):
        options = {"dim": 1, "reduction": "none"}
        yield _categorical(f"dim 1 half {shape}", shape, options, layouts=("half",))
        rest = {"layouts": ("half",), "big": True}
        yield _categorical(f"dim 1 half of many {shape}", shape, options, **rest)
    yield _soft((300, 6, 2, 2), {"dim": 1}, "dim 1 of many rows")
