"""What every integration does alike, tried on a small package that the test writes."""

import importlib
import itertools
import sys
import textwrap
import warnings

import pytest
import torch

from fused_reparam import integrations
from fused_reparam.integrations.protocol import Target, apply

SOURCE = '''
import functools

import torch


class Posterior:
    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def sample(self, count=1):
        """Of count samples."""
        return self.mean + self.std * torch.zeros(count, 1)  # no noise, for the test


class Narrow(Posterior):
    pass


def halved(x):
    return x / 2
'''
SAMPLE = "527706171ca7"
_names = (f"fused_reparam_consumer_{i}" for i in itertools.count())


# The other is PyTorch's own, said once in a process: in whichever test compiles first.
pytestmark = pytest.mark.filterwarnings(
    "error::UserWarning", "ignore:dynamo_pgo force disabled:UserWarning"
)


@pytest.fixture
def consumer(tmp_path, monkeypatch):
    """Write a package with this source, and import it."""

    def make(source=SOURCE):
        name = next(_names)
        (tmp_path / f"{name}.py").write_text(source)
        info = tmp_path / f"{name}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield make
    for name in [name for name in sys.modules if name.startswith("fused_reparam_consumer_")]:
        del sys.modules[name]


def ones(self, count=1):
    """What serves in place of ``sample``, for float32."""
    if self.mean.dtype != torch.float32:
        return f"{self.mean.dtype}"
    return torch.ones(count, *self.mean.shape)


def targets(module, known=SAMPLE, attribute="Posterior.sample", parameters="self, count"):
    return [Target(module.__name__, attribute, parameters, known, ones)]


def patch(module, *given, rng="philox", **changed):
    chosen = [*given] or targets(module, **changed)
    return apply(module.__name__, module.__name__, chosen, {"rng": rng})


def sampled(module, dtype=torch.float32):
    return module.Posterior(torch.full((2,), 3.0, dtype=dtype), 1.0).sample().flatten().tolist()


def test_replaces_counts_and_undoes(consumer):
    module = consumer()
    original = module.Posterior.sample
    report = patch(module)
    assert report["Posterior.sample"].status == "replaced"
    assert f"{module.__name__} 1.5" in str(report)
    assert "no calls" in str(report)  # a swap that serves nothing is seen
    assert sampled(module) == [1.0, 1.0]
    assert sampled(module, torch.float64) == [3.0, 3.0]
    assert report.calls == {"fused": 1, "fallback: torch.float64": 1}
    assert "1 fallback: torch.float64; 1 fused" in str(report)
    assert module.Posterior.sample.__doc__ == "Of count samples."
    report.undo()
    assert module.Posterior.sample is original
    assert sampled(module) == [3.0, 3.0]
    assert report["Posterior.sample"].status == "undone"
    report.undo()
    assert module.Posterior.sample is original


def test_twice_is_once(consumer):
    module = consumer()
    original = module.Posterior.sample
    with patch(module) as first:
        replacement = module.Posterior.sample
        with patch(module) as second:
            assert second["sample"].status == "already"
            assert module.Posterior.sample is replacement
            sampled(module)
            assert first.calls == second.calls == {"fused": 1}
        assert module.Posterior.sample is replacement  # what the first has put there
        with pytest.warns(UserWarning, match="already, with rng='philox'"):
            assert patch(module, rng="torch")["sample"].status == "already"
    assert module.Posterior.sample is original


def test_undoes_after_an_error(consumer):
    module = consumer()
    with pytest.raises(RuntimeError, match="in the block"), patch(module):
        raise RuntimeError("in the block")
    assert sampled(module) == [3.0, 3.0]


def test_undo_leaves_what_others_have_put_there(consumer):
    module = consumer()
    report = patch(module)
    ours = module.Posterior.sample

    def theirs(self, count=1):
        return 2 * ours(self, count)

    module.Posterior.sample = theirs
    report.undo()
    assert module.Posterior.sample is theirs
    assert "not undone: something else" in str(report)
    assert sampled(module) == [2.0, 2.0]


def test_an_inherited_method_is_inherited_again(consumer):
    module = consumer()
    with patch(module, attribute="Narrow.sample") as report:
        assert report["Narrow.sample"].status == "replaced"
        assert module.Narrow(torch.zeros(1), 1.0).sample().tolist() == [[1.0]]
        assert sampled(module) == [3.0, 3.0]
    assert "sample" not in vars(module.Narrow)


