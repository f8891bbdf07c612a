"""The noise stream: exact words, known normals, distribution and independence."""

import math

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from fused_reparam import gaussian_latent, gumbel_softmax, noise
from fused_reparam.rng import bases as streams
from fused_reparam.rng import stream as rng_stream
from tests.helpers import golden
from tests.helpers.loops import where

TWO64 = 1 << 64


def words(seed, offset, blocks):
    return rng_stream.words(noise.key(seed, offset), blocks).tolist()


def test_words_are_the_golden_ones():
    for case in golden.CASES:
        want = case["philox4x32_10_words"]
        assert words(case["seed"], case["offset"], len(want)) == want


@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [
        ((0,) * 4, (0,) * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_random123_known_answers(counter, key, want):
    """The kat_vectors of Random123 for philox4x32, 10 rounds."""
    tensors = [tuple(torch.tensor([w]) for w in words) for words in (counter, key)]
    got = rng_stream.philox4x32(*tensors)
    assert " ".join(f"{int(w):08x}" for w in got) == want


def test_normals_are_the_golden_ones(device):
    for case in golden.CASES:
        key = noise.key(case["seed"], case["offset"], device=device)
        for name, dtype, atol in (
            ("float32", torch.float32, 4e-6),
            ("float64", torch.float64, 1e-13),
        ):
            want = torch.tensor(case[f"normal_{name}"], dtype=torch.float64)
            got = noise.normal(key, want.shape, dtype=dtype)
            assert got.dtype == dtype
            torch.testing.assert_close(got.double().cpu(), want, atol=atol, rtol=0)


def test_stream_of_torch_is_the_same(device):
    try:
        from torch.func import _random as random

        random.normal(noise.key(0), (1,))
    except (ImportError, NotImplementedError):
        pytest.skip(f"torch version {torch.__version__} has no torch.func._random on the CPU")
    for seed, offset in ((0, 0), (7, 5), (TWO64 - 1, TWO64 - 3), (1 << 40, (1 << 32) - 2)):
        for dtype, atol in ((torch.float32, 4e-6), (torch.float64, 1e-13)):
            key = noise.key(seed, offset)
            want = random.normal(key, (4099,), dtype=dtype)
            got = noise.normal(key.to(device), 4099, dtype=dtype).cpu()
            torch.testing.assert_close(got, want, atol=atol, rtol=0)


def test_backends_agree_on_a_long_stream(device):
    """Each element, the block edges of every kernel included, against the float64 transform."""
    key = noise.key(31337, TWO64 - 100)
    w = rng_stream.words(key, 25_000).double()
    uniform = w * 2.0**-32 + 2.0**-33
    radius = torch.sqrt(-2 * torch.log(uniform[:, 0::2]))
    angle = 2 * math.pi * uniform[:, 1::2]
    want = torch.stack((radius * angle.cos(), radius * angle.sin()), 2).reshape(-1)[:99_991]
    got = noise.normal(key.to(device), 99_991).cpu()
    torch.testing.assert_close(got.double(), want, atol=4e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_noise_is_float32_noise_rounded(device, dtype):
    key = noise.key(5, device=device)
    exact = noise.normal(key, 4099)
    got = noise.normal(key, 4099, dtype=dtype)
    assert got.dtype == dtype
    assert torch.equal(got, exact.to(dtype))


def test_float64_noise_is_another_draw(device):
    """It is not the float32 noise with more digits."""
    key = noise.key(5, device=device)
    single, double = noise.normal(key, 4099), noise.normal(key, 4099, dtype=torch.float64)
    assert ((single.double() - double).abs() > 1e-3).float().mean() > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", streams.BASES)
def test_a_long_stream_goes_on_where_its_parts_meet(base, dtype):
    """The reference makes it part by part; here are its last elements by a key of their own."""
    blocks, last, offset = 140_000, 75, (1 << 32) - 130_000  # a carry lies in the third part
    lanes = (4 if dtype == torch.float32 else 2) // (2 if base == "student_t" else 1)
    long = streams.BASES[base](noise.key(3, offset), blocks * lanes - 1, dtype, 4.0)
    assert long.shape == (blocks * lanes - 1,)
    for first in (65_500, 131_000, blocks - last):
        part = streams.BASES[base](noise.key(3, offset + first), last * lanes - 1, dtype, 4.0)
        at = first * lanes
        torch.testing.assert_close(long[at : at + part.numel()], part, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "at", [(0, 0), (TWO64 - 1, TWO64 - 3), (1 << 40, (1 << 32) - 2), (7, (1 << 62) + 5)]
)
def test_what_serves_the_stream_agrees_with_its_definition(dtype, at):
    """On PyTorch 2.14 and later an op of PyTorch's own makes it."""
    key = noise.key(*at)
    for n in (1, 2, 3, 4, 5, 1001, 70_003):
        got, want = rng_stream.stream(key, n, dtype), rng_stream.box_muller(key, n, dtype)
        atol = 4e-6 if dtype == torch.float32 else 1e-13
        torch.testing.assert_close(got, want, rtol=0, atol=atol)
        bits = rng_stream.stream(key.view(torch.int64), n, dtype)
        assert torch.equal(bits, got)


@pytest.mark.parametrize("wrong", ["other numbers", "raises"])
def test_an_op_of_pytorchs_that_changed_is_not_used(wrong, monkeypatch):
    """It is no stable interface: a few of its numbers are compared before the first use."""

    class Ops:
        @staticmethod
        def _philox_normal_(out, key):
            if wrong == "raises":
                raise NotImplementedError("no such kernel for this device")
            return out.zero_()

    monkeypatch.setattr(rng_stream, "_checked", {})
    monkeypatch.setattr(torch.ops, "aten", Ops)
    got = rng_stream.stream(noise.key(1), 9, torch.float32)
    monkeypatch.undo()
    torch.testing.assert_close(got, rng_stream.stream(noise.key(1), 9, torch.float32))


def test_counter_carries_into_the_high_word(device):
    """Element 4 of offset 2^32 - 1 is element 0 of offset 2^32; offsets wrap at 2^64."""
    for offset in ((1 << 32) - 1, TWO64 - 1):
        both = noise.normal(noise.key(3, offset, device=device), 8)
        after = noise.normal(noise.key(3, (offset + 1) % TWO64, device=device), 4)
        assert torch.equal(both[4:], after)
    high = noise.normal(noise.key(3, 1 << 32, device=device), 4)
    assert not torch.equal(high, noise.normal(noise.key(3, 0, device=device), 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_shard_is_a_slice(device, dtype):
    for index_offset in [0, 1, 2, 3, 4, 1001]:
        with where(index_offset):
            key = noise.key(11, (1 << 32) - 100, device=device)
            whole = noise.normal(key, 1500, dtype=dtype)
            shard = noise.normal(key, (7, 13), dtype=dtype, index_offset=index_offset)
            assert torch.equal(shard.flatten(), whole[index_offset : index_offset + 91])


@pytest.fixture(scope="module")
def stats():
    return pytest.importorskip("scipy.stats")


@pytest.fixture(scope="module")
def ten_million():
    return noise.normal(noise.key(2024), 10_000_019).double()


def test_kolmogorov_smirnov(ten_million, stats):
    assert stats.kstest(ten_million.numpy(), "norm").pvalue > 0.01
    # It can fail: a scale wrong by 0.3 % is seen.
    assert stats.kstest((1.003 * ten_million).numpy(), "norm").pvalue < 1e-3


@pytest.mark.parametrize("sigmas", [3, 4, 5])
def test_tail_counts(ten_million, sigmas, stats):
    n = ten_million.numel()
    for count in ((ten_million > sigmas).sum().item(), (ten_million < -sigmas).sum().item()):
        assert stats.binomtest(count, n, stats.norm.sf(sigmas)).pvalue > 0.001


def test_the_tail_is_whole():
    """The smallest uniform is 2^-33: the word 0 gives 6.76 sigma."""
    w = torch.zeros(1, 4, dtype=torch.int64)
    original, rng_stream.words = rng_stream.words, lambda key, blocks: w
    try:
        got = rng_stream.box_muller(noise.key(0), 4, torch.float32)
    finally:
        rng_stream.words = original
    assert got[0].item() == pytest.approx(math.sqrt(-2 * math.log(2.0**-33)), rel=1e-6)


def independent(a, b):
    """Correlation of two samples, and of their squares, within 4.5 standard errors of 0."""
    for x, y in ((a, b), (a * a, b * b), (a, b * b), (a * a, b)):
        if abs(torch.corrcoef(torch.stack((x, y)))[0, 1].item()) > 4.5 / math.sqrt(a.numel()):
            return False
    return True


def test_lanes_and_neighbouring_blocks_are_independent(ten_million):
    blocks = ten_million[: 4 * 1_000_000].view(-1, 4)
    for i in range(4):
        for j in range(i):
            assert independent(blocks[:, i], blocks[:, j])
        for j in range(4):
            assert independent(blocks[1:, i], blocks[:-1, j])
    assert not independent(blocks[:, 0], blocks[:, 0] + 100 * blocks[:, 1])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((0, 0), (1, 0)),
        ((0, 0), (1 << 32, 0)),
        ((7, 0), (7, 1 << 32)),
        ((0, 1 << 20), (1 << 20, 0)),
    ],
)
def test_neighbouring_seeds_and_offsets_are_independent(a, b):
    n = 1_000_000
    assert independent(noise.normal(noise.key(*a), n), noise.normal(noise.key(*b), n))


def test_first_normals_of_consecutive_seeds(stats):
    first = torch.stack([noise.normal(noise.key(seed), 4) for seed in range(20_000)])
    for lane in first.T:
        assert stats.kstest(lane.double().numpy(), "norm").pvalue > 0.001
    assert independent(first[1:, 0], first[:-1, 0])


def test_a_drawn_key_follows_the_generator():
    torch.manual_seed(1)
    a, b = noise.draw_key(), noise.draw_key()
    torch.manual_seed(1)
    assert torch.equal(noise.draw_key().view(torch.int64), a.view(torch.int64))
    assert not torch.equal(a.view(torch.int64), b.view(torch.int64))
    state = torch.get_rng_state()
    own = torch.Generator().manual_seed(1)
    assert torch.equal(noise.draw_key(generator=own).view(torch.int64), a.view(torch.int64))
    assert torch.equal(torch.get_rng_state(), state), "a given generator leaves the default alone"


def test_a_subclass_is_drawn_one_key():
    """Not one for each of the tensors that it is made of, as an op of its own would be."""
    two = TwoTensor(torch.zeros(4, 3), torch.zeros(4, 3))
    for z in (gaussian_latent(two, torch.zeros(4, 3))[0], gumbel_softmax(two)):
        assert type(z) is TwoTensor
        assert torch.equal(z.a, z.b)


def test_drawn_keys_use_all_bits():
    keys = torch.stack([noise.draw_key().view(torch.int64) for _ in range(400)])
    for bit in range(63):
        ones = (keys >> bit & 1).sum(0)
        assert ((ones > 140) & (ones < 260)).all(), f"bit {bit} of seed and offset"


@pytest.mark.parametrize("seed", [0, 1, (1 << 63) - 1, 1 << 63, TWO64 - 1])
def test_a_key_holds_its_integers(seed):
    key = noise.key(seed, TWO64 - 1 - seed)
    assert key.dtype == torch.uint64
    assert [v % TWO64 for v in key.view(torch.int64).tolist()] == [seed, TWO64 - 1 - seed]


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        ((-1,), ValueError, r"seed must be in \[0, 2\*\*64\), got -1"),
        ((TWO64,), ValueError, "seed must be in"),
        ((0, TWO64), ValueError, "offset must be in"),
        ((1.5,), TypeError, "seed must be an integer, got 1.5 of type float"),
        (("7",), TypeError, "seed must be an integer"),
    ],
)
def test_bad_keys(args, error, says):
    with pytest.raises(error, match=says):
        noise.key(*args)


def test_bad_requests():
    key = noise.key(0)
    with pytest.raises(TypeError, match=r"dtype torch.uint64, got torch.int64"):
        noise.normal(key.view(torch.int64), 3)
    with pytest.raises(ValueError, match=r"shape \(2,\).*got shape \(1,\)"):
        noise.normal(key[:1], 3)
    with pytest.raises(TypeError, match="got 7 of type int"):
        noise.normal(7, 3)
    with pytest.raises(TypeError, match=r"got torch.int32"):
        noise.normal(key, 3, dtype=torch.int32)
    with pytest.raises(ValueError, match="index_offset must be >= 0, got -1"):
        noise.normal(key, 3, index_offset=-1)


def test_empty_and_scalar_shapes(device):
    key = noise.key(0, device=device)
    assert noise.normal(key, (3, 0)).shape == (3, 0)
    assert torch.equal(noise.normal(key, ()), noise.normal(key, 1)[0])
