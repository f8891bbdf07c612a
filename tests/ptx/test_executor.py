"""The interpreter's arithmetic against exact fractions and by hand; and that its checks fail where
they should.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.ptx.approximate import Errors, approximate
from tests.ptx.contraction import contracted_sums
from tests.ptx.execution import Statistics
from tests.ptx.execution import run as execute
from tests.ptx.floating import fma32, fma64, maximum, minimum, to_bf16, to_integer
from tests.ptx.integers import extract, high_product, permute, quotient
from tests.ptx.module import Kernel
from tests.ptx.types import Fault, Unknown

F32, F64, U32 = np.float32, np.float64, np.uint32
HEAD = """.version 8.4
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry k(.param .u64 .ptr .global .align 1 k_param_0, .param .u64 k_param_1)
.reqntid 64
{ .reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<40>; .reg .b64 %rd<19>;
  ld.param.b64 %rd1, [k_param_0];
  mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd2, %r1, 4;
  add.s64 %rd3, %rd1, %rd2;
"""


def run(body, out, grid=1, shared=4096, number=0):
    kernel = Kernel(HEAD + body + "\n ret; }")
    values = [np.uint64(out.data_ptr()).tobytes(), np.int64(number).tobytes()]
    execute(kernel, grid, 64, shared, values, [out], Statistics())
    return out.numpy()


def rounded(x: Fraction) -> np.float32:
    """To nearest even, by comparing with the neighbours of a guess."""
    guess = F32(float(x))
    near = [np.nextafter(guess, F32(-np.inf)), guess, np.nextafter(guess, F32(np.inf))]
    near = [n for n in near if np.isfinite(n)]
    return min(near, key=lambda n: (abs(Fraction(float(n)) - x), n.view(U32) & 1))


def test_fma32():
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(4000).astype(F32) for _ in range(2))
    c = (-(a.astype(F64) * b) * (1 + rng.integers(-3, 4, 4000) * 2.0**-24)).astype(F32)
    c[::3] = rng.standard_normal(c[::3].size).astype(F32)
    c[::5] = F32(2.0**24) * c[::5]
    # ties that only the product's last bits decide
    a[:400] = F32(1 + 2.0**-12) * F32(2.0) ** rng.integers(-3, 3, 400).astype(F32)
    b[:400], c[:400] = F32(1 - 2.0**-12), F32(2.0**24)
    scale = F32(2.0**-70)
    for x, y, z in ((a, b, c), (a * scale, b * scale, c * F32(2.0**-140))):
        got = fma32(x, y, z)
        for i in range(x.size):
            exact = Fraction(float(x[i])) * Fraction(float(y[i])) + Fraction(float(z[i]))
            assert got[i] == rounded(exact), (x[i], y[i], z[i])


def test_fma64():
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(3000) for _ in range(2))
    c = -(a * b) * (1 + rng.integers(-2, 3, 3000) * 2.0**-52)
    c[::3] = rng.standard_normal(1000)
    got = fma64(a, b, c)
    for x, y, z, r in zip(a, b, c, got, strict=True):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        near = [np.nextafter(r, -np.inf), r, np.nextafter(r, np.inf)]
        best = min(
            near, key=lambda n: (abs(Fraction(float(n)) - exact), n.view(np.uint64) & np.uint64(1))
        )
        assert best == r
    assert fma64(np.array([1e308]), np.array([10.0]), np.array([-np.inf]))[0] == -np.inf


def test_small_things():
    a = np.array([0x80000001, 7, 0xFFFFFFF0], U32)
    assert extract(a, 28, 4, True).tolist() == [0xFFFFFFF8, 0, 0xFFFFFFFF]
    assert (
        permute(np.array([0x03020100], U32), np.array([0x07060504], U32), 0x7250)[0] == 0x07020500
    )
    assert quotient(np.array([-7, 7], np.int32), np.array([2, -2], np.int32)).tolist() == [-3, -3]
    assert high_product(np.array([2**64 - 1], np.uint64), np.uint64(2**64 - 1))[0] == 2**64 - 2
    x = np.array([1.00390625, 1.01171875, np.nan, -0.0, 3.4e38], F32)
    assert to_bf16(x).tolist() == [0x3F80, 0x3F82, 0x7FFF, 0x8000, 0x7F80]
    big = np.array([3e9, -3e9, np.nan], F64)
    assert to_integer(big, np.int32, "rzi").tolist() == [2**31 - 1, -(2**31), -(2**31)]
    z = np.array([0.0, -0.0], F32)
    assert np.signbit(maximum(z, -z, F32, False)).tolist() == [False, False]
    assert np.signbit(minimum(z, -z, F32, False)).tolist() == [True, True]


def test_shuffle_and_divergence():
    """Lanes part and meet again; a butterfly then sees them all."""
    body = """
  and.b32 %r2, %r1, 1; setp.eq.b32 %p1, %r2, 0; mov.b32 %r3, 5;
  @%p1 bra $L_even;
  add.s32 %r3, %r1, 100; bra.uni $L_end;
$L_even:
  add.s32 %r3, %r1, 200;
$L_end:
  shfl.sync.bfly.b32 %r4, %r3, 3, 31, -1;
  st.global.b32 [%rd3], {%r4};"""
    got = run(body, torch.zeros(64, dtype=torch.int32))
    lane = np.arange(64) ^ 3
    assert (got == lane + np.where(lane % 2 == 0, 200, 100)).all()


def test_lanes_wait_for_their_warp():
    """Some take a way that lies behind the shuffle, as the compiler places what is rare."""
    body = """
  and.b32 %r2, %r1, 1; setp.eq.b32 %p1, %r2, 0; mov.b32 %r3, 5;
  @%p1 bra $L_rare;
$L_back:
  shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1;
  st.global.b32 [%rd3], %r4;
  ret;
$L_rare:
  mov.b32 %r3, 7; bra.uni $L_back;"""
    got = run(body, torch.zeros(64, dtype=torch.int32))
    assert got.tolist() == [5, 7] * 32


def test_loop_with_trip_counts():
    body = """
  mov.b32 %r2, 0; mov.b32 %r3, 0;
$L_top:
  add.s32 %r3, %r3, %r2; add.s32 %r2, %r2, 1; setp.le.u32 %p1, %r2, %r1;
  @%p1 bra $L_top;
  st.global.b32 [%rd3], %r3;"""
    assert (
        run(body, torch.zeros(64, dtype=torch.int32)) == [i * (i + 1) // 2 for i in range(64)]
    ).all()


MATRIX = """
  mov.b32 %r2, global_smem; mul.lo.s32 %r3, %r1, 16; add.s32 %r3, %r2, %r3;
  shl.b32 %r4, %r1, 16; or.b32 %r5, %r4, 1; or.b32 %r6, %r4, 2; or.b32 %r7, %r4, 3;
  st.shared.v4.b32 [%r3], {%r4, %r5, %r6, %r7};
  bar.sync 0;
  ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r3];
  st.global.b32 [%rd3], %r11;"""


def test_ldmatrix():
    """Of matrix 1, thread t holds pair t % 4 of row t / 4, which lane 8 + t / 4 points to."""
    got = run(MATRIX, torch.zeros(64, dtype=torch.int32))
    t = np.arange(32)
    assert (got[:32] == ((8 + t // 4) << 16 | t % 4)).all()


def test_stmatrix_is_ldmatrix_backwards():
    for trans in ("", ".trans"):
        body = MATRIX.replace(".x4.shared", f".x4{trans}.shared").replace(
            "st.global.b32 [%rd3], %r11;",
            f"""bar.sync 0; add.s32 %r20, %r3, 2048;
            stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r20], {{%r10, %r11, %r12, %r13}};
            bar.sync 0; ld.shared.v4.b32 {{%r24, %r25, %r26, %r27}}, [%r20];
            xor.b32 %r28, %r26, %r6; st.global.b32 [%rd3], %r28;""",
        )
        assert (run(body, torch.ones(64, dtype=torch.int32)) == 0).all()


# The address of another thread's element, and of a place in shared memory.
BACKWARDS = "shl.b32 %r2, %r1, 2; sub.s32 %r2, 252, %r2;"
OTHER = f"{BACKWARDS} cvt.u64.u32 %rd4, %r2; add.s64 %rd4, %rd1, %rd4;"
OWN_SHARED = "mul.lo.s32 %r2, %r1, 4;"
SOME = "setp.lt.u32 %p1, %r1, 40; @%p1 bra $L_x;"
FAULTS = {
    "outside": "add.s64 %rd4, %rd3, 4; st.global.b32 [%rd4], %r1;",
    "misaligned": "add.s64 %rd4, %rd3, 2; ld.global.b32 %r2, [%rd4];",
    "two threads write": "st.global.b32 [%rd1], %r1;",
    "another one writes": f"st.global.b32 [%rd3], %r1; {OTHER} ld.global.b32 %r3, [%rd4];",
    "no barrier after its store": f"{OWN_SHARED} st.shared.b32 [%r2], %r1; {BACKWARDS}"
    "ld.shared.b32 %r3, [%r2];",
    "lanes store different bits": "mov.b32 %r2, 0; st.shared.b32 [%r2], %r1;",
    "nothing was stored": f"{OWN_SHARED} ld.shared.b32 %r3, [%r2];",
    "shared store": "mul.lo.s32 %r2, %r1, 128; st.shared.b32 [%r2], %r1;",
    "barrier": f"{SOME} bar.sync 0; $L_x: mov.b32 %r2, 0;",
    "whole warps": f"{SOME} shfl.sync.bfly.b32 %r4, %r1, 3, 31, -1; $L_x: mov.b32 %r2, 0;",
}


@pytest.mark.parametrize(("said", "body"), FAULTS.items(), ids=list(FAULTS))
def test_faults(said, body):
    with pytest.raises(Fault, match=said):
        run(body, torch.zeros(64, dtype=torch.int32))


def test_a_stride_is_not_crossed():
    out = torch.zeros(64, 2, dtype=torch.int32)[:, 0]
    kernel = Kernel(HEAD + "st.global.b32 [%rd3], %r1; ret; }")
    with pytest.raises(Fault, match="between"):
        execute(
            kernel, 1, 64, 0, [np.uint64(out.data_ptr()).tobytes(), b"\0" * 8], [out], Statistics()
        )


def test_unknown_instructions_are_not_guessed():
    with pytest.raises(Unknown):
        Kernel(HEAD + "tanh.approx.bf16x2 %r2, %r1; ret; }")


def test_signs_of_two_halves():
    """Two float16 in a register: -1 and 2 become 1 and 2, and then -1 and -2."""
    body = "mov.b32 %r2, 0xbc004000; {} st.global.b32 [%rd3], %r2;"
    for change, bits in (("abs", 0x3C004000), ("neg", 0x3C00C000)):
        made = body.format(f"{change}.f16x2 %r2, %r2;")
        assert run(made, torch.zeros(64, dtype=torch.int32)).view(U32)[0] == bits


SHARED_SUM = "shfl.sync.bfly.b32 %r5, %r4, 1, 31, -1;"


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (f"mul.f32 %r4, %r2, %r3; {SHARED_SUM} add.f32 %r6, %r4, %r5;", 1),
        (f"mul.f32 %r4, %r2, %r3; {SHARED_SUM} fma.rn.f32 %r6, %r2, %r3, %r5;", 1),
        (f"mul.rn.f32 %r4, %r2, %r3; {SHARED_SUM} add.f32 %r6, %r4, %r5;", 0),
        (f"mul.f32 %r4, %r2, %r3; {SHARED_SUM} add.rn.f32 %r6, %r4, %r5;", 0),
        (f"fma.rn.f32 %r4, %r2, %r3, 0f00000000; {SHARED_SUM} add.f32 %r6, %r4, %r5;", 0),
    ],
    ids=["may be contracted", "contracted", "product rounded", "sum rounded", "zero added"],
)
def test_sums_that_depend_on_the_thread_are_found(body, count):
    assert len(contracted_sums(Kernel(HEAD + body + " ret; }"))) == count


def test_errors_of_approximate_instructions_stay_within_their_bounds(monkeypatch):
    monkeypatch.setattr(Errors, "scale", 1.0)
    x = np.linspace(0.01, 3.0, 5000).astype(F32)
    for name, exact, bound in (("ex2", np.exp2, 2.0**-22), ("sqrt", np.sqrt, 2.0**-23)):
        off = np.abs(approximate(name, x, False) / exact(x.astype(F64)) - 1)
        assert 0.9 * bound < off.max() < 1.6 * bound  # and the rounding of the result
