"""Compile the Triton kernels for GPUs that are not here, and count what is in their machine code.

`python -m tests.helpers.aot` prints a table: for each target, dtype and pass, the machine
instructions per element of the path that full blocks take; `--limits` and `--sweep` say what
follows from that for times and tile shapes. These kernels have no loops and no calls on that path,
so the static count is the count of executed instructions: every instruction of the kernel, less the
padding at its end (a branch to itself and NOPs), divided by the elements that one thread handles.

Compiling needs real kernels, so TRITON_INTERPRET must not be set in the process that does it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import subprocess
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.helpers import gpus

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
DTYPES = ("float32", "bfloat16", "float16", "float64")
PASSES = ("forward", "backward")
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
TYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}

# What the bounds in tests were counted with, and what they allow the compiler of another version.
COUNTED_WITH = "3.9."
OTHER_ALLOWANCE = {"gfx942": 1.15}  # of others 1.1
FLOOR = 0.96


class Kernel(NamedTuple):
    """A kernel that was compiled."""

    compiled: Any
    target: str
    dtype: str
    name: str
    elements: int  # per thread


@dataclass
class Listing:
    """What the machine code of one kernel holds."""

    target: str
    dtype: str
    name: str
    elements: int  # per thread
    instructions: int
    per_element: float
    registers: int
    spills: int
    shared_bytes: int
    local: list[str]  # accesses to local memory: spills and slow-path trigonometry
    accesses: list[str]  # accesses to global memory
    shared: list[str]  # accesses to shared memory
    branches: int  # 0: every instruction runs once
    mix: dict[str, int]  # instructions by the first part of their name
    loads_in_flight: int  # 128-bit loads of one thread that are waited for at one time, at most


def check_count(
    one: Listing, bound: float, exact: bool = True, elsewhere: float | None = None
) -> None:
    """Instructions per element: at most the bound, and (exact: it is this target's own, counted
    with this Triton) close to it, or it would be a gate no more. ``elsewhere``: the bound with
    another Triton, where one makes more of this kernel than is allowed of others.
    """
    own = counted_here()
    allowance = 1.0 if own else OTHER_ALLOWANCE.get(one.target, 1.1)
    if elsewhere is not None and not own:
        bound, allowance = elsewhere, 1.0
    said = f"{one.per_element:.2f} instructions for an element, the bound is {bound}"
    assert one.per_element <= bound * allowance, said
    if exact and own:
        assert one.per_element > FLOOR * bound, f"{said}: tighten it"


def counted_here() -> bool:
    """Whether the bounds were counted with this Triton."""
    import triton

    return triton.__version__.startswith(COUNTED_WITH)


def gpu_target(name: str):
    from triton.backends.compiler import GPUTarget

    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name[3:]), 32)
    return GPUTarget("hip", name, 64)


def compile_kernel(kernel, target: str, types: dict, constants: dict, num_warps: int):
    """`types`: parameter -> type; pointers are promised to be 16-byte aligned, as torch allocates
    them.
    """
    import triton
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    attrs = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, type_ in signature.items()
        if type_.startswith("*")
    }
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attrs)
    return triton.compile(
        source,
        target=gpu_target(target),
        options={"num_warps": num_warps, "enable_fp_fusion": True},
    )


# What the hot path (dense, logvar, KL summed, full blocks) passes: names that all kernels share. A
# number's type is its annotation in the kernel, and a pointer that is not named here is a latent.
POINTERS = {
    **dict.fromkeys(("key", "state_seed", "state_offset"), "*i64"),
    **dict.fromkeys(
        ("kl", "grad_kl", "control", "term0", "term1", "grad0", "grad1"), "*accumulator"
    ),
}
CONSTANTS = {
    "KEY": 0, "KIND": 0, "CLAMP": False, "KL": 2, "GKL": 2, "GROUPS": 0, "LAYOUT": 0, "UNIT": 0,
    "LONG_ROWS": False, "WIDE_INDEX": False, "TAIL": 0, "eps": None,
    # Element-wise families: one sample, and a summed term.
    "BASE": 0, "PRIOR_KIND": 0, "FLOOR": False, "SAMPLED": False, "TERM": 2, "GTERM": 2,
    "ONE_SAMPLE": True, "ALIGNED": True,
}  # fmt: skip


def math_form(dtype: str, target: str) -> int:
    from fused_reparam.backends.triton.kernels import approx

    if target.startswith("sm_"):
        return (approx.CUDA64 if dtype == "float64" else approx.PTX).value
    return (approx.HIP64 if dtype == "float64" else approx.AMD).value


def kernel_arguments(name: str, dtype: str, target: str, shape=None, **changes):
    """(kernel, types, constants, launch shape) of the hot path; `changes` of its constants."""
    from fused_reparam.backends.triton import shapes
    from fused_reparam.backends.triton.kernels import (
        elementwise_backward,
        elementwise_forward,
        fill,
        gaussian_backward,
        gaussian_forward,
    )

    kernel = {
        "forward": gaussian_forward.gaussian_forward_kernel,
        "backward": gaussian_backward.gaussian_backward_kernel,
        "normal": fill.fill_kernel,
        "elementwise_forward": elementwise_forward.elementwise_forward_kernel,
        "elementwise_backward": elementwise_backward.elementwise_backward_kernel,
    }[name]
    vector = 16 // BYTES[dtype]
    shape = shapes.Shape(*shape) if shape else shapes.large_shape(vector, target)
    known = CONSTANTS | {"Q": shape.groups, "VEC": vector, "MATH": math_form(dtype, target)}
    known |= changes
    if known["KEY"] == 0:  # as `keys` counts them: by value, from memory, from a generator's state
        known["key"] = None
    if known["KEY"] != 2:
        known |= {"state_seed": None, "state_offset": None}
    accumulator = TYPES["float64" if dtype == "float64" else "float32"]
    types, constants = {}, {}
    for parameter in kernel.params:
        if parameter.is_constexpr or parameter.name in known:
            constants[parameter.name] = known[parameter.name]
        else:
            pointer = POINTERS.get(parameter.name, "*" + TYPES[dtype])
            kind = parameter.annotation_type or pointer
            types[parameter.name] = kind.replace("accumulator", accumulator)
    return kernel, types, constants, shape


def tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def machine_code(cubin: bytes) -> bytes:
    """What lies in the sections of instructions of an ELF file."""
    (first,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<3H", cubin, 58)
    # Of each section: where its name lies, type, flags, address, offset and length.
    sections = [struct.unpack_from("<2I4Q", cubin, first + i * size) for i in range(count)]
    start = sections[names][4]
    return b"".join(
        cubin[offset : offset + length]
        for name, *_, offset, length in sections
        if cubin.startswith(b".text.", start + name)
    )


def sass(cubins: list[bytes], target: str) -> list[list[str]]:
    """Each kernel's instructions in order, without the padding (a branch to itself, NOPs) at its
    end. All at once: the disassembler takes longer to start than for a hundred kernels.
    """
    codes = [machine_code(cubin) for cubin in cubins]
    number = int(target[3:])
    architecture = f"SM{number}{'a' if number >= 90 else ''}"  # as Triton compiles
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(codes))
        file.flush()
        command = [tool("nvdisasm"), "--binary", architecture, file.name]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [(int(at, 16), line) for at, line in re.findall(r"/\*(\w+)\*/\s+(.*?)\s*;", out)]
    found, end = [], 0
    for code in codes:
        begin, end = end, end + len(code)
        own = [(at, line) for at, line in lines if begin <= at < end]
        while own and own[-1][1] in ("NOP", f"BRA {own[-1][0]:#x}"):
            own.pop()
        found.append([line for _, line in own])
    return found


def resources(binary: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [tool("cuobjdump"), "-res-usage", file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def nvidia_loads_in_flight(code: list[str]) -> int:
    """A load is waited for where one of its four registers is named again."""
    most, flying = 0, []
    for line in code:
        named = {int(r) for r in re.findall(r"\bR(\d+)", line)}
        load = re.search(r"LDG\S*\.128\S*\s+R(\d+)", line)
        flying = [first for first in flying if not named & set(range(first, first + 4))]
        if load:
            flying.append(int(load.group(1)))
        most = max(most, len(flying))
    return most


def amd_loads_in_flight(body: str) -> int:
    """`s_waitcnt vmcnt(n)`: all but the last n accesses are done."""
    most, flying = 0, []
    for line in body.splitlines():
        if access := re.match(r"\t(?:global|buffer|flat)_(load|store)_(\w+)", line):
            flying.append(access.groups() == ("load", "dwordx4"))
        if (wait := re.search(r"vmcnt\((\d+)\)", line)) and int(wait.group(1)) < len(flying):
            flying = flying[len(flying) - int(wait.group(1)) :]
        most = max(most, sum(flying))
    return most


def read_nvidia(kernel: Kernel, code: list[str]) -> Listing:
    compiled, target, dtype, name, elements = kernel
    usage = resources(compiled.asm["cubin"])
    operations = [re.sub(r"^@!?U?P\w+\s+", "", line).split()[0] for line in code]
    stack = int(re.search(r"STACK:(\d+)", usage).group(1))
    return Listing(
        target, dtype, name, elements, len(code), len(code) / elements,
        registers=int(re.search(r"REG:(\d+)", usage).group(1)),
        spills=stack,
        shared_bytes=compiled.metadata.shared,
        local=[op for op in operations if op.startswith(("LDL", "STL"))],
        accesses=[op for op in operations if op.startswith(("LDG", "STG", "LD.", "ST."))],
        shared=[op for op in operations if op.startswith(("LDS", "STS"))],
        branches=sum(op.startswith(("BRA", "CALL", "RET")) for op in operations),
        mix=dict(Counter(op.split(".")[0] for op in operations)),
        loads_in_flight=nvidia_loads_in_flight(code),
    )  # fmt: skip


def read_amd(kernel: Kernel) -> Listing:
    compiled, target, dtype, name, elements = kernel
    text = compiled.asm["amdgcn"]
    body = text[: text.index(".Lfunc_end0")]
    code = re.findall(r"^\t([a-z]\w+_\w+)", body, re.M)
    pick = lambda field: int(re.search(rf"\.{field}:\s+(\d+)", text).group(1))  # noqa: E731
    return Listing(
        target, dtype, name, elements, len(code), len(code) / elements,
        registers=pick("vgpr_count"),
        spills=pick("vgpr_spill_count") + pick("sgpr_spill_count") +
        pick("private_segment_fixed_size"),
        shared_bytes=compiled.metadata.shared,
        local=[op for op in code if op.startswith("scratch_")],
        accesses=[op for op in code if op.startswith(("global_", "flat_", "buffer_"))],
        shared=[op for op in code if op.startswith("ds_") and "bpermute" not in op and "swizzle" not
        in op],
        branches=sum(op.startswith(("s_cbranch", "s_branch", "s_call")) for op in code),
        mix=dict(Counter(code)),
        loads_in_flight=amd_loads_in_flight(body),
    )  # fmt: skip


def kernel(name: str, dtype: str, target: str, shape=None, **changes) -> Kernel:
    """Compiled as `kernel_arguments` has it."""
    function, types, constants, shape = kernel_arguments(name, dtype, target, shape, **changes)
    compiled = compile_kernel(function, target, types, constants, shape.warps)
    threads = shape.warps * (32 if target.startswith("sm_") else 64)
    return Kernel(compiled, target, dtype, name, constants["Q"] * constants["VEC"] // threads)


def listings(kernels: list[Kernel]) -> list[Listing]:
    """Of many kernels in one go, as `sass` asks for."""
    code = {}
    for target in {one.target for one in kernels if one.target.startswith("sm_")}:
        places = [i for i, one in enumerate(kernels) if one.target == target]
        cubins = [kernels[i].compiled.asm["cubin"] for i in places]
        code |= zip(places, sass(cubins, target), strict=True)
    return [
        read_nvidia(one, code[i]) if i in code else read_amd(one) for i, one in enumerate(kernels)
    ]


def listing(name: str, dtype: str, target: str, shape=None, **changes) -> Listing:
    [one] = listings([kernel(name, dtype, target, shape, **changes)])
    return one


def table(listings: list[Listing]) -> str:
    rows = ["| target | dtype | pass | elements/thread | instructions | per element | registers |"]
    rows.append("|---|---|---|---|---|---|---|")
    rows += [
        f"| {one.target} | {one.dtype} | {one.name} | {one.elements} | {one.instructions} "
        f"| {one.per_element:.1f} | {one.registers} |"
        for one in listings
    ]
    return "\n".join(rows)


def sweep(targets, dtypes, passes, vectors=(1, 2, 4, 8), warps=(4,)) -> list:
    """(listing, GPU, groups, warps) of every tile shape that gives a thread so many vectors."""
    rows = [
        (kernel(name, dtype, target, (shape_groups, count)), gpu, shape_groups, count)
        for target in targets
        for gpu in [gpus.GPUS[target]]
        for dtype in dtypes
        for count in warps
        for shape_groups in [n * count * gpu.threads for n in vectors]
        for name in passes
    ]
    found = listings([row[0] for row in rows])
    return [(one, *row[1:]) for one, row in zip(found, rows, strict=True)]


def report_sweep(options) -> str:
    rows = sweep(options.targets, options.dtypes, options.passes, warps=options.warps)
    best = [
        f"{target}, {vector} elements in a vector: groups, warps = {shape[0]}, {shape[1]}"
        for (target, vector), shape in gpus.chosen(rows).items()
    ]
    return "\n".join([gpus.sweep_table(rows), "", "Chosen:", *best])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--targets", nargs="*", choices=TARGETS, help="default: all; --limits: sm_90")
    add("--dtypes", nargs="*", default=DTYPES[:3], choices=DTYPES)
    add("--passes", nargs="*", default=PASSES, choices=[*PASSES, "normal"])
    add("--json", action="store_true", help="print JSON lines, with every list")
    add("--limits", action="store_true", help="predict times by bytes and by instructions")
    add("--sweep", action="store_true", help="try tile shapes (minutes)")
    add("--warps", nargs="*", type=int, default=[4], help="for --sweep")
    options = parser.parse_args()
    options.targets = options.targets or (["sm_90"] if options.limits else TARGETS)
    if os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on"):
        parser.error("TRITON_INTERPRET is set: nothing is compiled in the interpreter; unset it")
    if options.sweep:
        print(report_sweep(options))
        return
    found = listings([
        kernel(name, dtype, target)
        for target in options.targets
        for dtype in options.dtypes
        for name in options.passes
    ])  # fmt: skip
    if options.limits:
        rows = [(one, gpus.GPUS[one.target], BYTES[one.dtype]) for one in found]
        print(gpus.limits_table(rows))
    elif options.json:
        print("\n".join(json.dumps(asdict(one)) for one in found))
    else:
        print(table(found))


if __name__ == "__main__":
    main()
