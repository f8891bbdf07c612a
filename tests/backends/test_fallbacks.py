"""What is said where plain PyTorch has to serve: once for a kind of device, at the user's line."""

import json
import os
import textwrap

from tests.helpers import fresh
from tests.helpers.paths import ROOT

# A process in which neither triton nor a native library is to be had, and its warnings.
START = """
import json, sys, warnings
sys.modules["triton"] = None
import torch, fused_reparam as fr
from fused_reparam.backends import cpu, dispatch
cpu.unavailable_reason = lambda device: "no C++ compiler was found: install g++"
mu = torch.zeros(3, 4)
caught = []
def show(message, category, filename, lineno, *rest):
    caught.append((str(message), category.__name__, filename, lineno))
warnings.showwarning = show
warnings.simplefilter("always")
"""
END = """
print(json.dumps(caught))
"""


def warned(code, **environment):
    """The warnings of a program: (text, category, file, line); `code` begins with line 1."""
    code = textwrap.dedent(code).strip("\n")
    environment = {k: v for k, v in os.environ.items() if k != "FUSED_REPARAM_BACKEND"} | {
        "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "0",
    } | environment  # fmt: skip
    done = fresh.run(START + code + END, environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return [(text, kind, file, line - START.count("\n")) for text, kind, file, line in found]


def test_the_cpu_once_at_the_users_line():
    found = warned("""
        for _ in range(3):
            z, kl = fr.gaussian_latent(
                mu, mu)
            fr.FusedGaussianLatent()(mu, mu)
        fr.noise.normal(fr.noise.key(0), 5)
        fr.gumbel_softmax(mu)
    """)
    ((text, kind, file, line),) = found
    assert (kind, file, line) == ("RuntimeWarning", "<string>", 2)
    assert "on the CPU" in text
    assert "times slower than the native library" in text
    assert "install g++" in text
    assert "FUSED_REPARAM_BACKEND=reference" in text


CALLS = [
    "fr.FusedGaussianLatent()(mu, mu)",
    "fr.FusedGaussianLatent(dim=1)(torch.cat((mu, mu), 1))",
    "fr.gaussian_rsample(mu.requires_grad_(), mu, num_samples=2)",
    "fr.noise.normal(fr.noise.key(0), 5)",
    "fr.noise.normal(fr.noise.key(0), 5, index_offset=3)",
    "fr.gumbel_softmax(mu, tau=0.5)",
    "fr.tanh_normal_rsample(mu, log_std=mu)",
    "fr.loc_scale_rsample(mu, mu + 1.0, 'laplace')",
    "fr.BayesianLinear(4, 2)(mu)",
    "torch.ops.fused_reparam.normal(fr.noise.key(0), [3], [], torch.float32)",
    "torch.func.grad(lambda x: fr.gaussian_rsample(x, mu).sum())(mu)",
    "torch.vmap(lambda x: fr.gaussian_rsample(x, mu[0]), randomness='different')(mu)",
]


def test_whatever_is_called_first():
    """One process for all calls, each of which starts as if nothing had been called before."""
    found = warned("".join(f"dispatch._picked.clear()\n{call}\n" for call in CALLS))
    assert [line for *_, line in found] == [2 * i for i in range(1, len(CALLS) + 1)], found


def test_other_devices_name_the_cure():
    """No tensor of theirs can be had here: the backend is asked for as an op asks for it."""
    found = warned("""
        for _ in range(2):
            for name in ("cuda", "xpu", "mps", "hpu"):
                dispatch.pick(torch.device(name))
    """)
    assert [(kind, file, line) for _, kind, file, line in found] == [
        ("RuntimeWarning", "<string>", 3)
    ] * 4
    for (text, *_), name in zip(found, ("cuda", "xpu", "mps", "hpu"), strict=True):
        assert f"{name} tensors" in text
        assert "FUSED_REPARAM_BACKEND=reference" in text
    for text, *_ in found[:2]:
        assert "pip install triton" in text
        assert "fused_reparam[triton]" in text
    for text, *_ in found[2:]:
        assert "CPU, CUDA, ROCm and XPU" in text


def test_who_asks_for_the_reference_is_told_nothing():
    assert warned("fr.gaussian_latent(mu, mu)", FUSED_REPARAM_BACKEND="reference") == []
    assert (
        warned("""
        with fr.backend("reference"):
            fr.gaussian_latent(mu, mu)
            dispatch.pick(torch.device("mps"))
        fr.current_backend("cpu"), fr.current_backend("cuda")
        fr.gaussian_latent(mu.to("meta"), mu.to("meta"))
    """)
        == []
    )


def test_nothing_breaks_a_graph():
    """Nothing is said while a graph is made; a compiled graph says it when it first runs."""
    found = warned("""
        from torch.fx.experimental.proxy_tensor import make_fx
        with warnings.catch_warnings(record=True) as traced:
            warnings.simplefilter("always")
            make_fx(lambda x: fr.gaussian_rsample(x, x), tracing_mode="fake")(mu)
        assert not any("fused_reparam" in str(w.message) for w in traced)
        step = torch.compile(fr.gaussian_latent, fullgraph=True, backend="aot_eager")
        with warnings.catch_warnings(record=True) as ran:
            warnings.simplefilter("always")
            step(mu, mu)
            step(mu, mu)
        assert torch._dynamo.utils.counters["graph_break"] == {}
        caught += [(str(w.message), "", w.filename, w.lineno) for w in ran]
    """)
    found = [w for w in found if "fused_reparam" in w[0]]
    assert [(file, line) for *_, file, line in found] == [("<string>", 9)], found


def test_a_thread_of_its_own():
    """A backward pass or a data loader's thread has no line of the user's: any line will do."""
    found = warned("""
        import threading
        thread = threading.Thread(target=fr.gaussian_rsample, args=(mu, mu))
        thread.start()
        thread.join()
    """)
    assert len(found) == 1


def test_a_filter_that_makes_warnings_errors():
    found = warned("""
        warnings.simplefilter("error")
        for _ in range(2):
            try:
                fr.gaussian_rsample(mu, mu)
            except RuntimeWarning as error:
                caught.append((str(error), "", "", 0))
    """)
    assert len(found) == 2
