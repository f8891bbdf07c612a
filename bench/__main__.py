"""The command line of the bench; `python -m bench --help` lists its options."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if sys.version_info < (3, 11):  # noqa: UP036  # a plain checkout, which no installer has checked
    print(f"bench: needs Python 3.11 or later, this is {sys.version.split()[0]}", file=sys.stderr)
    sys.exit(2)
try:
    import torch
except ImportError as error:
    print(f"bench: {sys.executable} can't import PyTorch ({error})", file=sys.stderr)
    sys.exit(2)

from bench import report, results
from bench.ops import OPS, WORKS
from bench.results import CALLS, LATENT, STEPS
from bench.sizes import shape_of
from bench.variants import NAMES as VARIANTS

if TYPE_CHECKING:
    from bench.measure import Settings
    from bench.results import Result

# Beside each op's own sizes. On a CPU 64M has to be asked for: it takes as long as all others.
LARGE = {"cpu": (), "cuda": ("64M", "256M", "1G")}
DTYPES = ("float32", "bfloat16", "float16", "float64")
# The exit status of a run that Ctrl-C ended.
INTERRUPTED = 130
NAMES = (*OPS, STEPS, CALLS)
GROUPS = {"all": NAMES, "others": tuple(name for name in NAMES if name not in (LATENT, STEPS))}


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["show"]:
            return show(words[1:])
        if words and words[0] in ("plots", "pages", "gpu-report", "recompute"):
            module = importlib.import_module(f"bench.{words[0].replace('-', '_')}")
            return int(module.main(words[1:]))
        return run(words)
    except ImportError as error:
        if error.name not in ("pandas", "matplotlib"):
            raise
        print(f"python -m bench {words[0]}: needs pandas and matplotlib ({error})", file=sys.stderr)
        return 1


def run(words: Sequence[str]) -> int:
    """Measures; returns 1 when a variant failed its check, after reporting all the others.

    And INTERRUPTED after Ctrl-C; what was measured until then is kept.
    """
    options = _options(words)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"python -m bench: --out {options.out}: {error.strerror}", file=sys.stderr)
        return 2
    from bench.measure import measure_all

    if options.threads:
        torch.set_num_threads(options.threads)
    every = [_settings(options, name) for name in options.op]
    found: dict[str, Result] = {}
    earlier: dict[str, Result] = {}
    written: dict[str, list[Path]] = {}
    code, last = 0, ""
    try:
        for result in measure_all(every, report.say):
            op, path = result["settings"]["op"], results.path_of(result, options.out)
            if options.add and op not in found and path.exists():
                earlier[op] = results.read(path)
            whole = results.merged(earlier[op], result) if op in earlier else result
            # On disk at once: what comes next may take long, or take the process with it.
            found[op], written[op] = result, results.write(whole, options.out)
    except KeyboardInterrupt:
        kept = ", ".join(f"{op} ({len(one['rows'])} rows)" for op, one in found.items())
        code, last = INTERRUPTED, f"interrupted; kept: {kept or 'nothing'}"
    finally:
        report.print_results(list(found.values()), options.wide)
        print("\n".join(f"wrote {path}" for paths in written.values() for path in paths))
    rows = [row for one in found.values() for row in one["rows"]]
    failed = [f"{row['variant']}, {row['reason']}" for row in rows if row["status"] == "failed"]
    if last or failed:
        print(last or f"FAILED: {'; '.join(dict.fromkeys(failed))}")
    return code or int(bool(failed))


def show(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench show", description="Results as a run prints them."
    )
    parser.add_argument("results", type=Path, nargs="+", help="result JSON, or a folder of them")
    parser.add_argument("--wide", action="store_true", help="tables of all columns")
    options = parser.parse_args(words)
    try:
        report.print_results(results.load(*options.results), options.wide)
    except ValueError as error:  # in one line: it is no matter of how the command is used
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Speed and memory of ops and training steps, beside what they replace.",
        epilog="Also, each with --help: show, plots, pages, recompute, gpu-report.",
    )

    def add(name: str, text: str, **more: object) -> None:
        parser.add_argument(name, help=text, **more)  # type: ignore[arg-type]

    add("--op", f"all, others (all but {LATENT} and {STEPS}), or some of: {', '.join(NAMES)}",
        type=_some(NAMES, GROUPS), default=(LATENT,))  # fmt: skip
    add("--device", "cpu, cuda, cuda:1, ...", type=_device, default="cpu")
    add("--sizes", "such as 128x20, or 16M elements (default: each op's); not of training steps, "
        "which have their models'", type=_sizes, default=())  # fmt: skip
    add("--dtype", f"{', '.join(DTYPES)} (default: each op's)", type=_some(DTYPES))
    add("--work", "some of these (default: all)", type=_some(WORKS), default=WORKS)
    add("--variants", "only these, beside eager (default: all)", type=_some(VARIANTS), default=())
    add("--threads", "CPU threads (default: PyTorch's)", type=int)
    add("--compile", f"of {CALLS}: once more with both sides through torch.compile",
        action="store_true")  # fmt: skip
    add("--wide", "tables of all columns", action="store_true")
    add("--quick", "small sizes, a rough result", action="store_true")
    add("--add", "to the rows of earlier runs, in the same files", action="store_true")
    add("--out", "results go to <out>/<machine>/<op>.json and .csv; those to be kept to "
        "bench/results (default: out/bench)", default=Path("out/bench"), type=Path)  # fmt: skip
    options = parser.parse_args(words)
    if options.device.type != "cpu":  # small calls are measured on one
        options.op = tuple(name for name in options.op if name != CALLS)
    if not options.op:
        parser.error(f"--op {CALLS}: these are measured on a CPU, got --device {options.device}")
    if options.sizes and options.op == (STEPS,):
        parser.error("--sizes: training steps have the sizes of their models")
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads {options.threads}: expected 1 or more")
    return options


def _some(
    known: Sequence[str], groups: dict[str, tuple[str, ...]] | None = None
) -> Callable[[str], tuple[str, ...]]:
    """Takes what stands between commas, each once; all of it must be known, or name a group."""

    def given(text: str) -> tuple[str, ...]:
        found = (groups or {}).get(text, tuple(dict.fromkeys(text.split(","))))
        for one in found:
            if one not in known:
                raise argparse.ArgumentTypeError(f"{one!r}: expected some of: {', '.join(known)}")
        return found

    return given


def _sizes(text: str) -> tuple[str, ...]:
    try:
        return tuple(size for size in dict.fromkeys(text.split(",")) if shape_of(size))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _device(text: str) -> torch.device:
    """The device of that name, if PyTorch has one and the bench has a clock for it."""
    try:
        device = torch.device(text)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in LARGE:
        raise argparse.ArgumentTypeError(f"{text!r}: expected cpu, cuda, or one such as cuda:1")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        raise argparse.ArgumentTypeError(f"{text!r}: this PyTorch sees {count} of {device.type}")
    return device


def _settings(options: argparse.Namespace, name: str) -> Settings:
    from bench.calls import SHAPES
    from bench.measure import Settings
    from bench.steps import STEP, models
    from bench.timing import QUICK, THOROUGH

    sizes, dtypes, works = options.sizes, options.dtype or ("float32",), options.work
    if name == STEPS:
        sizes, dtypes = tuple(one.name for one in models(options.quick)), ("float32",)
        works = (STEP,)
    elif name == CALLS:
        sizes = tuple("x".join(map(str, shape)) for shape in SHAPES)
    else:
        op, kind = OPS[name], options.device.type
        sizes = sizes or (op.sizes[:2] if options.quick else op.sizes + LARGE[kind])
        dtypes = options.dtype or op.dtypes
    effort = QUICK if options.quick else THOROUGH
    return Settings(name, str(options.device), sizes, dtypes, works, options.variants,
                    options.quick, effort, options.compile)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
