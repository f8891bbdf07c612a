"""Keys made of keys: their definition, fixed values, independence, and where they are made."""

import itertools
import re

import pytest
import torch

from fused_reparam import backend, gaussian_latent, noise
from fused_reparam.rng import stream
from tests.helpers.paths import ROOT

stats = pytest.importorskip("scipy.stats")

TWO62, TWO64 = 1 << 62, 1 << 64
KEYS = [(0, 0), (TWO64 - 1, TWO64 - 5), (1 << 63, (1 << 33) + 1)]
# Of each key and a number: what fold_in, split (its item 2) and for_rank give.
GOLDEN = {
    (0, 0, 0): (
        (11176684098698979665, 6103351188520026444),
        (11783090876954790945, 6236408074240674595),
    ),
    (TWO64 - 1, TWO64 - 5, TWO62 - 1): (
        (3542484408033099586, 10811792703651000643),
        (16457998161954141312, 7276679000072401391),
    ),
    (1 << 63, (1 << 33) + 1, 5): (
        (9095432253604768813, 4555269438938769341),
        (9096128251312684172, 5667011016221856757),
    ),
}


def philox(seed, offset, n, purpose):
    """The definition of docs/noise.md in integers, written apart from the package's."""
    low = 0xFFFFFFFF
    key = [seed & low, seed >> 32]
    counter = [offset & low, offset >> 32, n & low, n >> 32 | purpose << 30]
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [b >> 32 ^ counter[1] ^ key[0], b & low, a >> 32 ^ counter[3] ^ key[1], a & low]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    return [counter[1] << 32 | counter[0], counter[3] << 32 | counter[2]]


@pytest.mark.parametrize(("case", "want"), GOLDEN.items())
def test_golden_values(case, want):
    seed, offset, n = case
    key = noise.key(seed, offset)
    assert noise.fold_in(key, n).tolist() == list(want[0])
    assert noise.for_rank(key, n).tolist() == list(want[1])


@pytest.mark.parametrize(("seed", "offset"), KEYS)
@pytest.mark.parametrize("n", [0, 1, 2**32 - 1, 2**32, TWO62 - 1])
def test_is_philox_of_the_key_the_number_and_the_purpose(seed, offset, n):
    key = noise.key(seed, offset)
    for made, purpose in ((noise.fold_in, 1), (noise.for_rank, 3)):
        found = made(key, n)
        assert found.dtype == torch.uint64
        assert found.shape == (2,)
        assert found.tolist() == philox(seed, offset, n, purpose)
    # A number that is a tensor goes through PyTorch's ops and not through Python's integers.
    for number in (torch.tensor(n), torch.tensor(n - TWO62)):  # of which 62 bits count
        assert noise.fold_in(key, number).tolist() == philox(seed, offset, n, 1)


@pytest.mark.parametrize(("seed", "offset"), KEYS)
def test_split_gives_the_same_first_keys_for_any_number_of_them(seed, offset):
    key = noise.key(seed, offset)
    keys = noise.split(key, 9)
    assert keys.dtype == torch.uint64
    assert keys.tolist() == [philox(seed, offset, n, 2) for n in range(9)]
    assert torch.equal(noise.split(key), keys[:2])
    assert noise.split(key, 0).shape == (0, 2)


def test_no_two_keys_are_the_same_and_none_is_noise():
    """Of three parents, three purposes, and numbers as steps and ranks are."""
    seen = {}
    for seed, offset in ((0, 0), (0, 1), (1, 0)):
        parent, count = noise.key(seed, offset), 5000
        made = {
            "fold_in": [noise.fold_in(parent, n).tolist() for n in range(count)],
            "split": noise.split(parent, count).tolist(),
            "for_rank": [noise.for_rank(parent, n).tolist() for n in range(count)],
        }
        for name, keys in made.items():
            for n, key in enumerate(keys):
                assert seen.setdefault(tuple(key), (seed, offset, name, n))[2:] == (name, n)
        words = stream.words(parent, count)
        as_keys = torch.stack((words[:, 1] << 32 | words[:, 0], words[:, 3] << 32 | words[:, 2]), 1)
        assert not {tuple(k) for k in as_keys.view(torch.uint64).tolist()} & set(seen)
    assert len(seen) == 3 * 3 * 5000
    # Keys with one seed would walk through one stream, from two offsets.
    assert len({seed for seed, _ in seen}) == len(seen)


