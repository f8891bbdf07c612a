"""The loops of the built library, read from its machine code.

`python -m tests.helpers.disassembly` prints what the tests bound: instructions for each register of
results that a loop of the element-wise families writes.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

ISAS = ("avx512", "avx2")
REGISTER = {"avx512": "%zmm", "avx2": "%ymm"}

_FUNCTION = re.compile(r"^([0-9a-f]+) <(.*)>:$")
_INSTRUCTION = re.compile(r"^ +([0-9a-f]+):\t(.*?)\s*$")
_JUMP = re.compile(r"^j\w+ +([0-9a-f]+)\b")
# A vector register to memory that is not the stack's.
_STORE = re.compile(r"^vmov\w+ +%[xyz]mm\d+,(?!-?(0x[0-9a-f]+)?\(%rsp|-0x[0-9a-f]+\(%rbp\))\S*\(")
_ARITHMETIC = r"^v(add|sub|mul|div|sqrt|max|min|rcp14|fn?m(add|sub)\d+|cvt\w+2)"
_SCALAR = re.compile(_ARITHMETIC + r"s[sd] ")
_PACKED = re.compile(_ARITHMETIC + r"p[sd] ")
_PASS = re.compile(
    r"fr::(avx512|avx2)::"
    r"(transform_loop|transform_backward_loop|term_loop|term_backward_loop|scale_pass)"
    r"<float __vector\(\d+\), \(fr::(Transform|Term|Kind)\)(\d+)(.*?)>"
)
_NOISE = re.compile(
    r"fr::(avx512|avx2)::fill_blocks<fr::\w+::(?:FromUniform<fr::\w+::)?(\w+)>?, .*"
    r"Line, float, .*FetchListed>"
)


class CannotRead(Exception):
    """Why no machine code can be read here."""


def names_of(enumeration: str) -> list[str]:
    """The members of an enumeration in kernels/, in order: functions are known by their numbers."""
    from fused_reparam.backends.cpu.library import loaded

    table = {"Transform": "transform", "Term": "term", "Kind": "scale"}[enumeration]
    return loaded().codes.tables[table]


def library() -> Path:
    from fused_reparam.backends import cpu

    if platform.machine() != "x86_64":
        raise CannotRead(f"written for x86-64, this is {platform.machine()}")
    if shutil.which("objdump") is None:
        raise CannotRead("objdump (binutils) is not installed")
    found = cpu.info()
    if "library" not in found:
        raise CannotRead(f"no native library: {found.get('unavailable', 'it did not load')}")
    return Path(found["library"])


def functions(path: Path) -> dict[str, list[tuple[int, str]]]:
    """By demangled name: addresses and instructions."""
    command = ["objdump", "-d", "-C", "-w", "--no-show-raw-insn", str(path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, list[tuple[int, str]]] = {}
    code: list[tuple[int, str]] = []
    for line in out.splitlines():
        if head := _FUNCTION.match(line):
            code = found.setdefault(head[2], [])
        elif one := _INSTRUCTION.match(line):
            code.append((int(one[1], 16), one[2]))
    return found


def stores(body: list[str]) -> int:
    return sum(_STORE.match(text) is not None for text in body)


def loops(code: list[tuple[int, str]]) -> list[list[str]]:
    """The innermost loops that calculate and write: their bodies, from a jump's target to it."""
    place = {address: i for i, (address, _) in enumerate(code)}
    spans = []
    for end, (_, text) in enumerate(code):
        if jump := _JUMP.match(text):
            begin = place.get(int(jump[1], 16), end + 1)
            body = [text for _, text in code[begin : end + 1]]
            if packed(body) and stores(body):
                spans.append((begin, end))
    inner = [a for a in spans if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return [[text for _, text in code[begin : end + 1]] for begin, end in inner]


def draw_loops() -> dict[tuple[str, str, str], list[list[str]]]:
    """Of the element-wise families in float32, by (instruction set, pass, what it is for)."""
    found: dict[tuple[str, str, str], list[list[str]]] = {}
    for name, code in functions(library()).items():
        if match := _PASS.search(name):
            isa, kind, enumeration, number, flags = match.groups()
            # The last flag of a loop; a prior's of a scale.
            far = " far" if flags.endswith("true") else ""
            given = " given" if kind == "transform_loop" and flags.startswith(", true") else ""
            key = isa, kind.rpartition("_")[0], names_of(enumeration)[int(number)] + given + far
        elif match := _NOISE.search(name):
            key = match[1], "noise", match[2]
        elif match := re.search(r"fr::(avx512|avx2)::student_t<false, true, float", name):
            key = match[1], "noise", "StudentT"
        else:
            continue
        found.setdefault(key, []).extend(loops(code))
    if not found:
        raise CannotRead("the library has no symbols")
    return found


def per_register(kind: str, bodies: list[list[str]]) -> float:
    """Instructions for each register of results, of the loop with the most. Noise has a longer one
    for blocks whose counter carries, which hardly ever runs.
    """
    hot = [min(bodies, key=len)] if kind == "noise" else bodies
    return max(len(body) / stores(body) for body in hot)


def scalar(body: list[str]) -> list[str]:
    """Arithmetic on one number at a time."""
    return [text for text in body if _SCALAR.match(text)]


def narrow(body: list[str], isa: str) -> list[str]:
    """Arithmetic on a part of a register."""
    return [text for text in body if _PACKED.match(text) and REGISTER[isa] not in text]


def packed(body: list[str]) -> list[str]:
    return [text for text in body if _PACKED.match(text)]


def main() -> None:
    for key, bodies in sorted(draw_loops().items()):
        print(*key, f"{per_register(key[1], bodies):.2f}" if bodies else "another's code")


if __name__ == "__main__":
    main()
