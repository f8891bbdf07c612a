"""Memory of large results, which is kept for the next ones."""

import copy
import io
import random
import threading

import pytest
import torch

import fused_reparam as fr
from fused_reparam.backends.cpu import extension
from tests.helpers.allocations import allocated

MB = 1 << 20
UNIT = 2 * MB  # in which memory comes from the system


@pytest.fixture(autouse=True)
def _nothing_kept():
    fr.gaussian_latent(torch.zeros(1), torch.zeros(1))  # loads the library
    if extension.module is None:
        pytest.skip(f"no extension: {extension.reason}")
    fr.empty_cache()
    yield
    fr.empty_cache()


def sample(megabytes, dtype=torch.float32, **options):
    """A result of that size."""
    x = torch.zeros(1, dtype=dtype).expand(int(megabytes * MB) // dtype.itemsize)
    return fr.gaussian_rsample(x, x, **options)


def stats(name):
    return fr.memory_stats()[name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_freed_result_serves_the_next(dtype):
    z = sample(4, dtype)
    place, before = z.data_ptr(), fr.memory_stats()
    assert before["in_use_bytes"] >= 4 * MB
    del z
    assert stats("kept_bytes") - before["kept_bytes"] >= 4 * MB
    again = sample(4, dtype)
    assert again.data_ptr() == place
    assert stats("reused") == before["reused"] + 1
    assert stats("results") == before["results"] + 1


def test_small_results_are_as_all_tensors():
    before = fr.memory_stats()
    z = sample(0.9)
    assert fr.memory_stats() == before
    del z


@pytest.mark.parametrize("megabytes", [1, 1.3, 2.5, 3, 7, 9.1])
def test_results_of_any_size_serve_the_next(megabytes):
    for _ in range(3):
        before = fr.memory_stats()
        held = [sample(megabytes) for _ in range(5)]
        del held
    found = fr.memory_stats()
    assert found["reused"] - before["reused"] == 5
    assert found["kept_bytes"] >= 5 * megabytes * MB


def test_a_larger_piece_serves_smaller_results_and_becomes_whole_again():
    big = sample(32)
    place = big.data_ptr()
    del big
    parts = [sample(8) for _ in range(3)] + [sample(1.5), sample(3.25)]
    assert all(place <= z.data_ptr() < place + 32 * MB for z in parts)
    random.Random(0).shuffle(parts)
    while parts:
        parts.pop()
    assert sample(32).data_ptr() == place


def test_no_more_is_kept_than_was_in_use_at_once():
    for megabytes in range(40, 80, 5):  # each too large for what the last one leaves
        sample(megabytes)
    assert stats("kept_bytes") <= stats("recent_peak_bytes") <= 300 * MB
    held = [sample(2 + i) for i in range(5)]
    found = fr.memory_stats()
    assert found["kept_bytes"] + found["in_use_bytes"] <= found["recent_peak_bytes"]
    del held


def test_results_never_share_memory_whatever_comes_and_goes():
    draw = random.Random(20140412)
    alive = []
    for i in range(400):
        if alive and draw.random() < 0.5:
            value, z = alive.pop(draw.randrange(len(alive)))
            assert z.min() == z.max() == value
            del z
        else:
            megabytes = draw.choice([1, 1.0625, 1.9, 2, 3.3, 7.9, 8, 9.5])
            alive.append((i, sample(megabytes).fill_(i)))
        if i % 97 == 0:
            fr.empty_cache()
        found = fr.memory_stats()
        assert found["in_use_bytes"] + found["kept_bytes"] <= found["recent_peak_bytes"]
    in_use = stats("in_use_bytes")
    assert in_use >= sum(z.nbytes for _, z in alive)
    alive.clear()
    assert stats("in_use_bytes") == 0
    fr.empty_cache()
    assert stats("kept_bytes") == 0


def test_a_step_takes_its_memory_from_the_last_and_gives_its_bits():
    mu, logvar = (torch.randn(600_000, requires_grad=True) for _ in range(2))
    key = fr.noise.key(3)

    def step():
        z, kl = fr.gaussian_latent(mu, logvar, key=key)
        return [
            t.detach() for t in (z, kl, *torch.autograd.grad(z.square().sum() + kl, (mu, logvar)))
        ]

    first = [t.clone() for t in step()]
    before = fr.memory_stats()
    second = step()
    assert stats("reused") - before["reused"] == stats("results") - before["results"] == 3
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_fresh_memory_is_filled_where_pytorch_is_told_to():
    """As PyTorch's allocations are; ``tests/conftest.py`` tells it to, with NaN."""

    x, key = torch.zeros(MB), fr.noise.key(1)

    def fills():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            fr.gaussian_rsample(x, x, key=key)
        return sum(e.count for e in found.key_averages() if e.key == "aten::fill_")

    assert [fills(), fills()] == [1, 1]  # of fresh memory, and of kept
    torch.utils.deterministic.fill_uninitialized_memory = False
    assert [fills(), fills()] == [0, 0]


def test_the_profiler_sees_kept_memory_as_any_other():
    x = torch.zeros(1000, 1000)
    calls = [allocated(torch.device("cpu"), lambda: fr.gaussian_rsample(x, x)) for _ in range(3)]
    assert calls[0] == calls[1] == calls[2]
    assert 4_000_000 <= calls[0] <= 4_000_100


def test_a_storage_is_resized():
    z = sample(2, key=fr.noise.key(1))
    values = z.clone()
    z.resize_(4 * MB // 4)
    assert torch.equal(z[: values.numel()], values)
    z.resize_(10)
    storage = z.untyped_storage()
    assert torch.equal(z, values[:10])
    for size in (100, 0, 3 * MB, 0, 40):  # smaller and larger than what is kept
        storage.resize_(size)
        assert storage.nbytes() == size
    del z, storage
    assert stats("in_use_bytes") == 0


def test_shared_between_processes_it_is_a_tensor_as_any_other():
    z = sample(2, key=fr.noise.key(1))
    values = z.clone()
    z.share_memory_()
    assert z.is_shared()
    assert torch.equal(z, values)
    assert stats("in_use_bytes") == 0


def test_an_array_of_numpy_keeps_a_result_alive():
    pytest.importorskip("numpy")
    z = sample(2)
    array = z.fill_(3).numpy()
    del z
    other = sample(2).fill_(4)
    assert (array == 3).all()
    again = torch.from_numpy(array)
    del array
    assert stats("in_use_bytes") >= 4 * MB
    assert (again == 3).all()
    assert (other == 4).all()
    del again, other
    assert stats("in_use_bytes") == 0


def test_copies_have_memory_of_their_own():
    z = sample(2)
    file = io.BytesIO()
    torch.save(z, file)
    file.seek(0)
    lazy = torch._lazy_clone(z)
    values = z.tolist()
    found = [copy.deepcopy(z), torch.load(file), z.clone(), lazy]
    z.zero_()
    del z
    sample(2).fill_(7)
    assert all(t.tolist() == values for t in found)


def test_pinned_memory_is_a_copy():
    z = sample(2)
    if torch.cuda.is_available():
        assert torch.equal(z.pin_memory(), z)
    else:
        assert not z.is_pinned()
    assert stats("in_use_bytes") >= 2 * MB


def test_modes_and_layouts_are_those_of_any_result():
    x = torch.zeros(2, 8, 200, 200).to(memory_format=torch.channels_last)
    for _ in range(2):
        z = fr.gaussian_rsample(x, x)
        assert z.is_contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            assert fr.gaussian_rsample(x, x).is_inference()
        del z
    before = stats("results")
    compiled = torch.compile(fr.gaussian_rsample, backend="aot_eager", fullgraph=True)
    key = fr.noise.key(5)
    assert torch.equal(compiled(x, x, key=key), fr.gaussian_rsample(x, x, key=key))
    assert stats("results") == before + 2
    with torch._subclasses.FakeTensorMode():
        fake = torch.empty(1000, 1000)
        assert fr.gaussian_rsample(fake, fake).shape == fake.shape
    meta = torch.empty(1000, 1000, device="meta")
    assert fr.gaussian_rsample(meta, meta).shape == meta.shape
    assert stats("results") == before + 2


def test_an_error_leaves_nothing_in_use():
    mu = torch.zeros(600_000, requires_grad=True)

    def refuse(grad):
        raise ValueError("no")

    def step():
        z, kl = fr.gaussian_latent(mu, mu * 0)
        z.register_hook(refuse)
        (z.sum() + kl).backward()

    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            step()
    assert stats("in_use_bytes") == 0


def test_threads():
    mu = torch.randn(400_000)
    expected = [fr.gaussian_rsample(mu, mu, key=fr.noise.key(i)).double().sum() for i in range(4)]
    wrong = []

    def work(i):
        leaf = mu.clone().requires_grad_()
        for _ in range(15):
            z = fr.gaussian_rsample(leaf, leaf, key=fr.noise.key(i))
            z.sum().backward()
            if z.detach().double().sum() != expected[i]:
                wrong.append(i)
            if i == 0:
                fr.empty_cache()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert stats("in_use_bytes") == 0