def test_bits_of_derived_keys_are_fair_and_move_with_each_bit_of_what_they_are_made_of():
    keys = noise.split(noise.key(12, 34), 1 << 14).view(torch.int64)
    bits = keys[:, :, None] >> torch.arange(64) & 1
    share = bits.double().mean(0)
    assert ((share - 0.5).abs() < 5 * 0.5 / 2**7).all()  # five standard errors
    base, number = (0x0123456789ABCDEF, 0xFEDCBA9876543210), 0x0123456789ABCDEF

    def all_bits(seed, offset, n):
        made = noise.fold_in(noise.key(seed, offset), n).view(torch.int64)
        return (made[:, None] >> torch.arange(64) & 1).flatten()

    want, flips = all_bits(*base, number), []
    for at in range(64):
        flips.append(want != all_bits(base[0] ^ 1 << at, base[1], number))
        flips.append(want != all_bits(base[0], base[1] ^ 1 << at, number))
        if at < 62:
            flips.append(want != all_bits(*base, number ^ 1 << at))
    share = torch.stack(flips).double()
    assert abs(share.mean().item() - 0.5) < 0.02
    assert share.mean(1).min() > 0.5 - 5 * 0.5 / 128**0.5


@pytest.mark.parametrize("make", [noise.fold_in, noise.for_rank, lambda k, n: noise.split(k, 9)[n]])
def test_noise_of_derived_keys_is_normal_and_independent(make):
    count, keys = 20_000, 8
    parent = noise.key(2026, 12)
    drawn = torch.stack([noise.normal(make(parent, n), count) for n in range(keys)]).double()
    drawn = torch.cat((drawn, noise.normal(parent, count).double()[None]))
    for one in drawn:
        assert stats.kstest(one.numpy(), "norm").pvalue > 1e-3
    for a, b in itertools.combinations(drawn, 2):
        for other in (b, b.roll(1), b.square(), b.flip(0)):
            centred = other - other.mean()
            r = (a * centred).mean() / centred.std()
            assert abs(r.item()) < 5 / count**0.5
    # None is a stretch of another's stream: no block of four comes twice.
    blocks = [tuple(block) for one in drawn for block in one.view(-1, 4).tolist()]
    assert len(set(blocks)) == len(blocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_shards_draw_what_one_draws_for_the_whole(backend_name, dtype):
    key, lanes = noise.key(7, TWO64 - 3), 2 if dtype == torch.float64 else 4
    mu, logvar = torch.randn(2, 12, lanes).to(dtype)
    whole = gaussian_latent(mu, logvar, key=key, reduction="none")
    for ranks in (1, 2, 3, 4):
        parts = [
            gaussian_latent(
                m, v, key=noise.shard(key, rank * m.numel(), dtype=dtype), reduction="none"
            )
            for rank, (m, v) in enumerate(zip(mu.chunk(ranks), logvar.chunk(ranks), strict=True))
        ]
        for found, want in zip(zip(*parts, strict=True), whole, strict=True):
            assert torch.equal(torch.cat(found), want)


@pytest.fixture(params=["reference", "native"])
def backend_name(request):
    with backend(request.param):
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_shard_that_begins_within_a_block_is_refused_and_normal_serves_it(dtype):
    key = noise.key(3)
    with pytest.raises(ValueError, match=rf"multiple of \d for {dtype}.*got 1; noise.normal"):
        noise.shard(key, 1, dtype=dtype)
    part = noise.normal(key, 5, dtype=dtype, index_offset=1)
    assert torch.equal(part, noise.normal(key, 6, dtype=dtype)[1:])


def test_compiled_code_makes_the_same_keys_and_one_graph_serves_all_numbers():
    graphs = []

    def watched(graph, inputs):
        graphs.append(graph)
        return graph.forward

    @torch.compile(fullgraph=True, dynamic=True, backend=watched)
    def made(key, n):
        return (
            noise.fold_in(key, n),
            noise.split(key, 3),
            noise.for_rank(key, 4),
            noise.shard(key, 8),
        )

    for seed, offset in KEYS:
        key = noise.key(seed, offset)
        for n in (3, 1 << 40, TWO62 - 1):
            found = made(key, n)
            assert torch.equal(found[0], noise.fold_in(key, n))
            assert torch.equal(found[1], noise.split(key, 3))
            assert torch.equal(found[2], noise.for_rank(key, 4))
            assert torch.equal(found[3], noise.shard(key, 8))
    assert len(graphs) == 1


def test_inductor_makes_the_same_keys():
    made = torch.compile(lambda key, n: noise.fold_in(key, n), fullgraph=True)
    for n in (0, 5, 2**33):
        assert torch.equal(
            made(noise.key(*KEYS[1]), torch.tensor(n)), noise.fold_in(noise.key(*KEYS[1]), n)
        )


def test_nothing_is_drawn_from_a_generator():
    state = torch.get_rng_state()
    key = noise.key(1)
    noise.fold_in(key, 2), noise.split(key), noise.for_rank(key), noise.shard(key, 4)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_key_on_another_device_is_not_looked_at():
    key = noise.key(1).to("meta")
    for made in (noise.fold_in(key, 2), noise.for_rank(key), noise.shard(key, 4)):
        assert made.is_meta
        assert made.shape == (2,)
    assert noise.split(key, 5).shape == (5, 2)


@pytest.mark.gpu
def test_keys_of_a_gpu_are_made_there_without_waiting():
    key = noise.key(*KEYS[1])
    there = key.cuda()
    noise.fold_in(there, 1)  # kernels are loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = (
            noise.fold_in(there, 5),
            noise.split(there, 3),
            noise.for_rank(there, 2),
            noise.shard(there, 8),
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    want = noise.fold_in(key, 5), noise.split(key, 3), noise.for_rank(key, 2), noise.shard(key, 8)
    for f, w in zip(found, want, strict=True):
        assert f.is_cuda
        assert torch.equal(f.cpu(), w)


@pytest.mark.parametrize("name", ["fold_in", "for_rank", "split", "shard"])
@pytest.mark.parametrize(
    ("n", "error", "said"),
    [
        (-1, ValueError, "got -1"),
        (TWO62, ValueError, f"got {TWO62}"),
        (1.5, TypeError, "must be an integer, got 1.5"),
        (True, TypeError, "must be an integer, got"),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_name(name, n, error, said):
    if name == "shard" and n == TWO62:
        n, said = TWO62 + 1, f"got {TWO62 + 1}"
    with pytest.raises(error, match=said) as raised:
        getattr(noise, name)(noise.key(0), n)
    assert f"noise.{name}" in str(raised.value)


def test_what_is_no_key_or_no_number_is_refused():
    for made in (noise.fold_in, noise.for_rank, noise.split, noise.shard):
        with pytest.raises(TypeError, match=r"key must have dtype torch\.uint64"):
            made(torch.zeros(2, dtype=torch.int64), 1)
        with pytest.raises(ValueError, match=r"key must have shape \(2,\)"):
            made(noise.split(noise.key(0), 3), 1)
    with pytest.raises(TypeError, match="an integer tensor of no dims, got"):
        noise.fold_in(noise.key(0), torch.arange(2))
    with pytest.raises(TypeError, match="an integer tensor of no dims, got"):
        noise.fold_in(noise.key(0), torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"noise.shard: dtype must be float32.*got torch.int64"):
        noise.shard(noise.key(0), 4, dtype=torch.int64)


def test_without_a_process_group_the_rank_is_0():
    assert not torch.distributed.is_initialized()
    assert torch.equal(noise.for_rank(noise.key(5)), noise.for_rank(noise.key(5), 0))


def test_the_code_of_the_page_runs():
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "noise.md").read_text(), re.DOTALL
    )
    names = {}
    exec(code, names)
    of_latents = torch.tensor(philox(2026, 0, 1, 2), dtype=torch.uint64)
    z, _ = gaussian_latent(names["mu"], names["logvar"], key=noise.fold_in(of_latents, 2))
    assert torch.equal(names["z"], z)
