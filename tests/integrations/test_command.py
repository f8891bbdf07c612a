"""``python -m fused_reparam patch``."""

import importlib.metadata
import importlib.util

import torch

from fused_reparam import __main__ as cli
from fused_reparam import integrations

PACKAGES = {"torch_distributions": "torch"}


def test_prints_the_report_of_the_installed_version(capsys):
    before = torch.distributions.Normal.rsample
    assert cli.main(["patch", "torch_distributions"]) == 0
    out = capsys.readouterr().out
    assert f"torch_distributions {importlib.metadata.version('torch')}" in out
    assert "torch.distributions.normal.Normal.rsample" in out
    assert torch.distributions.Normal.rsample is before


def test_what_is_unknown_or_absent_says_so(capsys):
    assert cli.main(["patch", "nothing_like_it"]) == 1
    assert "there are integrations of torch_distributions" in capsys.readouterr().err
    absent = [
        name
        for name in integrations.CONSUMERS
        if importlib.util.find_spec(PACKAGES.get(name, name)) is None
    ]
    for name in absent:
        assert cli.main(["patch", name]) == 1
        assert "is not installed in this environment" in capsys.readouterr().err


def test_a_version_of_which_nothing_is_known_fails(capsys, monkeypatch):
    from fused_reparam.integrations import torch_distributions

    monkeypatch.setattr(torch_distributions, "targets", lambda rng: [])
    assert cli.main(["patch", "torch_distributions"]) == 1
