"""Runs an example in this process: what it returned, what it printed, and its picture."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.helpers.paths import ROOT

EXAMPLES = ROOT / "examples"


def skip_unless_installed():
    """What the examples need and the package does not."""
    pytest.importorskip("sklearn", reason="the examples' data comes with scikit-learn")
    pytest.importorskip("rich", reason="the examples print with rich")
    pytest.importorskip("matplotlib.image", reason="the examples draw with matplotlib")


def module(name):
    """A fixture: the example's module, while it finds those beside it."""

    @pytest.fixture(scope="module")
    def example():
        sys.path.insert(0, str(EXAMPLES))
        try:
            yield importlib.import_module(name)
        finally:
            sys.path.remove(str(EXAMPLES))

    return example


def quick_run(*words):
    """A fixture: a quick run of `example`, with these words on its command line."""

    @pytest.fixture(scope="module")
    def ran(example, tmp_path_factory):
        path = tmp_path_factory.mktemp("example") / "new" / "picture.png"
        printed, threads = io.StringIO(), torch.get_num_threads()
        figures, kind = [], importlib.import_module("matplotlib.figure").Figure
        written = kind.savefig

        def seen(figure, *args, **kwargs):
            figures.append(figure)
            written(figure, *args, **kwargs)

        try:
            with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
                patch.setattr(kind, "savefig", seen)
                if "PYTEST_XDIST_WORKER" in os.environ:  # which shares the cores with others
                    patch.setattr(torch, "set_num_threads", lambda count: None)
                result = example.main(["--quick", "--out", str(path), *words])
        finally:
            torch.set_num_threads(threads)  # the example sets them for itself
        (figure,) = figures
        return SimpleNamespace(result=result, text=printed.getvalue(), path=path, figure=figure)

    return ran


def assert_drawn(ran, panels):
    """The picture is there, with something in each panel and in each quarter."""
    assert f"wrote {ran.path}" in ran.text
    found = [axes for axes in ran.figure.axes if axes.get_label() != "<colorbar>"]
    assert [axes.has_data() for axes in found] == [True] * panels
    image = importlib.import_module("matplotlib.image").imread(ran.path)
    assert image.shape[0] > 500
    assert image.shape[1] > 800
    for half in torch.from_numpy(image[..., :3]).chunk(2, dim=0):
        for quarter in half.chunk(2, dim=1):
            assert quarter.std() > 0.02
