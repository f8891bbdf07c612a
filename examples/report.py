"""What the examples print: progress bars, a table's line, and whether two variants agree."""

from __future__ import annotations

import math
import statistics

from measure import Measured
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn


def bars() -> Progress:
    """Progress bars that count and say how long it will still take; a context manager."""
    columns = Progress.get_default_columns()[:3]
    return Progress(*columns, MofNCompleteColumn(), TimeRemainingColumn())


def table_line(name: str, *cells: str) -> str:
    return f"{name:21}" + "".join(f"{cell:>17}" for cell in cells)


def latent_table(finals: dict[str, list[float]], measured: dict[str, Measured]) -> list[str]:
    """The lines of a table: held-out losses over seeds, times and bytes of each latent."""
    lines = [
        table_line("", "held-out -ELBO", "training step", "latent alone", "kept for"),
        table_line("", "nats/image", "us", "us", "backward"),
    ]
    for name, final in finals.items():
        spread = statistics.stdev(final) if len(final) > 1 else 0.0
        cells = [f"{statistics.mean(final):.2f} ± {spread:.2f}"]
        for middle, half in (measured[name].step, measured[name].latent):
            cells.append(f"{middle * 1e6:.0f} ± {half * 1e6:.0f}")
        lines.append(table_line(name, *cells, f"{measured[name].saved} B"))
    return [
        *lines,
        "  -ELBO: mean ± standard deviation over seeds. Times, forward and backward: median ± half",
        "  the distance of the quartiles, in turns. Kept: bytes beyond the latent's inputs.",
        "",
    ]


# Two-sided 99% points of Student's t, by degrees of freedom.
STUDENT_99 = {
    1: 63.66,
    2: 9.925,
    3: 5.841,
    4: 4.604,
    5: 4.032,
    6: 3.707,
    7: 3.499,
    8: 3.355,
    9: 3.25,
}


def agreement(first: list[float], second: list[float]) -> tuple[bool | None, str]:
    """Whether two variants' losses, paired by run, agree; and the criterion in words."""
    differences = [b - a for a, b in zip(first, second, strict=True)]
    mean, count = statistics.mean(differences), len(differences)
    if count < 2:
        return None, f"difference {mean:+.3f} nats; one run says nothing about the spread"
    error = statistics.stdev(differences) / math.sqrt(count)
    bound = STUDENT_99.get(count - 1, 3.2) * error
    agree = abs(mean) <= bound
    words = ("they agree", "within") if agree else ("THEY DIFFER", "outside")
    return agree, (
        f"{words[0]}: mean difference over {count} runs {mean:+.3f} nats, {words[1]} the "
        f"±{bound:.3f} of a paired t test at 99%"
    )
