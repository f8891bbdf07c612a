"""The command line, the choice of a backend, and imports that need nothing."""

import os
import sys

import pytest
import torch

import fused_reparam
from fused_reparam import __main__ as cli
from fused_reparam import functional, selftest
from fused_reparam import nn as modules
from fused_reparam.backends import dispatch
from fused_reparam.functional import loc_scale
from tests.helpers import fresh


def python(code, **environment):
    """Run code in a fresh interpreter; returns the finished process."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FUSED_REPARAM", "TRITON"))}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    return fresh.run(code, env | environment)


def test_info(capsys):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert f"torch         {torch.__version__}" in out
    assert f"cpu ({cli.platform.processor() or cli.platform.machine()}): uses" in out
    for name in dispatch.BACKENDS:
        reason = dispatch.unavailable_reason(name, torch.device("cpu"))
        assert f"{name:<10}" + ("available" if reason is None else f"missing: {reason}") in out


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"fused_reparam {fused_reparam.__version__}\n"


def test_info_says_what_a_report_needs(capsys, monkeypatch, tmp_path):
    compiler = tmp_path / "cxx"
    compiler.write_text("#!/bin/sh\necho made-up compiler 7.1\necho more\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("FUSED_REPARAM_CACHE", str(tmp_path / "kept"))
    assert cli.main(["info"]) == 0
    lines = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.split("\n\n")[0].splitlines()
    )
    assert lines["system"] == cli.platform.platform()
    assert lines["compiler"] == f"{compiler}: made-up compiler 7.1"
    assert lines["cache"].startswith(str(tmp_path / "kept"))
    assert str(torch.version.cuda or "not in this PyTorch") in lines["CUDA"]
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", "")
    text = "\n".join(cli.info_lines())
    assert "compiler      missing: no C++ compiler was found" in text
    assert "driver none" in text


def test_messages_go_through_a_logger():
    say = "from fused_reparam.backends.cpu import cache; cache._say('a message')"
    done = python(say)
    assert (done.stdout, done.stderr) == ("", "fused_reparam: a message\n")
    done = python("import logging; logging.getLogger('fused_reparam').setLevel('WARNING'); " + say)
    assert (done.stdout, done.stderr) == ("", "")
    own = "import logging, sys; logging.getLogger('fused_reparam').addHandler("
    done = python(own + "logging.StreamHandler(sys.stdout)); " + say)
    assert (done.stdout, done.stderr) == ("a message\n", "")


@pytest.fixture
def fastest(monkeypatch):
    """The backend that the self-test is tried with; the interpreter would take a minute."""
    for name, device in (("native", "cpu"), ("triton", "cuda")):
        if (device == "cpu" or torch.cuda.is_available()) and (
            dispatch.unavailable_reason(name, torch.device(device)) is None
        ):
            monkeypatch.setattr(dispatch, "BACKENDS", (name, "reference"))
            return name, torch.device(device)
    pytest.skip("no backend besides the reference runs on this machine's device")


def test_selftest_passes(capsys, fastest):
    name, device = fastest
    assert cli.main(["selftest"]) == 0
    count = len([*selftest.cases(device)])
    said = f"{name} on {device.type}: {count} checks agree with the reference"
    assert said in capsys.readouterr().out


def test_selftest_calls_every_public_function_layer_and_base():
    called, bases = set(), set()

    def note(frame, event, _):
        if event == "call":
            if frame.f_back.f_code.co_filename in (
                selftest.__file__,
                torch.nn.modules.module.__file__,
            ):
                called.add(frame.f_code)
            if frame.f_code.co_name.startswith("loc_scale_"):
                bases.add((frame.f_code.co_name, frame.f_locals["base"]))

    names = []
    for name, dtype, compute in selftest.cases(torch.device("cpu")):
        names.append(name)
        if dtype == torch.float32:
            sys.setprofile(note)
            try:
                compute()
            finally:
                sys.setprofile(None)
    for name in functional.__all__:
        assert getattr(functional, name).__code__ in called, name
    for name in modules.__all__:
        if name.startswith("Fused"):  # the others call sample_weight and gaussian_kl
            assert getattr(modules, name).forward.__code__ in called, name
    closed = set(loc_scale.BASES) - {"logistic", "student_t"}
    assert bases == {("loc_scale_rsample", base) for base in loc_scale.BASES} | {
        ("loc_scale_latent", base) for base in closed
    }
    assert len(set(names)) == len(names)


def test_selftest_sees_a_difference(monkeypatch, capsys, fastest, no_extension):
    name, device = fastest
    module = dispatch.load(name)

    def spoil(function):
        original = getattr(module, function)

        def wrong(*args):
            original(*args)
            last = [arg for arg in args if isinstance(arg, (list, tuple, torch.Tensor))][-1]
            for grad in [last] if isinstance(last, torch.Tensor) else last:
                if grad is not None:  # one that nothing asks for
                    grad.mul_(1.05)

        monkeypatch.setattr(module, function, wrong)

    for function in ("elementwise_backward", "softmax_backward"):
        spoil(function)
    assert selftest.run([device]) == 1
    out = capsys.readouterr().out
    for case in ("gaussian_latent logvar", "kumaraswamy_rsample", "one_hot_categorical"):
        assert f"{name} on {device.type}: FAILED {case} torch.float32: differs by" in out


def test_selftest_sees_what_is_no_number_in_any_result(fastest):
    def compute():
        second = torch.nan if fused_reparam.current_backend(fastest[1]) == fastest[0] else 0.0
        return torch.zeros(2), torch.tensor([0.0, second])

    assert str(selftest.difference(compute, fastest[0], torch.float32)).startswith("differs by nan")


def test_backend_override_nests():
    for name in ("reference", "native"):
        if dispatch.unavailable_reason(name, torch.device("cpu")) is None:
            with fused_reparam.backend(name):
                assert fused_reparam.current_backend("cpu") == name
                with fused_reparam.backend("reference"):
                    assert fused_reparam.current_backend("cpu") == "reference"
                assert fused_reparam.current_backend("cpu") == name


def test_environment_variable():
    code = "import fused_reparam; print(fused_reparam.current_backend('cpu'))"
    assert python(code, FUSED_REPARAM_BACKEND="reference").stdout.strip() == "reference"
    wrong = python(code, FUSED_REPARAM_BACKEND="cuda")
    assert "environment variable FUSED_REPARAM_BACKEND: unknown backend 'cuda'" in wrong.stderr
    triton = python(code, FUSED_REPARAM_BACKEND="triton")
    assert "'triton' was asked for and can't serve cpu tensors" in triton.stderr


def test_import_needs_neither_triton_nor_compiler_nor_gpu():
    code = """
