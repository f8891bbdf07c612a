"""The commit that results are labeled with."""

from __future__ import annotations

import os
import subprocess

import pytest

from bench import limits, machine, measure

MEASURED = ("bench/timing.py", "bench/ops/one.py", "fused_reparam/noise.py", "kernels/simd/noise.h",
            "setup.py", "pyproject.toml")  # fmt: skip
OTHERS = ("README.md", "docs/performance.md", "tests/test_one.py", "examples/vae.py",
          "bench/results/some-cpu/one.json")  # fmt: skip


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a file of each kind, and what runs git in it."""
    for name in list(os.environ):
        if name.startswith("GIT_"):  # a hook's are of another repository
            monkeypatch.delenv(name)

    def git(*words):
        identity = ["-c", "user.name=some", "-c", "user.email=some@example.com"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    for name in (*MEASURED, *OTHERS):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("first\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    return tmp_path, git


def test_what_is_measured_and_differs_is_marked(checkout):
    root, git = checkout
    head = git("rev-parse", "--short=12", "HEAD")
    for name in (*MEASURED, *OTHERS):
        mark = "+" if name in MEASURED else ""
        (root / name).write_text("second\n")
        assert machine.commit_of(root) == head + mark, name
        git("checkout", "--quiet", name)
        new = (root / name).with_name("new.py")
        new.write_text("")
        # Beside setup.py and pyproject.toml, at the top, nothing else is measured.
        assert machine.commit_of(root) == (head + mark if "/" in name else head), name
        new.unlink()


def test_a_commit_made_during_a_run_does_not_change_its_label(checkout, monkeypatch):
    root, git = checkout
    monkeypatch.setattr(machine, "__file__", str(root / "bench" / "machine.py"))
    machine.commit.cache_clear()
    try:
        first = machine.commit()
        assert first == git("rev-parse", "--short=12", "HEAD")
        (root / "setup.py").write_text("second\n")
        git("commit", "--quiet", "--all", "--message", "second")
        assert machine.commit() == first != machine.commit_of(root)
    finally:
        machine.commit.cache_clear()


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine.commit_of(tmp_path) == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.commit_of(tmp_path) == "unknown"


def test_a_run_takes_its_commit_before_it_measures(monkeypatch):
    order = []

    def measures(*_):
        order.append("measures")
        raise RuntimeError("no limits here")

    monkeypatch.setattr(machine, "commit", lambda: order.append("commit"))
    monkeypatch.setattr(limits, "measure_limits", measures)
    with pytest.raises(RuntimeError, match="no limits here"):
        next(measure.measure_all([measure.Settings(op="gaussian_latent")]))
    assert order == ["commit", "measures"]
