"""Results as a table of pandas: a line for each case, with the figures of who took part in it."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from bench.ops import BOTH
from bench.results import CALLS, CASE, Result
from bench.variants import COMPILE, DISTRIBUTIONS, EAGER, EAGER_KEPT, REFERENCE, UNCHECKED

TIMES = ["median_s", "low_s", "high_s"]
FIGURES = [*TIMES, "saved_bytes", "peak_bytes", "of_copy", "of_limit", "copy_s", "noise_s",
           "host_s"]  # fmt: skip
CONSTANT = ["shape", "elements", "moved_bytes", "threads", "device_type"]
# The models that the front page shows: of these one that gains nothing.
FRONT = ("mlp-vae", "image-vae", "bayes-linear")
# The columns of a case are named by who took part, and then by the figure: `eager_median_s`.
# `kept` is eager where freed memory is kept, `compile` the fastest of torch.compile's modes, `own`
# of our backends, `model` ours in a compiled model.
WHO = ("eager", "kept", "compile", "distributions", "unchecked", "own", "model")


def cases(results: Iterable[Result]) -> pd.DataFrame:
    """A line for each case, in the order of the rows; NaN stands where nobody was timed.

    Small calls, each of which is a case of its own, are left out.
    """
    every = pd.DataFrame([
        row | {"device_type": result["machine"]["device_type"]}
        for result in results if result["settings"]["op"] != CALLS for row in result["rows"]
    ])  # fmt: skip
    every = every.reindex(columns=[*CASE, *CONSTANT, "variant", "ours", "status", *FIGURES])
    every = every.astype(dict.fromkeys(FIGURES, float) | {"ours": bool})
    variant = every.variant.astype(str)
    every["backend"] = variant.str.split(",").str[0]
    fused, model = every.ours & (every.backend != REFERENCE), variant.str.endswith("compiled model")
    took_part = {
        "eager": variant == EAGER,
        "kept": variant == EAGER_KEPT,
        "compile": ~every.ours & variant.str.startswith(COMPILE),
        "distributions": variant == DISTRIBUTIONS,
        "unchecked": variant == UNCHECKED,
    }
    for who, mine in (("own", every.ours & ~model), ("model", every.ours & model)):
        # The specification's only where it is all that there is.
        some = (fused & mine).groupby([every[name] for name in CASE]).transform("any")
        took_part[who] = mine & (fused | ~some)
    found = every.drop_duplicates(CASE).set_index(CASE)[CONSTANT]
    timed = every[every.status == "ok"].sort_values("median_s", kind="stable")
    parts = [found]
    for who in WHO:
        some = timed[took_part[who].loc[timed.index]]
        fastest = some.drop_duplicates(CASE).set_index(CASE)[["variant", "backend", *FIGURES]]
        fastest["least_host_s"] = some.groupby(CASE).host_s.min()
        parts.append(fastest.add_prefix(f"{who}_").reindex(found.index))
    found, others = pd.concat(parts, axis=1).reset_index(), ["op", "size", "work"]
    # Beside each dtype stand our times in float32.
    single = found[found.dtype == "float32"].set_index(others)[[f"own_{name}" for name in TIMES]]
    return found.join(single.set_axis([f"float32_{name}" for name in TIMES], axis=1), on=others)


def most_work(found: pd.DataFrame) -> pd.DataFrame:
    """Of each op the cases of forward and backward where it has both, else of all that it has."""
    works = found.groupby("op").work
    return found[found.work == works.transform(lambda w: BOTH if BOTH in set(w) else w.iloc[-1])]


def largest(found: pd.DataFrame) -> pd.DataFrame:
    """Of each op, dtype and work that at the largest size."""
    return found.loc[sorted(found.groupby(["op", "dtype", "work"]).elements.idxmax())]


def front(models: pd.DataFrame) -> pd.DataFrame:
    """Of training steps those that the front page shows, or all if none of these was measured."""
    chosen = models[models["size"].isin(FRONT)]
    return chosen if len(chosen) else models
