"""The command line of the bench; `python -m bench --help` lists its options."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

from bench import variants
from bench.ops import OPS, WORKS, Op
from bench.results import CALLS, LATENT, STEPS

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
    commands = {"compare": compare, "table": table, "merge": merge}
    if words and words[0] in commands:
        return commands[words[0]](words[1:])
    if words and words[0] in ("plots", "pages", "gpu-report"):
        module = importlib.import_module(f"bench.{words[0].replace('-', '_')}")
        return int(module.main(words[1:]))
    return run(words)


def run(words: Sequence[str]) -> int:
    """Measures; returns 1 when a variant failed its check, after reporting all the others.

    And LOST_DEVICE when a variant took the device with it, INTERRUPTED after Ctrl-C; what was
    measured until then is kept.
    """
    options = _options(words)
    problem = _none_runs(options)
    if problem:
        print(f"python -m bench: {problem}", file=sys.stderr)
        return 2
    try:
        Path(options.out).mkdir(parents=True, exist_ok=True)
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
    code, words_at_end = 0, ""
    try:
        for result in measure_all(every, report.ticker()):
            op = result["settings"]["op"]
            # On disk at once: what comes next may take long, or take the process with it.
            found[op], written[op] = result, results.write(result, Path(options.out))
    except DeviceLost as error:
        code, words_at_end = LOST_DEVICE, str(error)
    except KeyboardInterrupt:
        kept = ", ".join(f"{op} ({len(one['rows'])} rows)" for op, one in found.items())
        code, words_at_end = INTERRUPTED, f"interrupted; kept: {kept or 'nothing'}"
    finally:
        for result in found.values():
            report.print_result(result, options.wide)
        report.print_legend(list(found.values()))
        print("\n".join(f"wrote {path}" for paths in written.values() for path in paths))
    if words_at_end:
        print(words_at_end)
    failed = any(row["status"] == "failed" for one in found.values() for row in one["rows"])
    return code or int(failed)


def _settings(options: argparse.Namespace, name: str) -> Settings:
    from bench.measure import Settings
    from bench.steps import DTYPE, STEP, models
    from bench.timing import QUICK, THOROUGH

    sizes: tuple[str, ...] = ()
    dtypes, works = options.dtype or (DTYPE,), options.work
    if name == STEPS:
        sizes, dtypes, works = tuple(one.name for one in models(options.quick)), (DTYPE,), (STEP,)
    elif name == CALLS:
        from bench.calls import SHAPES

        sizes = tuple("x".join(map(str, shape)) for shape in SHAPES)
    else:
        sizes, dtypes = _sizes(options, OPS[name]), options.dtype or OPS[name].dtypes
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


def _sizes(options: argparse.Namespace, op: Op) -> tuple[str, ...]:
    if options.sizes:
        return tuple(options.sizes)
    if options.quick:
        return op.sizes[:2]
    kind = torch.device(options.device).type
    return op.sizes + (LARGE[kind] if kind == "cuda" or op.name == LATENT else ())


def compare(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench compare")
    parser.add_argument("before", type=Path, help="result JSON")
    parser.add_argument("after", type=Path, help="result JSON")
    parser.add_argument("--wide", action="store_true", help="all columns")
    options = parser.parse_args(words)
    from bench.compare import print_comparison

    with _one_line(parser):
        before, after = _read(options.before, options.after)
        print_comparison(before, after, options.wide)
    return 0


def merge(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench merge",
        description="Adds a result's rows to another of the same op, machine and commit.",
    )
    parser.add_argument("into", type=Path, help="result JSON, in its machine's folder: rewritten")
    parser.add_argument("more", type=Path, help="result JSON")
    options = parser.parse_args(words)
    from bench import results

    with _one_line(parser):
        merged = results.merged(*_read(options.into, options.more))
    for path in results.write(merged, options.into.parent.parent):
        print(f"wrote {path}")
    return 0


def table(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench table")
    parser.add_argument("result", type=Path, help="result JSON")
    parser.add_argument("--work", choices=WORKS, help="(default: the most that the op has)")
    options = parser.parse_args(words)
    from bench import tables

    with _one_line(parser):
        [result] = _read(options.result)
    with _one_line(parser, f"{options.result}: "):
        print(tables.only_table(result, options.work))
    return 0


def _read(*paths: Path) -> list[Result]:
    from bench import results

    return [results.read(path) for path in paths]


@contextmanager
def _one_line(parser: argparse.ArgumentParser, head: str = "") -> Iterator[None]:
    """A ValueError ends with one line: what is wrong is no matter of how the command is used."""
    try:
        yield
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {head}{error}\n")


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Speed and memory of ops and training steps, beside what they replace.",
        epilog="Also, each with --help: compare, merge, table, plots, pages, gpu-report.",
    )
    parser.add_argument(
        "--op",
        default=LATENT,
        help=f"all, others (all ops but {LATENT}, and {CALLS}), or some of: {', '.join(NAMES)}",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--sizes",
        help="such as 128x20, or 16M elements (default: each op's); not of training steps, which "
        "have their models'",
    )
    parser.add_argument("--dtype", help=f"{', '.join(DTYPES)} (default: each op's)")
    parser.add_argument("--work", default=",".join(WORKS))
    parser.add_argument("--variants", help="only these, beside eager (default: all)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="keep freed memory in the process, as allocators with caches do (CPU, glibc)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help=f"of {CALLS}: once more with both sides through torch.compile",
    )
    parser.add_argument("--wide", action="store_true", help="tables of all columns")
    parser.add_argument("--quick", action="store_true", help="small sizes, a rough result")
    parser.add_argument(
        "--out",
        default="out/bench",
        help="results go to <out>/<machine>/<op>.json and .csv; those to be kept to bench/results",
    )
    options = parser.parse_args(words)
    every = NAMES if options.device == "cpu" else NAMES[:-1]
    groups = {"all": every, "others": tuple(n for n in every if n not in (LATENT, STEPS))}
    options.op = ",".join(groups.get(options.op, (options.op,)))
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
    from bench import allocator
    from bench.sizes import shape_of

    device = _device(options.device)
    options.op = _some("--op", options.op, NAMES)
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
    if options.keep_memory:
        allocator.keep_freed_memory()


def _none_runs(options: argparse.Namespace) -> str | None:
    """Why none of our backends that are asked for can run here; None where one can, or none is."""
    device = torch.device(options.device)
    asked = [name for name in variants.BACKENDS if name in options.variants]
    reasons = {name: variants.unavailable_reason(name, device) for name in asked}
    if not asked or None in reasons.values():
        return None
    words = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    return f"--variants {','.join(options.variants)}: expected one of ours that can run; {words}"


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
        seen = "no CUDA device" if count == 0 else f"{count} {device.type.upper()} device"
        seen += "s" if count > 1 else ""
        raise ValueError(f"--device {text!r}: this PyTorch sees {seen}")
    return device


if __name__ == "__main__":
    sys.exit(main())
