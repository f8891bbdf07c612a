"""The bench's command line: a user's mistake is one line, said before anything is measured."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from bench import __main__ as command_line
from tests.helpers import invented

# What makes tables and pictures.
needs_pandas = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("pandas", "matplotlib")),
    reason="needs pandas and matplotlib",
)

COMMANDS = {
    "compare": ["compare", "{file}", "{good}"],
    "compare, the second": ["compare", "{good}", "{file}"],
    "table": ["table", "{file}"],
    "plots": ["plots", "{file}"],
}


def fails(words, capsys):
    """What is said on the error stream by a command that ends with 2."""
    with pytest.raises(SystemExit) as end:
        command_line.main(words)
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


@needs_pandas
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file or directory"),
        (b"time,ns\n1,2\n", "expected a result of python -m bench, found no JSON"),
        (b"\xff\xfe", "expected a result of python -m bench, found no JSON"),
        (b"[1, 2]", "expected a result of python -m bench"),
        (b'{"format": 1}', "expected a result of python -m bench"),
        (b'{"format": 2, "machine": {}, "rows": []}', "found none of its settings, limits, missi"),
    ],
    ids=["absent", "csv", "binary", "list", "old", "foreign"],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_no_result(command, content, complaint, tmp_path, capsys):
    good = invented.write(tmp_path / "good", invented.result(sizes=("128x20",)))
    file = tmp_path / "some.json"
    if content is not None:
        file.write_bytes(content)
    paths = {"file": file, "good": good / "gaussian_latent.json"}
    words = [word.format(**paths) for word in COMMANDS[command]]
    said = fails(words, capsys)
    assert said.startswith(f"python -m bench {words[0]}: {file}: ")
    assert complaint in said
    assert said.count("\n") == 1


@needs_pandas
def test_pages_say_which_file_is_no_result(tmp_path, capsys):
    folder = tmp_path / "bench" / "results" / "some"
    folder.mkdir(parents=True)
    (folder / "gaussian_latent.json").write_text("{")
    assert command_line.main(["pages", "--check", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"{folder / 'gaussian_latent.json'}: expected a result")
    assert said.count("\n") == 1


def kept(folder, *results):
    """The paths of results that are written into the folder."""
    invented.write(folder, *results)
    return [str(folder / f"{one['settings']['op']}.json") for one in results]


@needs_pandas
def test_tables_of_any_result_or_of_a_folder(tmp_path, capsys):
    paths = kept(tmp_path, invented.steps(), invented.result("normal", sizes=("1M",)))
    normal, steps = "| `normal` | 1M | float32 |", "| mlp-vae | 128 x 20 | float32 | 2.00 ms |"
    for path, said in ((paths[0], [steps]), (paths[1], [normal]), (tmp_path, [normal, steps])):
        assert command_line.main(["table", str(path)]) == 0
        text = capsys.readouterr().out
        assert all(words in text for words in said)
    assert command_line.main(["table", *kept(tmp_path, invented.result("normal", sizes=()))]) == 0


def test_two_ops_can_not_be_compared(tmp_path, capsys):
    paths = kept(tmp_path, invented.result(sizes=("1M",)), invented.result("normal", sizes=("1M",)))
    said = fails(["compare", *paths], capsys)
    line = "expected two results of one op, got gaussian_latent and normal"
    assert said == f"python -m bench compare: {line}\n"


@pytest.mark.parametrize("asked", ["triton", "eager,triton"])
def test_backends_of_which_none_can_run_here(asked, tmp_path, capsys):
    out = tmp_path / "out"
    said = fails(["--quick", "--variants", asked, "--out", str(out)], capsys)
    head = "python -m bench: error: --variants: expected one of ours that can run; triton: runs on"
    assert said.splitlines()[-1].startswith(head)
    assert not out.exists()
    assert command_line._options(["--variants", "triton,reference"]).variants


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--variants", "nonsense"], "--variants 'nonsense': expected some of: eager, torch.comp"),
        (["--variants", "native,eagr"], "--variants 'eagr': expected some of: eager, torch.comp"),
        (["--variants", ""], "--variants '': expected some of"),
        (["--variants", "torch.compile reduce-overhead"], "reduce-overhead': expected some of"),
        (["--device", "xpu"], "--device 'xpu': expected cpu, cuda, or one such as cuda:1"),
        (["--device", "mps"], "--device 'mps': expected cpu, cuda"),
        (["--device", "quantum"], "--device 'quantum': expected cpu, cuda"),
        (["--device", "cpu:1"], "--device 'cpu:1': this PyTorch sees 1 of cpu"),
        (["--sizes", ""], "size '': expected a shape such as 128x20"),
        (["--sizes", "1M,"], "size '': expected a shape such as 128x20"),
        (["--sizes", "1M, 2M"], "size ' 2M': expected a shape such as 128x20"),
        (["--sizes", "0x4"], "size '0x4': expected 1 to 1,125,899,906,842,624 elements"),
        (["--sizes", "1e18"], "size '1e18': expected 1 to 1,125,899,906,842,624 elements"),
        (["--sizes", "1e400"], "size '1e400': expected 1 to"),
        (["--op", "training_step", "--sizes", "1M"], "training steps have the sizes of their"),
        (["--threads", "0"], "--threads 0: expected 1 or more"),
        (["--threads", "-1"], "--threads -1: expected 1 or more"),
        (["--work", ""], "--work '': expected some of: forward, backward, forward+backward"),
        (["--work", "step"], "--work 'step': expected some of: forward, backward"),
        (["--dtype", "int8"], "--dtype 'int8': expected some of: float32, bfloat16, float16, flo"),
        (["--op", "laplace"], "--op 'laplace': expected some of: gaussian_latent, "),
        (["--op", "calls", "--device", "cuda"], "--device"),
        (["--op", "normal", "--compile"], "--compile: of --op calls alone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_can_not_be(words, complaint, capsys):
    said = fails(words, capsys)
    assert complaint in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("count", "device", "complaint"),
    [
        (0, "cuda", "this PyTorch sees 0 of cuda"),
        (2, "cuda:7", "this PyTorch sees 2 of cuda"),
    ],
)
def test_a_gpu_that_is_not_there(count, device, complaint, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    said = fails(["--device", device], capsys)
    assert said.endswith(f"--device '{device}': {complaint}\n")


def test_what_a_gpu_adds(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    words = ["--device", "cuda:1", "--variants", "torch.compile reduce-overhead,triton"]
    options = command_line._options(words)
    assert options.variants == ("torch.compile reduce-overhead", "triton")
    assert command_line._settings(options, "normal").sizes[-3:] == ("64M", "256M", "1G")
    # Small calls are of a CPU.
    assert "calls" not in command_line._options(["--device", "cuda", "--op", "all"]).op


def test_what_is_measured_without_options():
    options = command_line._options([])
    latent = command_line._settings(options, "gaussian_latent")
    assert latent.sizes == ("128x20", "16k", "128k", "1M", "16M", "64M")
    assert (latent.works, latent.variants) == (("forward", "backward", "forward+backward"), ())
    assert command_line._settings(options, "normal").sizes == ("128x20", "1M", "16M")
    quick = command_line._options(["--quick", "--work", "forward,forward"])
    assert command_line._settings(quick, "gaussian_latent").sizes == ("128x20", "16k")
    assert command_line._settings(quick, "gaussian_latent").works == ("forward",)


def test_a_folder_that_can_not_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    assert command_line.main(["--out", str(out)]) == 2
    said = capsys.readouterr()
    assert said.err == f"python -m bench: --out {out}: Not a directory\n"
