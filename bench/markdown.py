"""The README's table, made from a result file so that no figure in it is typed by hand."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from bench.report import duration
from bench.variants import COMPILE, EAGER

HEADER = ("latent", "dtype", "eager", COMPILE, "torch.distributions", "fused",
          "against eager", "against compile", "of copy speed",
          "bytes kept, eager", "fused")  # fmt: skip


_BEGIN, _END = "<!-- table: ", "<!-- end of table -->"


def replace_table(page: str, made: str) -> str:
    """The page with what stands between its markers replaced.

    Raises:
        ValueError: the page has not one pair of markers.
    """
    if page.count(_BEGIN) != 1 or page.count(_END) != 1:
        raise ValueError(f"expected one line {_BEGIN}... --> and one line {_END}")
    head, rest = page.split(_BEGIN)
    marker, rest = rest.split("\n", 1)
    return f"{head}{_BEGIN}{marker}\n\n{made}\n\n{_END}{rest.split(_END, 1)[1]}"


def table(result: dict[str, Any], work: str = "forward+backward") -> str:
    """One line for each size and dtype, with the fastest of our backends, and where it was run."""
    lines = [_line(HEADER), _line(["---"] * 2 + ["---:"] * (len(HEADER) - 2))]
    chosen = [row for row in result["rows"] if row["work"] == work]
    for _, rows in groupby(chosen, lambda row: (row["dtype"], row["shape"])):
        lines.append(_case(list(rows)))
    return "\n".join([*lines, "", _where(result, work)])


def _case(rows: list[dict[str, Any]]) -> str:
    timed = {row["variant"]: row for row in rows if row["status"] == "ok"}
    ours = [row for row in timed.values() if row["ours"]]
    best = min(ours, key=lambda row: row["median_s"], default=None)
    head = [rows[0]["shape"].replace("x", " x "), rows[0]["dtype"]]
    rivals = [_time(timed.get(name)) for name in (EAGER, COMPILE, "distributions")]
    eager = timed.get(EAGER)
    kept = "-" if eager is None else f"{eager['saved_bytes']:,}"
    if best is None:
        return _line([*head, *rivals, "-", "-", "-", "-", kept, "-"])
    own = [
        f"{_time(best)} ({best['variant']})",
        _times(best["vs_eager"]),
        _times(best["vs_compile"]),
    ]
    return _line([*head, *rivals, *own, f"{best['of_copy']:.0%}", kept, f"{best['saved_bytes']:,}"])


def _where(result: dict[str, Any], work: str) -> str:
    machine, limits = result["machine"], result["limits"]
    where = machine["device"]
    if machine["device_type"] == "cpu":
        where += f", {machine['threads']} threads, {machine['simd']}"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"`{result['settings']['op']}`, {work}, medians of interleaved runs on {where}; "
        f"{versions}; commit {machine['commit']}, {str(machine['time'])[:10]}. "
        f"Copy speed on this machine: {limits['copy_gb_per_s']:.1f} GB/s."
    )


def _time(row: dict[str, Any] | None) -> str:
    return "-" if row is None else duration(row["median_s"])


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"**{ratio:.1f}x**"


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"
