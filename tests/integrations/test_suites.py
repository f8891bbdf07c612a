"""How another package's tests are run with an integration in place."""

from tests.consumers import page, suites

TESTS = """
import torch

def test_samples():
    normal = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    assert not torch.equal(normal.rsample(), normal.rsample())

def test_fails():
    torch.distributions.Normal(torch.zeros(3, dtype=torch.complex64), 1.0, False).rsample()
    raise AssertionError
"""


def test_a_suite_is_run_and_its_calls_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_it.py").write_text(TESTS)
    suite = suites.Suite("torch", "none", "none", "test_it.py", "torch_distributions")
    found = suites.run(suite, tmp_path, True, tmp_path / "out")
    assert found["outcomes"] == {"passed": 1, "failed": 1}
    assert found["failed"] == ["test_it.py::test_fails"]
    assert found["calls"] == {"fused": 2, "fallback: torch.complex64": 1}
    one = {"version": "1", "sources": "2", "stock": found["outcomes"], "patched": found["outcomes"]}
    one |= {"calls": found["calls"], "only patched": [], "failed": found["failed"]}
    page.write({"suites": {"torch": one}}, tmp_path / "page.md")
    said = (tmp_path / "page.md").read_text()
    assert "| torch | 1 | 2 | 1 passed, 1 failed | 1 passed, 1 failed | 2 | 1 |" in said
    assert "torch.complex64 (1)" in said
    assert "fail as it is, too: `test_fails`" in said