import sys
sys.modules['triton'] = None  # importing it fails
import torch, fused_reparam
assert not torch.cuda.is_initialized()
assert not any(name.startswith(('triton.', 'torch._inductor')) for name in sys.modules), 'imported'
assert 'libfused_reparam' not in open('/proc/self/maps').read()
for name in fused_reparam.integrations.CONSUMERS:
    assert f'fused_reparam.integrations.{name}' not in sys.modules, name
z, kl = fused_reparam.FusedGaussianLatent()(torch.zeros(3, 4), torch.zeros(3, 4))
print(fused_reparam.current_backend('cpu'), kl.item())
"""
    done = python(code, PATH="", FUSED_REPARAM_NO_JIT="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "0.0"


def test_forced_fallback_says_how_to_get_the_fast_path(tmp_path):
    """Without a library and without a compiler: one warning, and right results."""
    code = """
import torch, fused_reparam
import pathlib
from fused_reparam.backends.cpu import build
build.installed = lambda name: pathlib.Path('absent')
for _ in range(3):
    z, kl = fused_reparam.gaussian_latent(torch.zeros(3, 4), torch.zeros(3, 4))
print(fused_reparam.current_backend('cpu'), kl.item())
"""
    done = python(code, PATH="", FUSED_REPARAM_CACHE=str(tmp_path))
    assert done.stdout.split() == ["reference", "0.0"], done.stderr
    assert done.stderr.count("RuntimeWarning") == 1
    assert "install g++" in done.stderr
