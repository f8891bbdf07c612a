"""The command line of the bench; `python -m bench --help` lists its options."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if sys.version_info < (3, 11):  # noqa: UP036  # a plain checkout, which no installer has checked
    print(f"bench: needs Python 3.11 or later, this is {sys.version.split()[0]}", file=sys.stderr)
    sys.exit(2)
try:
    import torch
except ImportError as error:
    print(f"bench: {sys.executable} can't import PyTorch ({error})", file=sys.stderr)
    sys.exit(2)

from bench import variants
from bench.ops import OPS, WORKS
from bench.results import CALLS, LATENT, STEPS, load

if TYPE_CHECKING:
    from bench.measure import Settings
    from bench.results import Result

# Beside each op's own: of the latent, and on a GPU of all ops.
LARGE = {"cpu": ("64M",), "cuda": ("64M", "256M", "1G")}
DTYPES = ("float32", "bfloat16", "float16", "float64")
# The exit statuses of a run whose device is gone, and of one that Ctrl-C ended.
LOST_DEVICE, INTERRUPTED = 3, 130
NAMES = (*OPS, STEPS, CALLS)


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = {"compare": compare, "table": table}
    try:
        if words and words[0] in own:
            return own[words[0]](words[1:])
        if words and words[0] in ("plots", "pages", "gpu-report"):
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

    And LOST_DEVICE when a variant took the device with it, INTERRUPTED after Ctrl-C; what was
    measured until then is kept.
    """
    options = _options(words)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"python -m bench: --out {options.out}: {error.strerror}", file=sys.stderr)
        return 2
    from bench import report, results
    from bench.measure import DeviceLost, measure_all

    if options.threads:
        torch.set_num_threads(options.threads)
    every = [_settings(options, name) for name in options.op]
    found: dict[str, Result] = {}
    written: dict[str, list[Path]] = {}
    code, last = 0, ""
    try:
        for result in measure_all(every, report.say):
            op = result["settings"]["op"]
            # On disk at once: what comes next may take long, or take the process with it.
            found[op], written[op] = result, results.write(result, options.out)
    except DeviceLost as error:
        code, last = LOST_DEVICE, str(error)
    except KeyboardInterrupt:
        kept = ", ".join(f"{op} ({len(one['rows'])} rows)" for op, one in found.items())
        code, last = INTERRUPTED, f"interrupted; kept: {kept or 'nothing'}"
    finally:
        for result in found.values():
            report.print_result(result, options.wide)
        report.print_legend(list(found.values()))
        print("\n".join(f"wrote {path}" for paths in written.values() for path in paths))
    if last:
        print(last)
    failed = any(row["status"] == "failed" for one in found.values() for row in one["rows"])
    return code or int(failed)


