"""Compile the Triton kernels for GPUs that are not here, and count what is in their machine code.

`python tests/aot.py` prints a table: for each target, dtype and pass, the machine instructions per
element of the path that full blocks take. These kernels have no loops and no calls on that path, so
the static count is the count of executed instructions: every instruction of the kernel, less the
padding at its end (a branch to itself and NOPs), divided by the elements that one thread handles.

Compiling needs real kernels, so TRITON_INTERPRET must not be set in the process that does it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
DTYPES = ("float32", "bfloat16", "float16", "float64")
PASSES = ("forward", "backward")
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
TYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}


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


def kernel_arguments(name: str, dtype: str, target: str, tail: int = 0, **changes):
    """(kernel, types, constants, launch shape) of the hot path: dense, logvar, KL summed, full
    blocks.
    """
    from fused_reparam.backends.triton import backward, fill, forward, launch

    kernel = {
        "forward": forward.forward_kernel,
        "backward": backward.backward_kernel,
        "normal": fill.fill_kernel,
    }[name]
    vector = 16 // BYTES[dtype]
    shape = launch.large_shape(vector)
    element = "*" + TYPES[dtype]
    kl = "*fp64" if dtype == "float64" else "*fp32"
    types = {p: "i64" for p in kernel.arg_names if p.endswith(("_row", "_column"))}
    types |= dict.fromkeys(("n", "length", "columns", "seed", "offset"), "i64")
    types |= {
        "low": "fp64",
        "high": "fp64",
        "weight": "fp64",
        "key": "*i64",
        "state_seed": "*i64",
        "state_offset": "*i64",
        "kl": kl,
        "grad_kl": kl,
    }
    for tensor in ("loc", "scale", "z", "grad_z", "grad_loc", "grad_scale", "out"):
        types[tensor] = element
    math = 1 if target.startswith("sm_") else 2
    if dtype == "float64":
        math += 2
    constants = {"TAIL": tail, "Q": shape.groups, "VEC": vector, "MATH": math}
    mode = changes.get("KEY", 0)  # as `keys` counts them; by value unless told
    constants |= {"KEY": mode} | ({} if mode else {"key": None})
    if name == "forward" and mode != 2:
        constants |= {"state_seed": None, "state_offset": None}
    if name != "normal":
        constants |= {"KIND": 0, "CLAMP": False, "GROUPS": 0, "LAYOUT": 0, "UNIT": 0}
        constants |= {
            "LONG": False,
            "BIG": False,
            "KL" if name == "forward" else "GKL": 2,
            "eps": None,
        }
    constants |= changes
    return kernel, types, constants, shape


def tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def sass(binary: bytes) -> list[str]:
    """The kernel's instructions in order, without the padding (a branch to itself, NOPs) at the
    end.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        out = subprocess.run(
            [tool("cuobjdump"), "-sass", file.name], check=True, capture_output=True, text=True
        )
    text = re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(.*?)\s*;", out.stdout)
    while text and (
        text[-1][1] == "NOP" or re.fullmatch(rf"BRA (0x)?0*{text[-1][0].lstrip('0')}", text[-1][1])
    ):
        text.pop()
    return [line for _, line in text]


def resources(binary: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [tool("cuobjdump"), "-res-usage", file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def read_nvidia(compiled, target: str, dtype: str, name: str, elements: int) -> Listing:
    binary = compiled.asm["cubin"]
    code = sass(binary)
    usage = resources(binary)
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
    )  # fmt: skip


def read_amd(compiled, target: str, dtype: str, name: str, elements: int) -> Listing:
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
    )  # fmt: skip


def listing(name: str, dtype: str, target: str, **changes) -> Listing:
    kernel, types, constants, shape = kernel_arguments(name, dtype, target, **changes)
    compiled = compile_kernel(kernel, target, types, constants, shape.warps)
    threads = shape.warps * (32 if target.startswith("sm_") else 64)
    elements = constants["Q"] * constants["VEC"] // threads
    read = read_nvidia if target.startswith("sm_") else read_amd
    return read(compiled, target, dtype, name, elements)


def table(listings: list[Listing]) -> str:
    rows = ["| target | dtype | pass | elements/thread | instructions | per element | registers |"]
    rows.append("|---|---|---|---|---|---|---|")
    rows += [
        f"| {one.target} | {one.dtype} | {one.name} | {one.elements} | {one.instructions} "
        f"| {one.per_element:.1f} | {one.registers} |"
        for one in listings
    ]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="*", default=TARGETS, choices=TARGETS)
    parser.add_argument("--dtypes", nargs="*", default=DTYPES[:3], choices=DTYPES)
    parser.add_argument("--passes", nargs="*", default=PASSES, choices=[*PASSES, "normal"])
    parser.add_argument("--json", action="store_true", help="print JSON lines, with every list")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on"):
        parser.error("TRITON_INTERPRET is set: nothing is compiled in the interpreter; unset it")
    found = [
        listing(name, dtype, target)
        for target in options.targets
        for dtype in options.dtypes
        for name in options.passes
    ]
    print("\n".join(json.dumps(asdict(one)) for one in found) if options.json else table(found))


if __name__ == "__main__":
    main()
