"""Count the instructions that the native library executes, one by one.

`python -m tests.helpers.stepping` prints a table: for each instruction set that the machine has,
and each operation and dtype, how many instructions one element costs in the inner loops. A child
process makes the calls while this one steps it through them (ptrace) and counts the steps that lie
in the library; what a call over more elements takes beyond one over fewer is their cost. No clock
and no counter of the processor is involved: the figure is the same on a loaded or virtual machine.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import paths

CHILD = ["-m", "tests.helpers.stepping"]
# What the compiler leaves in a library whose instructions were counted, and how many times as many
# those of other compilers and versions may be.
COMPILER, OTHER_MARGIN = b"GCC: (Debian 12.2", 1.15
ISAS = ("avx512", "avx2", "portable")
OPERATIONS = ("normal", "forward", "backward", "kl", "kl backward", "softmax", "softmax backward")
DTYPES = ("float32", "bfloat16")
# Elements of the two calls: whole runs of the loops in kernels/, within one tile.
SIZES = {"avx512": (256, 512), "avx2": (256, 512), "portable": (256, 512)}

# <sys/ptrace.h> and <sys/user.h> of x86-64.
TRACEME, PEEKTEXT, POKETEXT, CONT, SINGLESTEP = 0, 1, 4, 7, 9
GETREGS, SETREGS, SETOPTIONS, EXITKILL = 12, 13, 0x4200, 0x100000
RIP, RSP = 16, 19  # places in the array of registers
BREAKPOINT = 0xCC
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
REFUSED = 77  # the child's exit status where ptrace is not permitted

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class CannotStep(Exception):
    """Why nothing can be counted on this machine."""


# ---- the child: makes the calls, and stops itself before and after each ------------------------


def calls(isa: str, operation: str, dtype: str) -> Iterator:
    """The operation over few elements, and over more.

    Of the Gaussian latent: logvar, with the KL summed, which also comes alone. Of Gumbel-softmax:
    one relaxed row.
    """
    import torch

    from fused_reparam.backends import cpu
    from tests.helpers import gaussian_calls as gaussian

    key = torch.tensor([7, 0], dtype=torch.int64)
    kl = torch.ones(1)
    rest = (0, -float("inf"), float("inf"), 1.0, True)
    tempered = (0, 0.8, 0.0)

    def row(t):
        return t.view(1, -1, 1)

    for n in SIZES[isa]:
        mu, logvar, grad = (torch.linspace(-1, 1, n).to(getattr(torch, dtype)) for _ in range(3))
        z, grad_mu, grad_logvar = (torch.empty_like(mu) for _ in range(3))
        yield {
            "normal": lambda z=z: cpu.normal(key.view(torch.uint64), z),
            "forward": lambda a=(mu, logvar, key, None), z=z: gaussian.forward(
                cpu, *a, *rest, z, kl
            ),
            "backward": lambda a=(grad, kl, mu, logvar, key, None), g=(grad_mu, grad_logvar): (
                gaussian.backward(cpu, *a, *rest, *g)
            ),
            "kl": lambda a=(mu, logvar, None, None): gaussian.forward(cpu, *a, *rest, None, kl),
            "kl backward": lambda a=(None, kl, mu, logvar, None, None), g=(grad_mu, grad_logvar): (
                gaussian.backward(cpu, *a, *rest, *g)
            ),
            "softmax": lambda x=mu, y=z: cpu.softmax_forward(
                *tempered, row(x), key, None, row(y), None, None
            ),
            "softmax backward": lambda g=grad, y=mu, out=grad_mu: cpu.softmax_backward(
                *tempered, row(g), None, row(y), row(y), row(out)
            ),
        }[operation]


def child(cases: list[list[str]]) -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # never left behind, stopped
    import torch

    from fused_reparam.backends import cpu

    torch.set_num_threads(1)
    print(json.dumps(cpu.info() | {"best": cpu.set_isa(ISAS[0])}), flush=True)
    if _libc.ptrace(TRACEME, 0, None, None) != 0:
        sys.exit(REFUSED)
    os.kill(os.getpid(), signal.SIGSTOP)  # the parent looks around
    for isa, operation, dtype in cases:
        if cpu.set_isa(isa) != isa:
            continue
        for call in calls(isa, operation, dtype):
            call()  # pages are touched, caches of Python filled
            os.kill(os.getpid(), signal.SIGSTOP)
            call()
            os.kill(os.getpid(), signal.SIGSTOP)


# ---- the parent: steps -------------------------------------------------------------------------


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    ctypes.set_errno(0)
    value = _libc.ptrace(request, pid, address, data)
    if value == -1 and (error := ctypes.get_errno()):
        raise CannotStep(f"ptrace({request}): {os.strerror(error)}")
    return value


def wait_for(pid: int, stop: int) -> None:
    """Until the process is stopped, by the signal that is expected."""
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == REFUSED:
        raise CannotStep("ptrace is not permitted here")
    if not os.WIFSTOPPED(status):
        raise RuntimeError(f"the process that makes the calls ended: status {status:#x}")
    if os.WSTOPSIG(status) != stop:
        raise RuntimeError(f"the process that makes the calls got signal {os.WSTOPSIG(status)}")


def text_of(pid: int, library: str) -> tuple[int, int]:
    """Where the library's code lies in the child's memory."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, permissions, *_ = line.split(maxsplit=5)
        if "x" in permissions and line.endswith(library):
            begin, end = addresses.split("-")
            return int(begin, 16), int(end, 16)
    raise RuntimeError(f"{library} is not in the memory of the process that makes the calls")