def compare(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench compare")
    parser.add_argument("before", type=Path, help="result JSON")
    parser.add_argument("after", type=Path, help="result JSON")
    parser.add_argument("--wide", action="store_true", help="all columns")
    options = parser.parse_args(words)
    from bench.compare import print_comparison

    try:
        [before], [after] = load(options.before), load(options.after)
        print_comparison(before, after, options.wide)
    except ValueError as error:
        _fail(parser, error)
    return 0


def table(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench table", description="Results of one machine in Markdown."
    )
    parser.add_argument("results", type=Path, nargs="+", help="result JSON, or a folder of them")
    options = parser.parse_args(words)
    from bench import pages

    try:
        print("\n\n".join(pages.everything(load(*options.results))))
    except ValueError as error:
        _fail(parser, error)
    return 0


def _fail(parser: argparse.ArgumentParser, error: Exception) -> NoReturn:
    """With one line: what is wrong is no matter of how the command is used."""
    parser.exit(2, f"{parser.prog}: {error}\n")


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Speed and memory of ops and training steps, beside what they replace.",
        epilog="Also, each with --help: compare, table, plots, pages, gpu-report.",
    )

    def add(name: str, text: str, **more: object) -> None:
        parser.add_argument(name, help=text, **more)  # type: ignore[arg-type]

    add("--op", f"all, others (all but {LATENT} and {STEPS}), or some of: {', '.join(NAMES)}",
        default=LATENT)  # fmt: skip
    add("--device", "cpu, cuda, cuda:1, ...", default="cpu")
    add("--sizes", "such as 128x20, or 16M elements (default: each op's); not of training steps, "
        "which have their models'")  # fmt: skip
    add("--dtype", f"{', '.join(DTYPES)} (default: each op's)")
    add("--work", "some of these (default: all)", default=",".join(WORKS))
    add("--variants", "only these, beside eager (default: all)")
    add("--threads", "CPU threads (default: PyTorch's)", type=int)
    add("--keep-memory", "keep freed memory in the process, as allocators with caches do (CPU, "
        "glibc)", action="store_true")  # fmt: skip
    add("--compile", f"of {CALLS}: once more with both sides through torch.compile",
        action="store_true")  # fmt: skip
    add("--wide", "tables of all columns", action="store_true")
    add("--quick", "small sizes, a rough result", action="store_true")
    add("--out", "results go to <out>/<machine>/<op>.json and .csv; those to be kept to "
        "bench/results (default: out/bench)", default=Path("out/bench"), type=Path)  # fmt: skip
    options = parser.parse_args(words)
    try:
        _check(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return options


def _check(options: argparse.Namespace) -> None:
    """Lists in place of what the user wrote with commas.

    Raises:
        ValueError: something is asked for that there isn't.
        OSError: freed memory can't be kept here.
    """
    from bench import machine
    from bench.sizes import shape_of

    device = _device(options.device)
    every = NAMES if device.type == "cpu" else NAMES[:-1]
    groups = {"all": every, "others": tuple(n for n in every if n not in (LATENT, STEPS))}
    options.op = groups.get(options.op) or _some("--op", options.op, NAMES)
    options.work = _some("--work", options.work, WORKS)
    options.dtype = _some("--dtype", options.dtype, DTYPES)
    options.variants = _some("--variants", options.variants, variants.names(device))
    options.sizes = _some("--sizes", options.sizes)
    for size in options.sizes:
        shape_of(size)
    if options.sizes and options.op == (STEPS,):
        raise ValueError("--sizes: training steps have the sizes of their models")
    if CALLS in options.op and device.type != "cpu":
        raise ValueError(f"--op {CALLS}: these are measured on a CPU, got --device {device}")
    if options.compile and options.op != (CALLS,):
        raise ValueError(f"--compile: of --op {CALLS} alone; other ops are compiled beside eager")
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads {options.threads}: expected 1 or more")
    ours = [name for name in options.variants if name in variants.BACKENDS]
    reasons = [variants.unavailable_reason(name, device) for name in ours]
    if ours and None not in reasons:
        words = "; ".join(f"{name}: {why}" for name, why in zip(ours, reasons, strict=True))
        raise ValueError(f"--variants: expected one of ours that can run; {words}")
    if options.keep_memory:
        machine.keep_freed_memory()


def _some(option: str, text: str | None, names: Sequence[str] = ()) -> tuple[str, ...]:
    """What stands between commas, each once; all of it must be among the names, if there are any.

    Raises:
        ValueError: something isn't.
    """
    given = () if text is None else tuple(dict.fromkeys(text.split(",")))
    for one in given:
        if names and one not in names:
            raise ValueError(f"{option} {one!r}: expected some of: {', '.join(names)}")
    return given


def _device(text: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: PyTorch has none, or the bench has no clock for it.
    """
    try:
        device = torch.device(text)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in LARGE:
        raise ValueError(f"--device {text!r}: expected cpu, cuda, or one such as cuda:1")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        raise ValueError(f"--device {text!r}: this PyTorch sees {count} of {device.type}")
    return device


def _settings(options: argparse.Namespace, name: str) -> Settings:
    from bench.measure import Settings
    from bench.timing import QUICK, THOROUGH

    sizes, dtypes, works = options.sizes, options.dtype or ("float32",), options.work
    if name == STEPS:
        from bench.steps import STEP, models

        sizes, dtypes = tuple(one.name for one in models(options.quick)), ("float32",)
        works = (STEP,)
    elif name == CALLS:
        from bench.calls import SHAPES

        sizes = tuple("x".join(map(str, shape)) for shape in SHAPES)
    else:
        op, kind = OPS[name], torch.device(options.device).type
        large = LARGE[kind] if kind == "cuda" or name == LATENT else ()
        sizes = sizes or (op.sizes[:2] if options.quick else op.sizes + large)
        dtypes = options.dtype or op.dtypes
    return Settings(
        op=name,
        device=options.device,
        sizes=sizes,
        dtypes=dtypes,
        works=works,
        variants=options.variants,
        quick=options.quick,
        effort=QUICK if options.quick else THOROUGH,
        compiled=options.compile,
    )


if __name__ == "__main__":
    sys.exit(main())
