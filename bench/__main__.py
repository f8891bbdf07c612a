"""The command line of the bench; `python -m bench --help` lists its options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import torch
except ImportError as error:
    print(f"bench: {sys.executable} can't import PyTorch ({error})", file=sys.stderr)
    sys.exit(2)

from bench.ops import OPS
from bench.ops.base import WORKS, Op
from bench.steps import TRAINING_STEP

if TYPE_CHECKING:
    from bench.measure import Settings

# Beside each op's own.
CUDA_SIZES = ("64M", "256M", "1G")
# The exit status that tells those who run the bench that the device is gone.
LOST_DEVICE = 3
NAMES = (*OPS, TRAINING_STEP)


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"compare": compare, "table": table, "plots": plots, "pages": pages}
    commands |= {"merge": merge, "gpu-report": gpu_report}
    command = commands.get(words[0]) if words else None
    return command(words[1:]) if command else run(words)


def run(words: Sequence[str]) -> int:
    """Measures; returns 1 when a variant failed its check, after reporting all the others.

    And LOST_DEVICE when a variant took the device with it; what was measured until then is kept.
    """
    options = _options(words)
    from bench import files, report
    from bench.measure import DeviceLost, measure_all

    if options.threads:
        torch.set_num_threads(options.threads)
    every = [_settings(options, name) for name in options.op.split(",")]
    results, written, lost = {}, {}, None
    try:
        with report.progress() as tick:
            for result in measure_all(every, tick):
                op = result["settings"]["op"]
                # On disk at once: what comes next may take long, or take the process with it.
                results[op], written[op] = result, files.write(result, Path(options.out))
    except DeviceLost as error:
        lost = error
    finally:
        for result in results.values():
            report.print_result(result)
        print("\n".join(f"wrote {path}" for paths in written.values() for path in paths))
    if lost is not None:
        print(lost)
        return LOST_DEVICE
    rows = [row for result in results.values() for row in result["rows"]]
    return int(any(row["status"] == "failed" for row in rows))


def _settings(options: argparse.Namespace, name: str) -> Settings:
    from bench.measure import Settings
    from bench.steps import DTYPE, sizes
    from bench.timing import QUICK, THOROUGH

    step = name == TRAINING_STEP
    if step:
        shown, dtypes = sizes(options.quick), (DTYPE,)
    else:
        shown, dtypes = _sizes(options, OPS[name]), OPS[name].dtypes
    return Settings(
        op=name,
        device=options.device,
        sizes=shown,
        dtypes=tuple(options.dtype.split(",")) if options.dtype and not step else dtypes,
        works=("step",) if step else tuple(options.work.split(",")),
        variants=tuple(filter(None, options.variants.split(","))),
        quick=options.quick,
        effort=QUICK if options.quick else THOROUGH,
    )


def _sizes(options: argparse.Namespace, op: Op) -> tuple[str, ...]:
    if options.sizes:
        return tuple(options.sizes.split(","))
    if options.quick:
        return op.sizes[:2]
    return op.sizes + (CUDA_SIZES if torch.device(options.device).type == "cuda" else ())


def compare(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench compare")
    parser.add_argument("before", type=Path, help="result JSON")
    parser.add_argument("after", type=Path, help="result JSON")
    options = parser.parse_args(words)
    from bench import files
    from bench.compare import print_comparison

    print_comparison(files.read(options.before), files.read(options.after))
    return 0


def merge(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench merge",
        description="Adds a result's rows to another of the same op, machine and commit.",
    )
    parser.add_argument("into", type=Path, help="result JSON, in its machine's folder: rewritten")
    parser.add_argument("more", type=Path, help="result JSON")
    options = parser.parse_args(words)
    from bench import files

    try:
        result = files.merged(files.read(options.into), files.read(options.more))
    except ValueError as error:
        parser.error(str(error))
    for path in files.write(result, options.into.parent.parent):
        print(f"wrote {path}")
    return 0


def table(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench table")
    parser.add_argument("result", type=Path, help="result JSON")
    parser.add_argument("--work", choices=WORKS, default="forward+backward")
    options = parser.parse_args(words)
    from bench import files, markdown

    print(markdown.table(files.read(options.result), options.work))
    return 0


def plots(words: Sequence[str]) -> int:
    from bench import plots

    return plots.main(words)


def pages(words: Sequence[str]) -> int:
    from bench import pages

    return pages.main(words)


def gpu_report(words: Sequence[str]) -> int:
    from bench import gpu_report

    return gpu_report.main(words)


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Speed and memory of ops and training steps, beside what they replace.",
        epilog="Also, each with --help: compare, merge, table, plots, pages, gpu-report.",
    )
    parser.add_argument(
        "--op",
        default="gaussian_latent",
        help=f"all, others (all ops but gaussian_latent), or some of: {', '.join(NAMES)}",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--sizes", help="such as 128x20, or 16M elements (default: each op's)")
    parser.add_argument("--dtype", help="float32, bfloat16, float16, float64 (default: each op's)")
    parser.add_argument("--work", default=",".join(WORKS))
    parser.add_argument("--variants", default="", help="only these, beside eager (default: all)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: PyTorch's)")
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="keep freed memory in the process, as allocators with caches do (CPU, glibc)",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, a rough result")
    parser.add_argument(
        "--out",
        default="out/bench",
        help="results go to <out>/<machine>/<op>.json and .csv; those to be kept to bench/results",
    )
    options = parser.parse_args(words)
    groups = {"all": NAMES, "others": tuple(name for name in OPS if name != "gaussian_latent")}
    options.op = ",".join(groups.get(options.op, (options.op,)))
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Errors of the user's before anything is measured."""
    from bench import allocator
    from bench.sizes import shape_of

    try:
        device = torch.device(options.device)
        for size in options.sizes.split(",") if options.sizes else ():
            shape_of(size)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    for name in options.op.split(","):
        if name not in NAMES:
            parser.error(f"--op {name}: expected all, others, or some of {', '.join(NAMES)}")
    for dtype in options.dtype.split(",") if options.dtype else ():
        if dtype not in ("float32", "bfloat16", "float16", "float64"):
            parser.error(f"--dtype {dtype}: expected float32, bfloat16, float16 or float64")
    for work in options.work.split(","):
        if work not in WORKS:
            parser.error(f"--work {work}: expected one of {', '.join(WORKS)}")
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: this PyTorch sees no CUDA device")
    if options.keep_memory:
        try:
            allocator.keep_freed_memory()
        except OSError as error:
            parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
