"""The bench's command line, and what is kept of a run that ends early."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import __main__ as command_line
from bench import results
from bench.cases import OpCase
from tests.helpers import invented

ROOT = Path(__file__).parents[2]
# What makes tables and pictures.
needs_pandas = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("pandas", "matplotlib")),
    reason="needs pandas and matplotlib",
)
SMALL = ("--quick", "--op", "gaussian_kl", "--dtype", "float32", "--work", "forward",
         "--variants", "reference")  # fmt: skip


def fails(words, capsys):
    """What is said on the error stream by a command that ends with 2."""
    with pytest.raises(SystemExit) as end:
        command_line.main(words)
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_a_run_adds_to_an_earlier_one_and_both_are_shown(tmp_path, capsys):
    for more in (["16x20"], ["8x20,16x20", "--add"]):
        words = [*SMALL, "--out", str(tmp_path), "--sizes", *more]
        assert command_line.main(words) == 0
    capsys.readouterr()
    [path] = tmp_path.glob("*/*.json")
    made = results.read(path)
    assert made["complete"]
    assert [row["size"] for row in made["rows"]] == ["8x20"] * 2 + ["16x20"] * 2
    for shown in (path, path.parent):
        assert command_line.main(["show", str(shown)]) == 0
        said = capsys.readouterr().out
        assert said.count("float32, 16x20") == said.count("float32, 8x20") == 1
    assert command_line.main([*SMALL, "--out", str(tmp_path), "--sizes", "4x20"]) == 0
    assert len(results.read(path)["rows"]) == 2


def test_ctrl_c_keeps_the_cases_that_were_done(tmp_path, monkeypatch, capsys):
    saved_bytes = OpCase.saved_bytes

    def dies_in_the_third_case(case, variant):
        if case.size == "4x20":
            raise KeyboardInterrupt
        return saved_bytes(case, variant)

    monkeypatch.setattr(OpCase, "saved_bytes", dies_in_the_third_case)
    words = [*SMALL, "--sizes", "16x20,8x20,4x20", "--out", str(tmp_path)]
    assert command_line.main(words) == 130
    [path] = tmp_path.glob("*/*.json")
    made = results.read(path)
    assert not made["complete"]
    assert [row["size"] for row in made["rows"]] == ["16x20"] * 2 + ["8x20"] * 2
    assert all(row["median_s"] > 0 for row in made["rows"])
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "interrupted; kept: gaussian_kl (4 rows)"
    assert said.count("wrote ") == 2


def test_what_is_wrong_is_said_last(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(OpCase, "problem", lambda *_: "differs by 1")
    assert command_line.main([*SMALL, "--sizes", "4x20", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "FAILED: reference, differs by 1"


@needs_pandas
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file or directory"),
        (b"\xff\xfe", "expected a result of python -m bench, got 'utf-8'"),
        (b"[1, 2]", "expected a result of python -m bench"),
        (b'{"format": 1}', "expected a result of python -m bench"),
        (b'{"format": 2, "machine": {}, "rows": []}', "format 2 with limits, machine, "),
    ],
    ids=["absent", "binary", "list", "old", "foreign"],
)
@pytest.mark.parametrize("command", ["show", "plots"])
def test_a_file_that_is_no_result(command, content, complaint, tmp_path, capsys):
    file = tmp_path / "some.json"
    if content is not None:
        file.write_bytes(content)
    said = fails([command, str(file)], capsys)
    assert said.startswith(f"python -m bench {command}: {file}: ")
    assert complaint in said
    assert said.count("\n") == 1


@needs_pandas
def test_pages_say_which_file_is_no_result(tmp_path, capsys):
    file = invented.write(tmp_path / "bench" / "results" / "some") / "gaussian_latent.json"
    file.write_text("{")
    assert command_line.main(["pages", "--check", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"{file}: expected a result")
    assert said.count("\n") == 1


def test_a_backend_that_can_not_run_here_is_told(tmp_path, capsys):
    words = [*SMALL[:-1], "triton", "--sizes", "4x20", "--out", str(tmp_path)]
    assert command_line.main(words) == 0
    assert "not here: triton: runs on the CPU only in Triton's" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--variants", "native,eagr"], "--variants: 'eagr': expected some of: eager, torch.comp"),
        (["--variants", ""], "--variants: '': expected some of"),
        (["--device", "xpu"], "--device: 'xpu': expected cpu, cuda, or one such as cuda:1"),
        (["--device", "quantum"], "--device: 'quantum': expected cpu, cuda"),
        (["--device", "cpu:1"], "--device: 'cpu:1': this PyTorch sees 1 of cpu"),
        (["--device", "cuda:99"], "--device: 'cuda:99': this PyTorch sees "),
        (["--sizes", ""], "size '': expected a shape such as 128x20"),
        (["--sizes", "1M, 2M"], "size ' 2M': expected a shape such as 128x20"),
        (["--sizes", "0x4"], "size '0x4': expected 1 to 1,125,899,906,842,624 elements"),
        (["--sizes", "1e400"], "size '1e400': expected 1 to"),
        (["--op", "training_step", "--sizes", "1M"], "training steps have the sizes of their"),
        (["--threads", "0"], "--threads 0: expected 1 or more"),
        (["--work", "step"], "--work: 'step': expected some of: forward, backward"),
        (["--dtype", "int8"], "--dtype: 'int8': expected some of: float32, bfloat16, float16, flo"),
        (["--op", "laplace"], "--op: 'laplace': expected some of: gaussian_latent, "),
        (["--op", "calls", "--device", "cuda"], "--device" if not torch.cuda.is_available()
         else "--op: 'calls': expected some of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_options_that_can_not_be(words, complaint, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    said = fails(words, capsys)
    assert complaint in said.splitlines()[-1]
    assert "Traceback" not in said


def test_a_folder_that_can_not_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    assert command_line.main(["--out", str(out)]) == 2
    assert capsys.readouterr().err == f"python -m bench: --out {out}: Not a directory\n"


def settings(*words):
    options = command_line._options(words)
    return {name: command_line._settings(options, name) for name in options.op}


def test_what_is_measured(monkeypatch, capsys):
    latent = settings()["gaussian_latent"]
    assert latent.sizes == ("128x20", "16k", "128k", "1M", "16M")
    assert (latent.works, latent.variants) == (("forward", "backward", "forward+backward"), ())
    assert settings("--op", "normal")["normal"].sizes == ("128x20", "1M", "16M")
    quick = settings("--quick", "--work", "forward,forward")["gaussian_latent"]
    assert (quick.sizes, quick.works) == (("128x20", "16k"), ("forward",))
    # What a GPU adds.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = settings("--device", "cuda:1", "--op", "all", "--variants", "triton,eager")
    assert found["normal"].sizes[-3:] == ("64M", "256M", "1G")
    assert "calls" not in found  # which are of a CPU
    said = fails(["--device", "cuda", "--op", "calls"], capsys)
    assert "--op calls: these are measured on a CPU, got --device cuda" in said


def test_without_what_tables_and_pictures_need_one_line_says_so(tmp_path):
    (tmp_path / "pandas.py").write_text("raise ModuleNotFoundError('no', name='pandas')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "bench", "pages"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    said = "python -m bench pages: needs pandas and matplotlib (no)\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
