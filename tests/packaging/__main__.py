"""``python -m tests.packaging``: install in fresh environments, and see what serves the CPU there.

It prints a row for each way of installing: what ``python -m fused_reparam info`` said afterwards,
and whether ``selftest`` passed. The status is 1 where one is not as expected. The environments see
no cache, nothing that is installed elsewhere and, where their way says so, no compiler.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.helpers.fake_builds import copied

WITH, LATER, NONE = "with the package", "at first use", "not built"
TOOLS = "setuptools>=77 wheel"


class Way(NamedTuple):
    """The arguments of each ``pip install``, and how the library has come to be afterwards."""

    name: str
    commands: tuple[str, ...]
    library: str
    compiler: bool = True


WAYS = (
    Way("wheel, no compiler", ("{torch}", "{wheel}"), WITH, False),
    Way("sources, no compiler", ("{torch}", "{source}"), NONE, False),
    Way("isolated", ("{torch}", "{source}"), LATER),
    Way("isolated, torch comes along", ("{source}",), LATER),
    Way("not isolated", ("{torch} {tools}", "--no-build-isolation {source}"), WITH),
    Way("not isolated, torch comes along", ("{tools}", "--no-build-isolation {source}"), LATER),
    Way("editable", ("{torch}", "--editable {source}"), LATER),
    Way(
        "editable, not isolated",
        ("{torch} {tools}", "--no-build-isolation --editable {source}"),
        WITH,
    ),
    Way("sdist", ("{torch}", "{sdist}"), LATER),
    Way("sdist, not isolated", ("{torch} {tools}", "--no-build-isolation {sdist}"), WITH),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.packaging", description=__doc__)
    parser.add_argument("names", nargs="*", help="of ways; all that there are")
    parser.add_argument(
        "--wheel", type=os.path.abspath, help="the built wheel, for the ways with one"
    )
    parser.add_argument("--python", default=sys.executable, help="makes the environments")
    parser.add_argument("--torch", required=True, help="which PyTorch to install: torch==...")
    options = parser.parse_args()
    unknown = set(options.names) - {way.name for way in WAYS}
    if unknown:
        parser.error(f"there is no way {', '.join(sorted(unknown))}: {[way.name for way in WAYS]}")
    ways = [way for way in WAYS if way.name in (options.names or {way.name for way in WAYS})]
    if any("{wheel}" in way.commands[-1] for way in ways) and not options.wheel:
        parser.error("there is no --wheel to install")
    print("| installed | Python | PyTorch | CPU served by | library | extension | self-test |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    wrong = sum(not _try(way, options) for way in ways)
    return int(wrong > 0)


def _try(way: Way, options: argparse.Namespace) -> bool:
    """Install one way, print its row, and say whether it is as expected."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "torch.txt").write_text(options.torch)
        given = {"torch": options.torch, "tools": TOOLS, "wheel": options.wheel}
        given["source"] = copied(folder / "source")
        if "{sdist}" in way.commands[-1]:
            given["sdist"] = _sdist(folder)
        env = _environment(folder, way.compiler)
        subprocess.run([options.python, "-m", "venv", folder / "venv"], check=True, env=env)
        python = str(folder / "venv/bin/python")
        for command in way.commands:
            words = command.format(**given).split()
            _run([python, "-m", "pip", "install", "--quiet", *words], folder, env)
        info = _run([python, "-m", "fused_reparam", "info"], folder, env)
        selftest = subprocess.run(
            [python, "-m", "fused_reparam", "selftest"], cwd=folder, env=env, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        library = _found(r"built: (.*)", info) or NONE
        passed = selftest.returncode == 0
        served = _found(r"^cpu .*: uses (\w+)", info)
        row = (
            *(way.name, _found(r"^python +(\S+)", info), _found(r"^torch +([^\s,]+)", info)),
            *(served, library, _found(r"extension: (C\+\+|Python)", info)),
            "passes" if passed else "fails",
        )
        print("|", " | ".join(row), "|", flush=True)
        if not passed:
            print(selftest.stdout[-2000:], selftest.stderr[-2000:], file=sys.stderr)
        return (library, served) == (way.library, "reference" if way.library == NONE else "native")


def _environment(folder: Path, compiler: bool) -> dict[str, str]:
    """This process's, without what it knows of the package and of other environments."""
    own = ("FUSED_REPARAM_", "PYTHON", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    env["FUSED_REPARAM_CACHE"] = str(folder / "cache")
    # What comes along is the same PyTorch, in the environment where a package is built too.
    env["PIP_CONSTRAINT"] = str(folder / "torch.txt")
    if not compiler:
        env |= {"PATH": "/nonexistent", "CXX": "/nonexistent/g++", "FUSED_REPARAM_NO_JIT": "1"}
    return env


def _sdist(folder: Path) -> Path:
    code = (
        "from setuptools import build_meta; import sys; print(build_meta.build_sdist(sys.argv[1]))"
    )
    out = _run([sys.executable, "-c", code, str(folder)], folder / "source", dict(os.environ))
    return folder / out.splitlines()[-1]


def _run(command: list[str], folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else ""


if __name__ == "__main__":
    sys.exit(main())
