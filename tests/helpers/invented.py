"""Results of the bench's format whose every figure is INVENTED, to test those who show results."""

from __future__ import annotations

import json
import math

from bench.ops import WORKS
from bench.results import FORMAT

SIZES = {"128x20": (128, 20), "1M": (1024, 1024), "16M": (4096, 4096), "64M": (8192, 8192)}
# Seconds for one element forward, and how much more than that each kind of work is.
PACE = {"eager": 8e-9, "torch.compile": 4e-9, "distributions": 1e-8, "reference": 2e-8}
WORK = {"forward": 1.0, "backward": 1.5, "forward+backward": 2.5}
OURS = {"reference", "native", "triton"}


def machine(device_type="cpu", threads=2):
    about = {"device": "Invented CPU", "device_type": "cpu", "cpu": "Invented CPU", "cpus": 2}
    about |= {"simd": "AVX2", "threads": threads, "system": "Linux x86_64"}
    about |= {"versions": {"python": "3.12.0", "torch": "2.11.0"}}
    about |= {"commit": "0123456789ab", "time": "2000-01-01T00:00:00+00:00"}
    if device_type == "cuda":
        about |= {"device": "Invented GPU", "device_type": "cuda", "driver": "1.2"}
        about |= {"compute_capability": "9.0", "multiprocessors": 132, "memory_bytes": 1 << 36}
        about["versions"]["triton"] = "3.6.0"
    return about


def row(op, size, dtype, work, variant, seconds, **more):
    elements = math.prod(SIZES[size])
    bytes_moved = 8 * elements * (4 if dtype == "float32" else 2)
    head = {"op": op, "size": size, "shape": "x".join(map(str, SIZES[size]))}
    head |= {"elements": elements, "dtype": dtype, "work": work, "variant": variant}
    head |= {"ours": variant in OURS, "threads": 2, "moved_bytes": bytes_moved, "status": "ok"}
    copy = elements * 1e-9
    return head | {
        "median_s": seconds, "low_s": 0.9 * seconds, "high_s": 1.2 * seconds, "samples": 9,
        "calls": 1, "ns_per_element": seconds / elements * 1e9,
        "gb_per_s": bytes_moved / seconds / 1e9, "copy_s": copy, "of_copy": copy / seconds,
        "of_limit": 1.1 * copy / seconds,
        "vs_eager": None, "vs_compile": None,
        "saved_bytes": 16 if variant in OURS else 12 * elements,
        "peak_bytes": (12 if variant in OURS else 40) * elements, "host_s": None,
    } | more  # fmt: skip


def result(op="gaussian_latent", device_type="cpu", threads=2, sizes=tuple(SIZES)):
    """Ours takes 1 ns for an element on two threads, 1 us for a call."""
    own = "native" if device_type == "cpu" else "triton"
    pace = PACE | {own: 2e-9 / threads}
    rows = [
        row(op, size, dtype, work, variant, factor * (1e-6 + each * math.prod(SIZES[size])))
        for dtype in ("float32", "bfloat16")
        for size in sizes
        for work, factor in WORK.items()
        for variant, each in pace.items()
    ]
    settings = {"op": op, "device": device_type, "sizes": list(sizes), "works": list(WORKS)}
    settings |= {"dtypes": ["float32", "bfloat16"], "variants": [], "quick": True}
    limits = {"copy_gb_per_s": 10.0, "copy_bytes": 1 << 26}
    for one in rows:
        one["threads"] = threads
    if device_type == "cuda":  # where the noise is not timed by itself
        for one in rows:
            one["of_limit"] = None
    return {
        "format": FORMAT, "machine": machine(device_type, threads), "settings": settings,
        "limits": limits, "missing": [], "rows": rows,
    }  # fmt: skip


def steps(device_type="cpu"):
    """Training steps of two models."""
    own = "native" if device_type == "cpu" else "triton"
    names = {"eager": 1.0, "torch.compile": 0.8, own: 0.7, f"{own}, compiled model": 0.5}
    none = dict.fromkeys(("gb_per_s", "copy_s", "of_copy", "of_limit"))
    made = result("training_step", device_type, sizes=())
    for model, size, seconds in (("mlp-vae", "128x20", 2e-3), ("bayes-linear", "16M", 0.3)):
        for variant, share in names.items():
            made["rows"].append(
                row("training_step", size, "float32", "step", variant, share * seconds, **none)
                | {"size": model, "moved_bytes": None, "ours": own in variant}
            )
    return made


def write(folder, *results):
    """Each into `<folder>/<op>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in results:
        (folder / f"{one['settings']['op']}.json").write_text(json.dumps(one))
    return folder
