"""Processes with a limit of time, whose output is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

TIMED_OUT, NOT_STARTED = 124, 127


class Done(NamedTuple):
    """How a command ended, and all it said."""

    code: int
    output: str

    @property
    def last_line(self) -> str:
        return (self.output.strip().splitlines() or [""])[-1].strip("= ")  # which pytest draws


def run(
    command: Sequence[str], seconds: float, folder: Path, more: dict[str, str] | None = None
) -> Done:
    """Runs a command, and ends it with all it started when its time is up.

    Args:
        more: environment variables beside this process's.
    """
    # pytest's are its own, and say that reports go elsewhere.
    inherited = {n: value for n, value in os.environ.items() if not n.startswith("PYTEST_")}
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        try:
            process = subprocess.Popen(
                command, cwd=folder, env=inherited | _quiet() | (more or {}), stdout=output,
                stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return Done(NOT_STARTED, f"{command[0]} could not be started: {error.strerror}")
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = TIMED_OUT
        finally:
            # Its group is its own: workers that outlive it go too.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return Done(code, output.read())


def _quiet() -> dict[str, str]:
    """Nothing is written into the checkout, nor into a home that can't be written."""
    variables = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    if not os.access(Path.home(), os.W_OK):
        cache = Path(tempfile.gettempdir()) / f"fused_reparam-{os.getuid()}"
        variables["TRITON_CACHE_DIR"] = os.environ.get("TRITON_CACHE_DIR", str(cache / "triton"))
        variables["FUSED_REPARAM_CACHE"] = os.environ.get("FUSED_REPARAM_CACHE", str(cache))
    return variables