class Stepper:
    """Runs a stopped process from one SIGSTOP of its own to the next, and counts in between."""

    def __init__(self, pid: int, begin: int, end: int) -> None:
        self.pid, self.begin, self.end = pid, begin, end
        self.entries: dict[str, int] = {}  # operation -> its first instruction in the library
        self._registers = (ctypes.c_ulonglong * 27)()

    def registers(self) -> ctypes.Array:
        if _libc.ptrace(GETREGS, self.pid, None, self._registers):
            raise CannotStep("ptrace does not give registers here")
        return self._registers

    def step(self) -> None:
        if _libc.ptrace(SINGLESTEP, self.pid, None, None):
            raise CannotStep("ptrace does not step here")
        wait_for(self.pid, signal.SIGTRAP)

    def run(self, stop: int) -> None:
        ptrace(CONT, self.pid)
        wait_for(self.pid, stop)

    def go_to_entry(self, operation: str) -> None:
        """To where a call enters the library: found by stepping once, then by a breakpoint."""
        if operation not in self.entries:
            while not self.begin <= self.registers()[RIP] < self.end:
                self.step()
            self.entries[operation] = self.registers()[RIP]
            return
        at = self.entries[operation]
        code = ptrace(PEEKTEXT, self.pid, at)
        ptrace(POKETEXT, self.pid, at, code & ~0xFF | BREAKPOINT)
        self.run(signal.SIGTRAP)
        ptrace(POKETEXT, self.pid, at, code)
        self.registers()[RIP] = at
        ptrace(SETREGS, self.pid, 0, ctypes.addressof(self._registers))

    def count_call(self, operation: str) -> int:
        """The instructions of one call that lie in the library; ends at the next stop."""
        self.go_to_entry(operation)
        frame = self.registers()[RSP]
        count = 0
        while (now := self.registers())[RSP] <= frame:  # until it has returned
            count += self.begin <= now[RIP] < self.end
            self.step()
        self.run(signal.SIGSTOP)
        return count


def per_element(cases: list[tuple[str, str, str]], limit: float = 240.0) -> tuple[str, dict]:
    """The library's path, and instructions per element of each (instruction set, operation, dtype)
    that the machine has.

    Raises CannotStep, with the reason, where ptrace or the library is not there or not permitted;
    RuntimeError where the calls fail or take longer than `limit` seconds.
    """
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise CannotStep(f"written for x86-64 Linux, this is {platform.machine()} {sys.platform}")
    environment = paths.environment(OMP_NUM_THREADS="1", PYTHONHASHSEED="0")
    command = [sys.executable, *CHILD, "--child", json.dumps(cases)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        found = json.loads(process.stdout.readline() or "{}")  # the library may have to be built
        if "library" not in found:
            raise CannotStep(f"no native library: {found.get('unavailable', 'it did not load')}")
        at_hand = ISAS[ISAS.index(found["best"]) :]
        known = [case for case in cases if case[0] in at_hand]
        watchdog = threading.Timer(limit, process.kill)
        watchdog.start()
        try:
            return found["library"], dict(_step_through(process.pid, found["library"], known))
        finally:
            watchdog.cancel()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _step_through(pid: int, library: str, cases: list) -> Iterator:
    wait_for(pid, signal.SIGSTOP)
    ptrace(SETOPTIONS, pid, 0, EXITKILL)
    os.sched_setaffinity(pid, os.sched_getaffinity(0))
    stepper = Stepper(pid, *text_of(pid, library))
    for isa, operation, dtype in cases:
        counts = []
        for _ in SIZES[isa]:
            stepper.run(signal.SIGSTOP)
            counts.append(stepper.count_call(operation))
        few, more = SIZES[isa]
        yield (isa, operation, dtype), (counts[1] - counts[0]) / (more - few)


def table(found: dict) -> str:
    rows = ["| instruction set | operation | " + " | ".join(DTYPES) + " |", "|---|---|---:|---:|"]
    for isa in ISAS:
        for operation in OPERATIONS:
            values = [found.get((isa, operation, dtype)) for dtype in DTYPES]
            if None not in values:
                rows.append(f"| {isa} | {operation} | " + " | ".join(f"{v:.2f}" for v in values))
                rows[-1] += " |"
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isas", nargs="*", default=ISAS, choices=ISAS)
    parser.add_argument(
        "--json", action="store_true", help="print JSON: counts, or the reason why not"
    )
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    if sys.platform == "linux":  # taking turns on one processor is faster than waking another
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cases = [(i, o, d) for i in options.isas for o in OPERATIONS for d in DTYPES]
    try:
        (library, found), reason = per_element(cases), None
    except CannotStep as error:
        (library, found), reason = (None, {}), str(error)
    if options.json:
        counts = [[*case, count] for case, count in found.items()]
        print(json.dumps({"counts": counts, "library": library, "reason": reason}))
    else:
        print(f"cannot count: {reason}" if reason else table(found))


if __name__ == "__main__":
    main()
