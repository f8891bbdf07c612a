"""``python -m fused_reparam`` with ``info``, ``build``, ``selftest`` or ``patch``."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import platform
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator

import torch

import fused_reparam
from fused_reparam import integrations, selftest
from fused_reparam.backends import cpu, dispatch
from fused_reparam.backends.cpu import build as native
from fused_reparam.backends.cpu import cache, extension


def devices() -> list[torch.device]:
    """The CPU, and each kind of accelerator that is here."""
    found = [torch.device("cpu")]
    for kind in ("cuda", "xpu"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            found.append(torch.device(kind))
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _first_line(command: list[str]) -> str:
    """What a program says first, or why it can't be asked."""
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="backslashreplace",
            stdin=subprocess.DEVNULL, timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return next(iter((done.stdout or done.stderr).splitlines()), "says nothing")


def _compiler() -> str:
    try:
        command = native.compiler()
    except native.BuildError as error:
        return f"missing: {error}"
    return f"{shlex.join(command)}: {_first_line([*command, '--version'])}"


def _cuda() -> str:
    """What PyTorch was built for, and the driver that is here."""
    built = torch.version.cuda or torch.version.hip
    tool = shutil.which("nvidia-smi")
    query = ["--query-gpu=driver_version", "--format=csv,noheader"]
    driver = _first_line([tool, *query]) if tool else "none (no nvidia-smi)"
    return f"{built or 'not in this PyTorch'}, driver {driver}"


def info_lines() -> Iterator[str]:
    """Versions, devices, and each backend with the reason where it can't serve."""
    yield f"fused_reparam {fused_reparam.__version__}"
    yield f"python        {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield f"torch         {torch.__version__}, {torch.get_num_threads()} threads"
    yield f"triton        {_version('triton')}"
    yield f"system        {platform.platform()}"
    yield f"compiler      {_compiler()}"
    yield f"CUDA          {_cuda()}"
    yield f"cache         {next(cache.folders(), 'nowhere')}"
    for device in devices():
        name = (
            platform.processor() or platform.machine()
            if device.type == "cpu"
            else getattr(torch, device.type).get_device_name()
        )
        yield f"\n{device.type} ({name}): uses {dispatch.current(device)}"
        for backend in dispatch.BACKENDS:
            reason = dispatch.unavailable_reason(backend, device)
            yield f"  {backend:<10}{'available' if reason is None else 'missing: ' + reason}"
            if reason is None:
                details = dispatch.load(backend).info()
                yield from (f"  {'':<10}{name}: {value}" for name, value in details.items())
        if device.type == "cuda" and dispatch.current(device) == "triton":
            yield from _torch_random_lines()


def _torch_random_lines() -> Iterator[str]:
    """For which dtypes the kernels make the numbers of rng="torch" (this runs them)."""
    stream = dispatch.load("triton").torch_random()
    device = torch.device("cuda", torch.cuda.current_device())
    for dtype in stream.DTYPES:
        reason = stream.why_not(device, dtype)
        where = "in the kernel" if reason is None else f"drawn as a tensor: {reason}"
        yield f'  {"":<10}rng="torch", {dtype}: {where}'


def build() -> int:
    """Compile the CPU backend's libraries, unless they are there; 0 when all are."""
    cache.forget_failures()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reason is said below
        details = cpu.info()
    if "library" not in details:
        print(f"the native library is missing: {details['unavailable']}", file=sys.stderr)
        return 1
    for name in ("library", "extension"):
        print(f"{name}: {details[name]}")
    return 0 if extension.module is not None or extension.turned_off() else 1


def patch(consumer: str) -> int:
    """Print what an integration would replace here; 0 unless that is nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is skipped stands in the report
        try:
            report = integrations.patch(consumer)
        except (ValueError, ModuleNotFoundError) as error:
            print(error, file=sys.stderr)
            return 1
    with report:
        print(report)
        return 0 if any(row.status == "replaced" for row in report.rows) else 1


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status is 1 when it failed."""
    parser = argparse.ArgumentParser(prog="python -m fused_reparam", description=__doc__)
    parser.add_argument(
        "--version", action="version", version=f"fused_reparam {fused_reparam.__version__}"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, devices and backends, and why one is missing")
    commands.add_parser(
        "build",
        help="compile the CPU backend now rather than at first use, unless it is there, and say "
        "where it is; the exit status is 1 if it can't be",
    )
    commands.add_parser("selftest", help="check every backend at hand against the reference")
    patching = commands.add_parser(
        "patch",
        help="show what an integration replaces in the installed version of a package, which needs "
        "fused_reparam.integrations.patch in the program itself; the exit status is 1 if nothing",
    )
    patching.add_argument("consumer", help="one of " + ", ".join(integrations.CONSUMERS))
    given = parser.parse_args(argv)
    command = given.command
    if command == "info":
        print("\n".join(info_lines()))
        return 0
    if command == "build":
        return build()
    if command == "patch":
        return patch(given.consumer)
    return selftest.run(devices())


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may be no text
    sys.exit(main())
