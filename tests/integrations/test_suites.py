"""How another package's tests are run with an integration in place."""

import json

import pytest

from tests.consumers import __main__ as program
from tests.consumers import page, suites

TESTS = """
import torch

def test_samples():
    normal = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    assert not torch.equal(normal.rsample(), normal.rsample())

def test_fails():
    torch.distributions.Normal(torch.zeros(3, dtype=torch.complex64), 1.0, False).rsample()
    raise AssertionError("so")
"""


def test_a_suite_is_run_and_its_calls_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_it.py").write_text(TESTS)
    suite = suites.Suite("torch", "none", "none", "test_it.py", "torch_distributions")
    found = suites.run(suite, tmp_path, True, tmp_path / "out")
    assert found["outcomes"] == {"passed": 1, "failed": 1}
    assert found["failed"] == ["test_it.py::test_fails"]
    assert found["tests"] == {
        "test_it.py::test_samples": "passed",
        "test_it.py::test_fails": "failed",
    }
    assert found["errors"] == {"test_it.py::test_fails": "AssertionError: so"}
    assert found["calls"] == {"fused": 2, "fallback: torch.complex64": 1}
    one = {"version": "1", "sources": "2", "stock": found["outcomes"], "patched": found["outcomes"]}
    one |= {"calls": found["calls"], "only patched": {}, "failed": found["failed"]}
    page.write({"suites": {"torch": one}}, tmp_path / "page.md")
    said = (tmp_path / "page.md").read_text()
    assert "| torch | 1 | 2 | 1 passed, 1 failed | 1 passed, 1 failed | 2 | 1 |" in said
    assert "torch.complex64 (1)" in said
    assert "fail as it is, too: `test_fails`" in said


KNOWN = suites.Known("not close", "rounding")
SUITE = suites.Suite("torch", "none", "none", "", "torch_distributions", known={"test_a": KNOWN})


@pytest.mark.parametrize(
    ("stock", "patched", "error", "worse", "new"),
    [
        ("passed", "passed", "", {}, []),
        ("passed", "failed", "are not close", {"t.py::test_a[0]": "are not close"}, []),
        ("passed", "failed", "a crash", {"t.py::test_a[0]": "a crash"}, ["t.py::test_a[0]"]),
        ("passed", "skipped", "", {"t.py::test_a[0]": "skipped"}, ["t.py::test_a[0]"]),
        ("passed", None, "", {"t.py::test_a[0]": "not run"}, ["t.py::test_a[0]"]),
        ("skipped", "failed", "", {"t.py::test_a[0]": "failed"}, ["t.py::test_a[0]"]),
        ("failed", "failed", "a crash", {}, []),
        ("failed", "passed", "", {}, []),
    ],
)
def test_each_tests_outcome_is_compared(stock, patched, error, worse, new):
    test = "t.py::test_a[0]"
    old = {"tests": {test: stock}, "errors": {}}
    found = {"tests": {test: patched} if patched else {}, "errors": {test: error} if error else {}}
    assert suites.worse(old, found) == worse
    assert suites.new(SUITE, worse) == new


@pytest.fixture
def harness(tmp_path, monkeypatch):
    """The program on a suite of one file, with its results and page in a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(program, "PAGE", tmp_path / "page.md")
    suite = suites.Suite("torch", "none", "none", "test_it.py", "torch_distributions")
    monkeypatch.setattr(suites, "SUITES", (suite,))
    monkeypatch.setattr(page, "SUITES", (suite,))

    def run(*given):
        arguments = ["consumers", "--sources", str(tmp_path), "--out", str(tmp_path / "out")]
        monkeypatch.setattr("sys.argv", [*arguments, *given])
        return program.main()

    return run


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("before", [None, '{"suites": {}, "steps": []}'])
def test_suites_that_did_not_run_fail_and_nothing_is_written(
    harness, tmp_path, monkeypatch, there, before
):
    if there:  # the sources are, and no test of them runs
        (tmp_path / "torch").mkdir()
        monkeypatch.setattr(suites, "run", lambda *_: suites.read(tmp_path / "none"))
    monkeypatch.setattr(program.steps, "STEPS_OF", ())
    results = tmp_path / "results.json"
    if before is not None:
        results.write_text(before)
    assert harness() == 1
    assert (results.read_text() if results.exists() else None) == before
    assert not (tmp_path / "page.md").exists()


def test_a_suite_that_runs_is_written(harness, tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    one = {"test": "t.py::test_a", "outcome": "passed", "calls": {"fused": 2}}
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps(one) + '\n{"version": "2"}\n')
    monkeypatch.setattr(suites, "run", lambda *_: suites.read(lines))
    assert harness("--only", "suites") == 0
    assert "| torch | 2 | given | 1 passed | 1 passed | 2 | 0 |" in (
        (tmp_path / "page.md").read_text()
    )
    with pytest.raises(SystemExit, match="2"):
        harness("--only", "suites", "troch")
