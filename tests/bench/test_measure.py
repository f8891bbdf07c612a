"""A run: its figures hang together, and who is wrong, too large or dies costs no other."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from bench import limits, measure, memory, profiles, report
from bench.cases import OpCase, StepCase
from bench.ops import OPS, WORKS
from bench.results import STEPS
from bench.sizes import shape_of
from bench.steps import STEP, bayes_linear, image_vae, mlp_vae, whole_mlp_vae
from bench.timing import Contestant, CpuClock, CudaClock, Effort, Spread
from bench.variants import EAGER, REDUCE_OVERHEAD, Variant, using, variants

OP = OPS["gaussian_latent"]
CPU = torch.device("cpu")
BRIEF = Effort(sample_seconds=1e-5, seconds=0.02, least_rounds=3, most_rounds=4)
SETTINGS = measure.Settings(OP.name, sizes=("16x20",), dtypes=("float32",), effort=BRIEF)
ELEMENTS = 16 * 20


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Sizes are tiny, and threads that wait for a busy core would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def broken(*_):
    raise ValueError("no such kernel\nand more")


def case(shape=(16, 20), device=CPU, op=OP):
    return OpCase(op, "x".join(map(str, shape)), shape, "float32", device)


TEXTBOOK = Variant(EAGER, OP.textbook)
REFERENCE = Variant("reference", OP.ours, using("reference"), ours=True)
BROKEN = Variant("broken", broken, ours=True)


@pytest.fixture(scope="module")
def result():
    """A tiny run over every kind of work, with one broken variant in it."""
    settings = replace(SETTINGS, dtypes=("float32", "bfloat16"), quick=True)
    limit = limits.measure_limits(CPU, CpuClock(), BRIEF, quick=True)
    entries = [TEXTBOOK, Variant("distributions", partial(OP.rival, True)), BROKEN, REFERENCE]
    [first, last] = measure.measure(settings, CpuClock(), limit, variants=entries)
    # After each case stands what is there by then.
    assert last["rows"][: len(first["rows"])] == first["rows"]
    assert (first["complete"], last["complete"]) == (False, True)
    return json.loads(json.dumps(last))


def test_numbers_are_consistent(result):
    timed = [row for row in result["rows"] if row["status"] == "ok"]
    assert len(timed) == 3 * len(WORKS) * 2
    for row in timed:
        same = [r for r in timed if all(r[n] == row[n] for n in ("dtype", "work"))]
        [eager] = [r for r in same if r["variant"] == EAGER]
        itemsize = 4 if row["dtype"] == "float32" else 2
        tensors = {"forward": 3, "backward": 5, "forward+backward": 8}[row["work"]]
        assert row["moved_bytes"] == tensors * ELEMENTS * itemsize
        assert 0 < row["low_s"] <= row["median_s"] <= row["high_s"]
        assert row["samples"] >= BRIEF.least_rounds
        assert row["vs_eager"] == pytest.approx(eager["median_s"] / row["median_s"])
        assert row["vs_compile"] is None
        assert row["of_copy"] == pytest.approx(row["copy_s"] / row["median_s"])
        if row["noise_s"] is None:  # who makes noise in the caches is not there
            assert row["of_limit"] is None
        else:
            bound = max(row["copy_s"], row["noise_s"])
            assert row["of_limit"] == pytest.approx(bound / row["median_s"])
        assert row["ns_per_element"] == pytest.approx(row["median_s"] * 1e9 / ELEMENTS)
        # The textbook keeps sigma, eps and exp(logvar); ours keeps a key.
        expected = {EAGER: 3 * ELEMENTS * itemsize, "reference": 16}.get(row["variant"])
        assert expected in (None, row["saved_bytes"])


@pytest.mark.parametrize("wide", [False, True])
def test_the_table_shows_every_row_and_who_gets_no_time(result, wide, capsys):
    report.print_result(result, wide)
    text = capsys.readouterr().out
    tables = [line for line in text.splitlines() if "NOT TIMED" not in line]
    assert (max(map(len, tables)) <= report.WIDTH) is not wide
    assert ("  GB/s" in text) is wide
    assert text.count("FAILED") == 2 * len(WORKS)
    reason = "ValueError: no such kernel"
    assert f"NOT TIMED, for its result is wrong: broken, float32, 16x20: {reason}\n" in text
    for row in result["rows"]:
        if row["status"] == "ok":
            assert report.duration(row["median_s"]) in text
        else:
            assert (row["variant"], row["reason"], "median_s" in row) == ("broken", reason, False)


def statuses(*entries, of=None, clock=None):
    rows = measure.measure_case(of or case(), SETTINGS, entries, clock or CpuClock())
    return {row["variant"]: row["status"] for row in rows if row["work"] in ("forward", STEP)}


def test_the_specification_is_not_timed_where_it_takes_too_long(monkeypatch):
    fused = replace(BROKEN, name="fused")
    monkeypatch.setattr(measure, "REFERENCE_ELEMENTS", ELEMENTS - 1)
    assert statuses(REFERENCE, fused) == {"reference": "skipped", "fused": "failed"}
    assert statuses(REFERENCE) == {"reference": "ok"}  # by itself it is
    monkeypatch.setattr(measure, "REFERENCE_ELEMENTS", ELEMENTS)
    assert statuses(REFERENCE, fused) == {"reference": "ok", "fused": "failed"}


def test_what_does_not_fit_is_skipped_with_a_reason(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2000)
    for row in measure.measure_case(case(), SETTINGS, [TEXTBOOK], CpuClock()):
        assert row["status"] == "skipped"
        assert row["reason"].startswith("needs about 0.0 GB of memory")
        assert "median_s" not in row


def test_running_out_of_memory_while_measuring_is_skipped():
    calls = []

    def greedy(mu, logvar):
        calls.append(1)
        return OP.textbook(mu, torch.empty(1 << 60) if len(calls) > 4 else logvar)

    rows = measure.measure_case(case(), SETTINGS, [TEXTBOOK, Variant("greedy", greedy)], CpuClock())
    found = {(row["variant"], row["work"]): row for row in rows}
    assert found[EAGER, "forward"]["status"] == "ok"
    assert found["greedy", "forward+backward"]["status"] == "skipped"
    assert "allocate" in found["greedy", "forward+backward"]["reason"]


# --- memory ---------------------------------------------------------------------------------------


def peak(call, *prepare):
    return profiles.peak_bytes(Contestant("some", call, *prepare), CPU)


def test_saved_bytes_counts_storages_once_and_not_the_inputs():
    x = torch.randn(10, 8, requires_grad=True)
    left, right = x.chunk(2, dim=1)
    assert profiles.saved_bytes(lambda a, b: (a * b,), (left, right)) == 0
    # exp keeps its result, which the product keeps again.
    twice = profiles.saved_bytes(lambda a: (a.exp() * a.exp().detach(),), (x,))
    assert twice == 2 * 10 * 8 * 4
    assert profiles.saved_bytes(lambda a: ((y := a.exp()) * y,), (x,)) == 10 * 8 * 4


def test_peak_bytes_of_what_is_known():
    def taken_and_freed(_):
        first = torch.empty(1000)
        second = torch.empty(3000)
        del first, second
        return torch.empty(2000)

    def swap(held):
        held.clear()
        held.append(torch.empty(1000))

    x, y = torch.ones(1000), torch.ones(1000, requires_grad=True)
    assert peak(taken_and_freed) == 4 * 4000
    # Results of both factors, then the product beside them.
    assert peak(lambda _: x.exp() * x.sin()) == 4 * 3000
    assert peak(lambda _: x.exp_()) == 0
    # From what was there before: 20,000 bytes are given back before 4,000 are taken.
    assert peak(swap, lambda count: [[torch.empty(5000)] for _ in range(count)]) == 0
    # exp keeps its result until its gradient is there.
    backward = partial(torch.autograd.grad, inputs=y, grad_outputs=torch.ones(1000))
    assert peak(backward, lambda count: [y.exp() for _ in range(count)]) == 4000


@pytest.mark.parametrize("name", OPS)
def test_the_guard_asks_for_enough_and_ours_takes_no_more_than_eager(name):
    op, peaks = OPS[name], {}
    one_case = case((256, 128), op=op)
    for one in (Variant("native", op.ours, using("native")), Variant(EAGER, op.textbook)):
        found = [profiles.peak_bytes(one_case.contestant(work, one), CPU) for work in op.works]
        peaks[one.name] = max(found)
        # 64 kB are kernels' scratch memory, sums and keys.
        assert 4 <= peaks[one.name] <= one_case.need + 65_536
    assert peaks["native"] <= peaks[EAGER] + 64


@pytest.mark.parametrize("buffer", [1 << 30, 4096, 1000])
def test_copies_move_as_many_bytes_as_said(buffer, monkeypatch):
    monkeypatch.setattr(limits, "BUFFER_BYTES", buffer)
    moved, copy_ = [], torch.Tensor.copy_

    def counting(target, source):
        moved.append(target.nbytes + source.nbytes)
        return copy_(target, source)

    monkeypatch.setattr(torch.Tensor, "copy_", counting)
    limits.copying(16_000, CPU).call(None)
    assert sum(moved) == 16_000


def test_sizes():
    for text, shape in (
        ("128x20", (128, 20)), ("1M", (1024, 1024)), ("2.5k", (40, 64)), ("1e6", (1000, 1000)),
        ("7", (1, 7)), ("8x16x128x128", (8, 16, 128, 128)), ("1024G", (1 << 20,) * 2),
    ):  # fmt: skip
        assert shape_of(text) == shape


# --- training steps -------------------------------------------------------------------------------

MODELS = (
    mlp_vae(),
    whole_mlp_vae(),
    image_vae(batch=4, channels=4, side=16),
    bayes_linear((40, 50)),
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_rows_of_steps_and_parameters_that_stay(model):
    step = StepCase.of(model, CPU)
    before = [p.detach().clone() for p in step.made[0].parameters()]
    found = {one.name: one for one in step.variants()[0]}
    entries = [found[EAGER], found["reference"], replace(found["reference"], name="b", op=broken)]
    settings = measure.Settings(STEPS, works=(STEP,), effort=BRIEF)
    rows = measure.measure_case(step, settings, entries, CpuClock())
    assert [row["status"] for row in rows] == ["ok", "ok", "failed"]
    for row in rows[:2]:
        names = (row["op"], row["work"], row["dtype"], row["size"])
        assert names == (STEPS, STEP, "float32", step.model.name)
        assert row["vs_eager"] == pytest.approx(rows[0]["median_s"] / row["median_s"])
        assert {row[name] for name in ("moved_bytes", "of_copy", "of_limit", "copy_s")} == {None}
        # Gradients of all parameters are alive before the optimizer's step.
        assert row["peak_bytes"] >= sum(p.nbytes for p in before)
    assert all(torch.equal(a, b) for a, b in zip(before, step.made[0].parameters(), strict=True))


# --- CUDA, as far as that shows without a GPU -----------------------------------------------------


class Clock(CudaClock):
    """A clock of CUDA, on a PyTorch that may have none."""

    def __init__(self):
        self.device = CPU

    def seconds(self, call, items):
        for item in items:
            call(item)
        return 1e-3 * len(items)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs CUDA calls to fail")
def test_figures_that_cannot_be_had_have_a_reason_and_lose_nothing():
    entries = [REFERENCE, Variant(REDUCE_OVERHEAD, OP.textbook, overwrites=True)]
    for row in measure.measure_case(case(), SETTINGS, entries, Clock()):
        assert row["median_s"] > 0
        assert row["host_s"] is None
        assert len(row["host_reason"]) > 10
        if row["variant"] == "reference":
            assert row["peak_bytes"] > 0
        else:
            assert row["peak_bytes"] is None
            assert row["peak_reason"] == "its results are in CUDA graphs of its own"


def test_host_times_come_before_anything_that_is_profiled(monkeypatch):
    order = []
    for name in ("host_seconds", "peak_bytes"):
        monkeypatch.setattr(profiles, name, lambda *_, name=name: order.append(name) or len(order))
    rows = measure.measure_case(case(), SETTINGS, [REFERENCE, TEXTBOOK], Clock())
    assert order == ["host_seconds"] * 6 + ["peak_bytes"] * 6
    assert sorted(row["host_s"] for row in rows) == list(range(1, 7))


def test_the_limit_is_told_only_where_its_noise_is_known():
    for device, op, noise, share in (
        ("cpu", "gaussian_kl", 0.0, 0.5),  # which makes none
        ("cpu", "gaussian_latent", None, None),  # it was to be timed, and was not
        ("cuda", "gaussian_kl", None, None),
    ):
        one = case(device=torch.device(device), op=OPS[op])
        spreads = {name: Spread(s, s, s, 3) for name, s in (("some", 2.0), (limits.COPY, 1.0))}
        row = measure.figures(one, "forward", spreads, "some")
        assert (row["noise_s"], row["of_limit"], row["of_copy"]) == (noise, share, 0.5)
        spreads[limits.NOISE] = Spread(1.5, 1.5, 1.5, 3)
        row = measure.figures(one, "forward", spreads, "some")
        assert (row["noise_s"], row["of_limit"]) == (1.5, 0.75)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_figures_of_a_call_on_a_gpu():
    device = torch.device("cuda")
    one, clock = case((128, 20), device), CudaClock(device)
    fused = [one for one in variants(OP, device)[0] if one.name == "triton"]
    for row in measure.measure_case(one, SETTINGS, fused, clock):
        assert not [name for name in row if name.endswith("reason")], row
        assert 0 < row["host_s"] < 0.01
        assert 0 < row["median_s"] < 0.01
        assert row["peak_bytes"] >= 4 * 128 * 20
