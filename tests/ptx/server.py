"""Executes cases as PTX in a process of its own, because Triton's interpreter, with which the other
tests run the kernels, can't be left within a process.

`python -m tests.ptx.server FOLDER` reads requests from its input, a line of JSON each, and answers
each with a line; FOLDER is its own. A request: {"case": name, "dtype": ..., and what else
`Server.answer` reads}. An answer: {"problem": why it failed, or None; "changed": the kernels that
a mutation changed}.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from contextlib import contextmanager, nullcontext
from pathlib import Path


class Server:
    def __init__(self, folder: Path, architecture: int) -> None:
        import torch

        from tests.ptx import fake_gpu

        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True  # with NaN
        from tests.ptx.execution import Statistics

        self.statistics = Statistics()
        self.mutate = lambda text: text
        self.changed = 0
        library = fake_gpu.build_library(folder)
        self.machine = fake_gpu.Machine(library, architecture, self.execute, self.parse)

    def parse(self, text):
        from tests.ptx.contraction import contracted_sums
        from tests.ptx.module import Kernel
        from tests.ptx.types import Fault

        made = self.mutate(text)
        self.changed += made != text
        kernel = Kernel(made)
        found = contracted_sums(kernel)
        if found:
            raise Fault(f"{kernel.name}: threads that share a sum round it differently: {found[0]}")
        return kernel

    def execute(self, launch, tensors) -> None:
        from tests.ptx.execution import run

        run(*launch, tensors, self.statistics)

    def answer(self, request: dict) -> dict:
        """`spoil`: errors of approximate instructions, times their bounds; `mutation`: [pattern,
        replacement, count] that every kernel's PTX goes through (count 0: wherever it occurs);
        `other_grid`: direct launches have a program more than they should.
        """
        import re

        from tests.ptx.approximate import Errors
        from tests.ptx.kernel_cases import cases
        from tests.ptx.stream_cases import stream_case

        Errors.scale, Errors.salt = request.get("spoil", 0.0), request.get("salt", 0)
        mutation = request.get("mutation")
        self.changed = 0
        off = other_grid() if request.get("other_grid") else nullcontext()
        if mutation:
            pattern, replacement, count = mutation
            self.mutate = lambda text: re.sub(pattern, replacement, text, count=count)
            self.machine.forget()
        try:
            if "stream" in request:
                from tests.ptx.log_kernel import logarithm_on

                logarithm = logarithm_on(self.machine)
                problem = stream_case(request["stream"], request["dtype"], logarithm)
            else:
                slack = 1.0 + 4.0 * Errors.scale
                with off:
                    found = cases()[request["case"]].run(request["dtype"], slack)
                bad = [r for r in found if not r.error <= r.tolerance]
                problem = "; ".join(
                    f"{r.name} is off by {r.error:.2g}, allowed {r.tolerance:.2g}" for r in bad
                )
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            if not mutation:
                problem += "\n" + "".join(traceback.format_exception(error))
        finally:
            if mutation:
                self.mutate = lambda text: text
                self.machine.forget()
        return {"problem": problem or None, "changed": self.changed}


@contextmanager
def other_grid():
    from unittest import mock

    from fused_reparam.backends.triton import gaussian, launch
    from fused_reparam.ops.elementwise import forget

    handle_of = launch._handle

    def wrong(compiled):
        run, *rest = handle_of(compiled)
        return lambda programs, *others: run(programs + 1, *others), *rest

    def clear():
        forget()
        gaussian._forward.cache_clear()

    clear()  # variants that have not been launched yet
    try:
        with mock.patch.object(launch, "_handle", wrong):
            yield
    finally:
        clear()


def main() -> None:
    folder = Path(sys.argv[1])
    # An answer goes where the output went; what anybody prints goes to the errors.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = Server(folder, int(os.environ.get("FUSED_REPARAM_PTX_ARCHITECTURE", "90")))
    for line in sys.stdin:
        print(json.dumps(server.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
