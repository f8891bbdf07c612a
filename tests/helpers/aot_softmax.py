"""Compile the kernels of Gumbel-softmax for GPUs that are not here: see `aot`.

`python -m tests.helpers.aot_softmax` prints a JSON line for each case that is asked for.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from tests.helpers import aot

# name -> (pass, shape, what is wanted). Long rows are walked in chunks, others held in registers.
CASES = {
    "rows": ("forward", (4096, 1024, 1), ("y",)),
    "rows-backward": ("backward", (4096, 1024, 1), ("grad_y", "soft")),
    "rows-long": ("forward", (64, 65536, 1), ("y",)),
    "rows-long-backward": ("backward", (64, 65536, 1), ("grad_y", "soft")),
    "columns": ("forward", (256, 32, 1024), ("y",)),
    "columns-backward": ("backward", (256, 32, 1024), ("grad_y", "soft")),
    "columns-long": ("forward", (4, 8192, 256), ("y",)),
    "columns-long-backward": ("backward", (4, 8192, 256), ("grad_y", "soft")),
}


def kernel(case: str, dtype: str, target: str) -> aot.Kernel:
    name, shape, given = CASES[case]
    return kernel_of(name, shape, given, dtype, target)


def kernel_of(name, shape, given, dtype, target, mode=0, **changes) -> aot.Kernel:
    """`given`: which pointers are not None; `changes`: of a contiguous call's constants."""
    from fused_reparam.backends.triton import softmax
    from fused_reparam.backends.triton.kernels import softmax_backward, softmax_forward

    itemsize = aot.BYTES[dtype]
    warp = 32 if target.startswith("sm_") else 64
    cut = softmax.tile_of(shape, itemsize, warp)
    rows = {
        "forward": softmax_forward.softmax_forward_kernel,
        "backward": softmax_backward.softmax_backward_kernel,
    }[name]
    names = "IN", "A", "B", "C", "VEC", "TAIL", "WIDE_INDEX"
    known = dict(
        zip(names, softmax._constexprs(cut), strict=True),
        KEY=0, MODE=mode, EACH=False, MIXED=False, RESIDENT=cut.chunks == 1, FORM=0, GRAD_FORM=0,
        DOUBLE=dtype == "float64", MATH=aot.math_form(dtype, target),
        key=None, state_seed=None, state_offset=None,
    )  # fmt: skip
    if changes.get("KEY"):  # as `keys` counts them: by value, from memory, from a generator's state
        del known["key"]
    if changes.get("KEY") == 2:
        del known["state_seed"], known["state_offset"]
    known |= {
        pointer: None
        for pointer in ("noise", "y", "soft", "kl", "control", "grad_y", "grad_kl")
        if pointer not in given
    }
    known |= changes
    accumulator = aot.TYPES["float64" if dtype == "float64" else "float32"]
    types, constants = {}, {}
    for parameter in rows.params:
        if parameter.is_constexpr or parameter.name in known:
            constants[parameter.name] = known[parameter.name]
        else:
            pointer = aot.POINTERS.get(parameter.name, "*" + aot.TYPES[dtype])
            kind = parameter.annotation_type or pointer
            types[parameter.name] = kind.replace("accumulator", accumulator)
    compiled = aot.compile_kernel(rows, target, types, constants, cut.warps)
    elements = cut.shape[0] * cut.shape[1] * cut.shape[2] // (cut.warps * warp)
    return aot.Kernel(compiled, target, dtype, name, elements)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="*", choices=aot.TARGETS, default=["sm_90"])
    parser.add_argument("--dtypes", nargs="*", choices=aot.DTYPES, default=["float32"])
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    asked = [
        (case, dtype, target)
        for target in options.targets
        for dtype in options.dtypes
        for case in options.cases
    ]
    for (case, *_), one in zip(asked, aot.listings([kernel(*one) for one in asked]), strict=True):
        print(json.dumps({"case": case} | asdict(one)))


if __name__ == "__main__":
    main()
