"""Eager PyTorch in a process whose C library keeps freed memory: the fair rival of large results.

glibc is told what becomes of freed memory when a process starts. So this rival lives in a process
of its own, `python -m bench.keeping`, which computes when it is told to and waits otherwise: it
takes its turns in the same rounds as all others. What passes between the two is a line of JSON each
way, some tens of microseconds, which is little beside a call of a million elements.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from bench.cases import OpCase
from bench.ops import OPS
from bench.sizes import shape_of
from bench.timing import Contestant
from bench.variants import Variant

ROOT = Path(__file__).resolve().parent.parent
# Large blocks come from the heap, as small ones do, and the heap never shrinks.
KEPT = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=9223372036854775807"


def contestant(case: OpCase, work: str, variant: Variant) -> Contestant:
    """`variant` doing `work` in the other process, which is rid of it when this is."""
    other = process()
    ask = other.ask
    where = (case.op.name, case.size, case.dtype, work, torch.get_num_threads())
    most = ask("enter", *where)

    def prepare(count: int) -> Sequence[int]:
        ask("prepare", count)
        return range(count)

    made = Contestant(variant.name, partial(ask, "call"), prepare, most_calls=most)
    weakref.finalize(made, other.leave).atexit = False
    return made


class Process:
    """The other process, as this one sees it."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.child = subprocess.Popen(
            [sys.executable, "-m", "bench.keeping"], env=os.environ
            | {"GLIBC_TUNABLES": KEPT, "PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,  # Ctrl-C ends this one, and then the other's input is closed
        )  # fmt: skip
        atexit.register(self.child.communicate)

    def ask(self, *words: object) -> Any:
        assert self.child.stdin
        assert self.child.stdout
        try:
            print(json.dumps(words), file=self.child.stdin, flush=True)
            problem, answer = json.loads(self.child.stdout.readline())
        except (OSError, ValueError):  # a broken pipe, or no line at all
            process.cache_clear()
            raise RuntimeError("the process that keeps its memory has ended") from None
        if problem:
            raise RuntimeError(problem)
        return answer

    def leave(self) -> None:
        """Has it give back all that it holds, if it is still there."""
        with suppress(RuntimeError):
            self.ask("leave")


@cache
def process() -> Process:
    return Process()


# --- in that process ------------------------------------------------------------------------------


def serve(lines: Iterable[str]) -> None:
    """Does what each line says, and answers each with `[problem, result]`."""
    gc.disable()  # as where the others are timed
    own, items = Contestant("", print), list[Any]()

    def call(index: int) -> None:
        own.call(items[index])

    for line in lines:
        what, *rest = json.loads(line)
        answer: list[object] = [None, None]
        try:
            if what == "call":
                call(*rest)
            elif what == "prepare":
                items.clear()
                items.extend(own.prepare(*rest))
            else:
                items.clear()
                own = Contestant("", print)
                gc.collect()
                ctypes.CDLL(None).malloc_trim(0)
                if what == "enter":
                    own = entered(*rest)
                    answer = [None, own.most_calls]
        except Exception as error:  # whatever it is, the other process reports it
            answer = [f"{type(error).__name__}: {error}", None]
        print(json.dumps(answer), flush=True)


def entered(op: str, size: str, dtype: str, work: str, threads: int) -> Contestant:
    torch.set_num_threads(threads)
    case = OpCase(OPS[op], size, shape_of(size), dtype, torch.device("cpu"))
    return case.contestant(work, Variant("", OPS[op].textbook))


if __name__ == "__main__":
    serve(sys.stdin)
