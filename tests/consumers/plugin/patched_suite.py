"""A pytest plugin: another package's tests, with an integration in its place.

``FUSED_REPARAM_SUITE`` names a file of JSON: the tested "module", "patch", which is [consumer,
options] or null, and the path "out".
At the end of each test a line goes to the path: the test, its outcome, and the calls that the ops
served and did not in it. So what is known stays known where a later test ends the process.
Collecting and each test start at the same seed, whether there is an integration or not.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch


class Counted:
    """Patches, and writes a line for each test."""

    def __init__(self, module: str, patch: tuple[str, dict[str, Any]] | None, out: Path) -> None:
        self.module, self.out, self.report, self.before = module, out, None, Counter[str]()
        self.outcomes: dict[str, str] = {}
        self.errors: dict[str, str] = {}
        if patch is not None:
            from fused_reparam import integrations

            name, options = patch
            self.report = integrations.patch(name, **options)

    def write(self, line: dict[str, Any]) -> None:
        with self.out.open("a") as file:
            file.write(json.dumps(line) + "\n")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        seed()

    def pytest_runtest_logreport(self, report: Any) -> None:
        worst = self.outcomes.get(report.nodeid, "passed")
        if report.outcome != "passed":
            kind = "xfailed" if hasattr(report, "wasxfail") else report.outcome
            worst = kind if worst == "passed" else worst
        self.outcomes[report.nodeid] = worst
        if report.outcome == "failed":
            crash = getattr(report.longrepr, "reprcrash", None)
            self.errors[report.nodeid] = (crash.message if crash else report.longreprtext)[:200]
        if report.when == "teardown":
            now = Counter(self.report.calls if self.report is not None else {})
            calls, self.before = dict(now - self.before), now
            line = {"test": report.nodeid, "outcome": worst, "calls": calls}
            if report.nodeid in self.errors:
                line["error"] = self.errors[report.nodeid]
            self.write(line)

    def pytest_sessionfinish(self) -> None:
        tested = sys.modules.get(self.module)  # the sources' own, where they come first
        self.write({"version": getattr(tested, "__version__", "")})


def seed() -> None:
    """Of everything that draws."""
    import numpy  # not where this file is only collected

    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


def pytest_configure(config: Any) -> None:
    given = json.loads(Path(os.environ["FUSED_REPARAM_SUITE"]).read_text())
    config.pluginmanager.register(Counted(given["module"], given["patch"], Path(given["out"])))
    seed()