def test_a_static_method_stays_one(consumer):
    source = """
    class Bag:
        @staticmethod
        def double(x):
            return 2 * x
    """
    module = consumer(textwrap.dedent(source))
    target = Target(module.__name__, "Bag.double", "x", "788e06806fa8", lambda x: 3 * x)
    with patch(module, target):
        assert module.Bag().double(2) == module.Bag.double(2) == 6
    assert module.Bag().double(2) == 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"parameters": "self, n"}, r"takes \(self, count\), not \(self, n\)"),
        ({"known": "000000000000"}, rf"source \({SAMPLE}\) is none of those known \(0+\)"),
        ({"attribute": "Posterior.draw"}, "this version has none .*draw"),
        ({"attribute": "Prior.sample"}, "this version has none .*Prior"),
    ],
)
def test_skips_what_is_another_and_warns(consumer, changed, said):
    module = consumer()
    with pytest.warns(UserWarning, match=said):
        report = patch(module, **changed)
    (row,) = report.rows
    assert row.status == "skipped"
    assert row.reason in str(report)
    assert sampled(module) == [3.0, 3.0]


def test_an_optional_target_may_be_absent(consumer):
    module = consumer()
    newer = Target(module.__name__, "Newer.sample", "self", "0", ones, optional=True)
    with patch(module, newer) as report:  # without a warning, which is an error here
        assert report["Newer.sample"].status == "absent"
    newer = Target(module.__name__, "Narrow.sample", "self, count", "0", ones, optional=True)
    with pytest.warns(UserWarning, match="none of those known"):
        patch(module, newer)


def test_the_other_targets_are_replaced(consumer):
    module = consumer()
    gone = Target(f"{module.__name__}.gone", "f", "x", "0", ones)
    with pytest.warns(UserWarning, match="1 of 2 targets"), patch(module, gone, *targets(module)):
        assert sampled(module) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("  # no noise, for the test", "", True),
        ('        """Of count samples."""\n', "", True),
        ("count=1)", "count: int = 1) -> torch.Tensor", True),
        ("self.std * torch.zeros(count, 1)", "(self.std * torch.zeros(\n    count, 1))", True),
        ("torch.zeros(count, 1)", "torch.zeros(count, 2)", False),
        ("count=1)", "count=2)", False),
        ("self.mean +", "self.mean -", False),
        ("    def sample", "    @torch.no_grad()\n    def sample", False),
    ],
)
def test_what_counts_of_a_source(consumer, old, new, same):
    assert old in SOURCE
    module = consumer(SOURCE.replace(old, new))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = patch(module)
    assert report["sample"].status == ("replaced" if same else "skipped")


def test_a_source_that_cannot_be_read_is_not_replaced(consumer):
    module = consumer()
    scope = {}
    exec("def sample(self, count=1):\n    return 0", scope)
    module.Posterior.sample = scope["sample"]
    with pytest.warns(UserWarning, match="can't be read"):
        assert patch(module)["sample"].status == "skipped"


def test_what_another_has_wrapped_is_not_replaced(consumer):
    module = consumer()
    import functools

    @functools.wraps(module.Posterior.sample)
    def wrapper(*args, **kwargs):
        return 0

    module.Posterior.sample = wrapper
    with pytest.warns(UserWarning, match="none of those known"):
        assert patch(module)["sample"].status == "skipped"


def test_what_two_reports_share_stays_until_both_are_undone(consumer):
    module = consumer()
    original = module.Posterior.sample
    first, second = patch(module), patch(module)
    assert second["sample"].status == "already"
    first.undo()
    assert module.Posterior.sample is not original
    assert (first["sample"].status, second["sample"].status) == ("undone", "replaced")
    second.undo()
    assert module.Posterior.sample is original

    first, second = patch(module), patch(module)
    second.undo()
    first.undo()
    assert module.Posterior.sample is original
    assert second["sample"].status == "undone"

    first = patch(module)
    patch(module)  # whose report nobody keeps
    first.undo()
    assert module.Posterior.sample is original


def test_what_the_original_relies_on_counts(consumer):
    digests = []
    for source in (SOURCE, SOURCE.replace("mean, std\n", "mean, 2 * std\n")):
        module = consumer(source)
        target = Target(
            module.__name__, "Posterior.sample", "self, count", "0", ones, ("Posterior.__init__",)
        )
        with pytest.warns(UserWarning, match="none of those known") as warned:
            patch(module, target)
        digests.append(str(warned[0].message).split("source (")[1][:12])
    assert digests[0] != digests[1]


def test_compiled_code_is_one_graph_and_its_places_are_counted(consumer):
    module = consumer()
    with patch(module) as report:
        compiled = torch.compile(
            lambda mean: module.Posterior(mean, 1.0).sample() + 1, fullgraph=True, backend="eager"
        )
        for _ in range(3):
            assert compiled(torch.zeros(2)).tolist() == [[2.0, 2.0]]
        assert report.calls == {"compiled: fused": 1}
        assert compiled(torch.zeros(2).double()).tolist() == [[1.0, 1.0]]
        assert report.calls["compiled: fallback: torch.float64"] == 1


def test_unknown_and_absent_packages(consumer):
    with pytest.raises(ValueError, match=r"integrations of torch_distributions.*did you mean"):
        integrations.patch("torch_distribution")
    with pytest.raises(ModuleNotFoundError, match="nowhere is not installed") as error:
        apply("nowhere", "nowhere", [], {})
    assert error.value.name == "nowhere"
