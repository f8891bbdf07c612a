"""Fresh interpreters at the price of a fork: most of a start goes into the import of PyTorch.

A process that has imported PyTorch and nothing else forks for each program. The program finds the
environment, the folder and the filters of warnings that it was started with, and ``__main__`` with
nothing in it; it ends as any other does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
import warnings
from pathlib import Path
from typing import Any

from tests.helpers.paths import ROOT, environment

_server: subprocess.Popen | None = None


class Process:
    """A program, with what ``subprocess.Popen`` has for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.returncode: int | None = None

    def poll(self) -> int | None:
        status = self.folder / "status"
        if self.returncode is None and status.exists():
            self.returncode = int(status.read_text())
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(int(_waited_for(self.folder / "pid", 100.0).read_text()), number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        _waited_for(self.folder / "status", timeout)
        self.poll()
        out, err = (
            (self.folder / name).read_text(errors="surrogateescape") for name in ("out", "err")
        )
        shutil.rmtree(self.folder)
        return out, err


def _waited_for(path: Path, seconds: float) -> Path:
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise subprocess.TimeoutExpired(str(path), seconds)
        time.sleep(0.005)
    return path


def start(code: str, env: dict[str, str], warn: bool = False, cwd: Path = ROOT) -> Any:
    """Run a program, as ``python -c code`` or ``python -W always -c code``."""
    global _server
    if sys.platform != "linux":
        options = ("-W", "always") if warn else ()
        return subprocess.Popen(
            [sys.executable, *options, "-c", code], env=env, cwd=cwd, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, errors="surrogateescape",
        )  # fmt: skip
    if _server is None or _server.poll() is not None:
        _server = subprocess.Popen(
            [sys.executable, "-m", __name__], env=environment(), cwd=ROOT, stdin=subprocess.PIPE
        )
    folder = Path(tempfile.mkdtemp(prefix="fresh-"))
    request = {"code": code, "env": env, "warn": warn, "cwd": str(cwd), "folder": str(folder)}
    _server.stdin.write(json.dumps(request).encode() + b"\n")
    _server.stdin.flush()
    return Process(folder)


def run(code: str, env: dict[str, str], warn: bool = False, timeout: float = 300.0) -> Any:
    """The same to its end, as ``subprocess.run`` gives it."""
    process = start(code, env, warn)
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(code, process.returncode, out, err)


def run_module(name: str, *words: str, env: dict[str, str], timeout: float = 900.0) -> Any:
    """`python -X faulthandler -m name words` to its end."""
    code = (
        "import faulthandler, runpy, sys; faulthandler.enable(); "
        f"sys.argv[1:] = {list(words)!r}; "
        f"runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    )
    return run(code, env, timeout=timeout)


# ---- the server --------------------------------------------------------------------------------


def _write(path: Path, text: str) -> None:
    """Whole at once, for somebody waits for it."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)


def _next_program() -> str:
    """In the process that is to run it: the code. The server itself never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    for line in sys.stdin.buffer:
        if os.fork():
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request = json.loads(line)
        folder = Path(request["folder"])
        child = os.fork()
        if child:
            _write(folder / "pid", str(child))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            _write(folder / "status", str(code))
            os._exit(0)
        for number, name in ((0, os.devnull), (1, folder / "out"), (2, folder / "err")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        warnings.resetwarnings()
        if request["warn"]:
            warnings.simplefilter("always")
        return request["code"]
    sys.exit()


if __name__ == "__main__":
    import torch  # noqa: F401

    program = compile(_next_program(), "<string>", "exec")
    sys.argv, sys.modules["__main__"] = ["-c"], types.ModuleType("__main__")
    exec(program, vars(sys.modules["__main__"]))
