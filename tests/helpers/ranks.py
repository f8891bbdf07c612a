"""Ranks on loopback: processes that run the same cases in turn, and what failed in which.

A case is a function of a module of ``tests.distributed``, whose name begins with ``case_`` and
which takes no argument. A failure names it; the cases behind it are then not run, for the ranks are
no longer at the same place.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from datetime import timedelta
from pathlib import Path

from tests.helpers import fresh
from tests.helpers.paths import environment

# A rank that waits this long for another one has lost it.
PATIENCE = timedelta(seconds=60)


def cases(module):
    return [name for name in vars(module) if name.startswith("case_")]


def run(name, ranks, timeout=240.0):
    """All cases of a module, on so many ranks: an AssertionError names those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        code = f"from tests.helpers import ranks; ranks.work({name!r}, {folder!r})"
        processes = []
        for rank in range(ranks):
            env = environment()
            env.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
            env.update(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
            processes.append(fresh.start(code, env))
        said = outputs(processes, timeout)
        problems = []
        for rank, (process, (out, err)) in enumerate(zip(processes, said, strict=True)):
            path = Path(folder) / f"rank{rank}.json"
            found = json.loads(path.read_text()) if path.exists() else {}
            problems += [f"{case} on rank {rank}:\n{text}" for case, text in found.items() if text]
            if process.returncode or not found:
                problems.append(f"rank {rank} ended with {process.returncode}:\n{out}\n{err}")
        assert not problems, f"{len(problems)} problems\n" + "\n".join(problems)


def outputs(processes, timeout=240.0):
    """What each printed to its end. None is left behind, not even one that does not end."""
    try:
        return [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


def work(name, folder):
    """What one rank does."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",  # no port that another might take meanwhile
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=PATIENCE,
    )
    module, found = importlib.import_module(f"tests.distributed.{name}"), {}
    for case in cases(module):
        torch.manual_seed(20140412)
        start = time.perf_counter()
        try:
            getattr(module, case)()
        except Exception:
            found[case] = traceback.format_exc()
        found.setdefault(case, "")
        if os.environ.get("FUSED_REPARAM_SHOW_TIMES"):
            print(f"{case}: {time.perf_counter() - start:.2f} s", flush=True)
        if found[case]:
            break
    (Path(folder) / f"rank{dist.get_rank()}.json").write_text(json.dumps(found))
    if not any(found.values()):
        dist.barrier()  # nobody leaves while others still read from it
    end()


def end():
    """The end of a rank whose work is done.

    Threads of PyTorch that end while the interpreter does abort a process now and then.
    """
    import torch.distributed as dist

    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)
