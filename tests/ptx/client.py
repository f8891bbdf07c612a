"""From a test to a `server`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers import paths


class Client:
    """A server's process; one that died is started again with the next request.

    compiled: the folder where compiled kernels are kept; own: a folder for nobody else.
    """

    def __init__(self, compiled: str, own: Path) -> None:
        self.compiled, self.own = compiled, own
        self.process: subprocess.Popen | None = None
        self.errors = own / "errors"

    def start(self) -> subprocess.Popen:
        environment = {k: v for k, v in paths.environment().items() if not k.startswith("TRITON_")}
        environment |= {"OMP_NUM_THREADS": "1"}
        environment |= {"TRITON_CACHE_DIR": self.compiled, "CUDA_VISIBLE_DEVICES": ""}
        with self.errors.open("w") as errors:
            return subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.ptx.server", str(self.own)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env=environment,
            )  # fmt: skip

    def ask(self, **request: Any) -> dict:
        """The answer to a request, see `server.Server.answer`."""
        if self.process is None:
            self.process = self.start()
        line = ""
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            pass
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.process = None
        raise RuntimeError(f"the process ended with {code}:\n{self.errors.read_text()[-4000:]}")

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
