"""The command line of the bench; `python -m bench --help` lists its options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.ops import OPS
from bench.ops.base import WORKS


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"compare": compare, "table": table, "plots": plots, "pages": pages}
    commands["gpu-report"] = gpu_report
    command = commands.get(words[0]) if words else None
    return command(words[1:]) if command else run(words)


def run(words: Sequence[str]) -> int:
    """Measures; returns 1 when a variant failed its check, after reporting all the others."""
    options = _options(words)
    import torch

    from bench import files, report
    from bench.measure import Settings, measure
    from bench.timing import QUICK, THOROUGH

    if options.threads:
        torch.set_num_threads(options.threads)
    with report.progress() as tick:
        settings = Settings(
            op=options.op,
            device=options.device,
            sizes=tuple(options.sizes.split(",")),
            dtypes=tuple(options.dtype.split(",")),
            works=tuple(options.work.split(",")),
            variants=tuple(filter(None, options.variants.split(","))),
            quick=options.quick,
            effort=QUICK if options.quick else THOROUGH,
        )
        result = measure(OPS[options.op], settings, tick)
    report.print_result(result)
    for path in files.write(result, Path(options.out)):
        print(f"wrote {path}")
    return int(any(row["status"] != "ok" for row in result["rows"]))


def compare(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench compare")
    parser.add_argument("before", type=Path, help="result JSON")
    parser.add_argument("after", type=Path, help="result JSON")
    options = parser.parse_args(words)
    from bench import files
    from bench.compare import print_comparison

    print_comparison(files.read(options.before), files.read(options.after))
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
        epilog="Also, each with --help: compare, table, plots, pages, gpu-report.",
    )
    parser.add_argument("--op", choices=sorted(OPS), default="gaussian_latent")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--sizes", help="shapes or counts (default: 128x20,1M,16M)")
    parser.add_argument("--dtype", default="float32,bfloat16")
    parser.add_argument("--work", default=",".join(WORKS))
    parser.add_argument("--variants", default="", help="only these, beside eager (default: all)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--quick", action="store_true", help="small sizes, a rough result")
    parser.add_argument(
        "--out",
        default="out/bench",
        help="results go to <out>/<machine>/<op>.json and .csv; those to be kept to bench/results",
    )
    options = parser.parse_args(words)
    options.sizes = options.sizes or ("128x20,1M" if options.quick else "128x20,1M,16M")
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Errors of the user's before anything is measured."""
    import torch

    from bench.sizes import shape_of

    try:
        for size in options.sizes.split(","):
            shape_of(size)
        device = torch.device(options.device)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    for dtype in options.dtype.split(","):
        if dtype not in ("float32", "bfloat16", "float16", "float64"):
            parser.error(f"--dtype {dtype}: expected float32, bfloat16, float16 or float64")
    for work in options.work.split(","):
        if work not in WORKS:
            parser.error(f"--work {work}: expected one of {', '.join(WORKS)}")
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: this PyTorch sees no CUDA device")


if __name__ == "__main__":
    sys.exit(main())
