"""The arithmetic of `gpus` and the readers of `aot`, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest

from tests.helpers import aot, gpus

H100 = gpus.GPUS["sm_90"]
MI300X = gpus.GPUS["gfx942"]
FORWARD = aot.Listing(
    target="sm_90", dtype="float32", name="forward", elements=16, instructions=560,
    per_element=35.0, registers=61, spills=0, shared_bytes=16, local=[], accesses=[], shared=[],
    branches=0, mix={"MUFU": 48}, loads_in_flight=6,
)  # fmt: skip


def like_forward(**changes) -> aot.Listing:
    return dataclasses.replace(FORWARD, **changes)


@pytest.mark.parametrize(
    ("registers", "warps", "resident"),
    [
        (32, 4, 64),  # the most there can be
        (61, 4, 32),  # 64 registers: 8 warps for each scheduler
        (65, 4, 28),  # 72 registers: 7
        (65, 8, 24),  # whole programs only
        (255, 4, 8),
    ],
)
def test_warps_that_registers_leave(registers, warps, resident):
    assert gpus.resident_warps(like_forward(registers=registers), H100, warps) == resident


def test_waves_that_registers_leave_on_amd():
    assert gpus.resident_warps(like_forward(registers=64), MI300X, 4) == 32
    assert gpus.resident_warps(like_forward(registers=119), MI300X, 4) == 16


def test_bytes_in_flight():
    assert gpus.bytes_in_flight(FORWARD, H100, 4) == 32 * 32 * 6 * 16
    # 3350 GB/s over 132 processors is 12.8 bytes a cycle, for 600 cycles.
    assert gpus.bytes_needed(H100) == pytest.approx(7691, rel=1e-3)


def test_verdicts():
    assert gpus.verdict(FORWARD, H100, 4, 4) == ""
    assert gpus.verdict(FORWARD, H100, 4, 8) == "large tile"
    assert gpus.verdict(like_forward(local=["STL"] * 6), H100, 4, 4) == "spills"
    assert gpus.verdict(like_forward(local=["STL"] * 5), H100, 4, 4) == ""
    assert gpus.verdict(like_forward(registers=81), H100, 4, 4) == "few warps"
    assert gpus.verdict(like_forward(loads_in_flight=0), H100, 4, 4) == "few loads"


def test_limits():
    found = gpus.limits(FORWARD, H100, 4)
    assert found["bytes"] == 12
    assert found["by bytes"] == pytest.approx(12 / 3.350)  # ps
    assert found["by issue"] == pytest.approx(35 / (132 * 4 * 32 * 1.98e-3))
    assert found["special"] == 3
    assert found["by special"] == pytest.approx(3 / (132 * 16 * 1.98e-3))
    assert gpus.limits(like_forward(name="backward"), H100, 2)["bytes"] == 10
    row = "| 12 | 3.58 | 35.0 | 1.05 | 3.0 | 0.72 | 342% |"
    assert row in gpus.limits_table([(FORWARD, H100, 4)])
    row = "| 12 | 2.26 | 35.0 | 0.86 | - | - | 264% |"
    assert row in gpus.limits_table([(like_forward(mix={}), MI300X, 4)])


def test_the_fewest_instructions_that_every_dtype_allows():
    def row(groups, per_element, **changes):
        elements = 4 * groups // 128
        one = like_forward(elements=elements, per_element=per_element, **changes)
        return one, H100, groups, 4

    rows = [row(256, 39.0), row(512, 35.0), row(1024, 33.0, registers=128)]
    assert gpus.chosen(rows) == {("sm_90", 4): (512, 4)}
    rows += [row(256, 38.0), row(512, 34.0, registers=96), row(1024, 32.0)]
    assert gpus.chosen(rows) == {("sm_90", 4): (256, 4)}


def test_loads_in_flight_on_nvidia():
    code = [
        "LDG.E.64 R2, [R2.64]",
        "LDG.E.128 R4, [R20.64]",
        "LDG.E.128 R8, [R20.64+0x800]",
        "IMAD.WIDE.U32 R30, R2, 0x5, RZ",  # neither
        "FADD R4, R7, R5",  # the first
        "LDG.E.128 R12, [R20.64]",
        "LDG.E.128 R16, [R20.64]",
        "FADD R4, R11, R13",  # the second and the third
        "STG.E.128 [R24.64], R16",
    ]
    assert aot.nvidia_loads_in_flight(code) == 3


def test_loads_in_flight_on_amd():
    lines = [
        "buffer_load_dwordx4 v[0:3], v4, s[0:3], 0 offen",
        "buffer_load_dwordx4 v[8:11], v4, s[0:3], 0 offen",
        "global_load_dwordx2 v[12:13], v4",
        "s_waitcnt vmcnt(2)",  # all but two: the first is there
        "buffer_store_dwordx4 v[0:3], v4, s[0:3], 0 offen",
        "buffer_load_dwordx4 v[0:3], v4, s[0:3], 0 offen",
        "buffer_load_dwordx4 v[4:7], v4, s[0:3], 0 offen",
        "s_waitcnt vmcnt(0)",
    ]
    assert aot.amd_loads_in_flight("".join(f"\t{line}\n" for line in lines)) == 3
