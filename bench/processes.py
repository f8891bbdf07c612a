"""Processes with a limit of time, whose output is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMED_OUT, NOT_STARTED = 124, 127


@dataclass(frozen=True)
class Done:
    """How a command ended, and all it said."""

    code: int
    output: str

    def last_line(self) -> str:
        lines = self.output.strip().splitlines()
        return lines[-1] if lines else ""

    def json(self) -> Any:
        """The last line that is a list or an object in JSON: a warning may come after it.

        Raises:
            ValueError: no line is.
        """
        for line in reversed(self.output.splitlines()):
            if line.startswith(("[", "{")):
                with suppress(ValueError):  # "[W1122 ...] Warning: ..."
                    return json.loads(line)
        raise ValueError(f"expected a line of JSON, got {self.output!r}")


def run(
    command: Sequence[str],
    seconds: float,
    folder: Path,
    more: dict[str, str] | None = None,
) -> Done:
    """Runs a command, and ends it with all it started when its time is up.

    Args:
        more: environment variables beside this process's.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        code = _run(
            command, seconds, folder, _inherited() | _quiet() | (more or {}), output.fileno()
        )
        output.seek(0)
        text = output.read()
    if code == NOT_STARTED and not text:
        text = f"{command[0]} could not be started"
    return Done(code, text)


def _run(
    command: Sequence[str], seconds: float, folder: Path, environment: dict[str, str], output: int
) -> int:
    try:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    except OSError:
        return NOT_STARTED
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        # Its group is its own: workers that outlive it go too.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _inherited() -> dict[str, str]:
    """This process's environment; pytest's is its own, and says that reports go elsewhere."""
    return {n: value for n, value in os.environ.items() if not n.startswith("PYTEST_")}


def _quiet() -> dict[str, str]:
    """Nothing is written into the checkout, nor into a home that can't be written."""
    variables = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    if not os.access(Path.home(), os.W_OK):
        cache = Path(tempfile.gettempdir()) / f"fused_reparam-{os.getuid()}"
        variables["TRITON_CACHE_DIR"] = os.environ.get("TRITON_CACHE_DIR", str(cache / "triton"))
        variables["FUSED_REPARAM_CACHE"] = os.environ.get("FUSED_REPARAM_CACHE", str(cache))
    return variables
