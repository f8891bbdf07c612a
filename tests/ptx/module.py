"""Reading a PTX module: its one kernel, its parameters and constants, and its basic blocks."""

import re

import numpy as np

from .emitter import Emitter
from .memory import Region
from .types import SIZES, U8, UNSIGNED, Unknown

_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\((.*?)\)(.*?)\{", re.S)
_PARAMETER = re.compile(r"\.param\s+\.(?:align\s+\d+\s+\.)?(\w+)[^,]*?([\w$]+)\s*(?:,|$)")
_CONSTANT = re.compile(
    r"^\s*(?:\.visible\s+)?\.(?:global|const)\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+"
    r"([\w$]+)(?:\[\d*\])?\s*=\s*\{?([^;]*?)\}?;",
    re.M,
)
_SHARED = re.compile(r"\.extern\s+\.shared\s+\.align\s+\d+\s+\.b8\s+([\w$]+)\[\]")
_INSTRUCTION = re.compile(r"(?:@(!?)(%?\w+)\s+)?([a-z][\w.:]*)\s*(.*)", re.S)
_OF_WARPS = ("shfl.sync", "redux.sync", "ldmatrix.sync", "stmatrix.sync", "bar.warp.sync")
_BARRIERS = ("bar.sync", "barrier.sync", "barrier.cta.sync")


_LABEL = re.compile(r"([$\w]+):")
# To the semicolon behind it; those within brackets and braces end nothing.
_STATEMENT = re.compile(r"((?:[^;{}\[\]]++|\{[^{}]*\}|\[(?:[^{}\[\]]++|\{[^{}]*\})*\])*+);")
_SPACE = re.compile(r"\s*")


def _statements(body):
    """(labels, text, scopes) of each statement; scopes: of nested braces, outermost first.

    Inline PTX declares registers within braces, so that a name may stand for several.
    """
    scopes, made = [0], 1
    labels: list[str] = []
    at = _SPACE.match(body).end()
    while at < len(body):
        if body[at] == "{":
            scopes.append(made)
            made += 1
            at += 1
        elif body[at] == "}":
            if len(scopes) == 1:
                return
            scopes.pop()
            at += 1
        elif found := _LABEL.match(body, at):
            labels.append(found.group(1))
            at = found.end()
        else:
            found = _STATEMENT.match(body, at)
            if not found:
                raise Unknown(f"a statement without an end: {body[at : at + 80]}")
            yield labels, found.group(1).strip(), tuple(scopes)
            labels, at = [], found.end()
        at = _SPACE.match(body, at).end()
    raise Unknown("a body without an end")


def _operands(text):
    """Separated by commas, but for those within brackets and braces."""
    out, depth, current = [], 0, ""
    for part in text.split(","):
        current = f"{current},{part}" if depth else part
        depth += part.count("{") + part.count("[") - part.count("}") - part.count("]")
        if not depth:
            out.append(current.strip())
    if out and not out[-1]:
        out.pop()
    return out


class Block:
    """Instructions that are executed one after another; a jump leads to the first only.

    `end`: "next", "jump", "branch", "return" or "barrier". `warps`: it begins with an instruction
    that a warp's lanes execute together, and so wait for each other before.
    `function(execution, registers, lanes)` executes the block and returns the condition of its
    branch or return, None for always.
    """

    def __init__(self, warps=False):
        self.warps = warps
        self.lines: list = []  # (predicate or None, negated, opcode, operands, scopes)
        self.end, self.target, self.condition = "next", None, None
        self.function, self.length = None, 0


class Kernel:
    """The one entry of a module."""

    def __init__(self, text):
        text = re.sub(r"//[^\n]*", "", text)
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
        entries = list(_ENTRY.finditer(text))
        if len(entries) != 1 or re.search(r"^\s*(\.visible\s+)?\.func\b", text, re.M):
            raise Unknown("a module of several functions")
        self.name, parameters, attributes = entries[0].groups()
        found = _PARAMETER.findall(parameters)
        self.parameter_sizes = [SIZES[kind] for kind, _ in found]
        self.parameters = {name: i for i, (_, name) in enumerate(found)}
        self.threads = int(re.search(r"\.reqntid\s+(\d+)", attributes).group(1))
        self.symbols = dict.fromkeys(_SHARED.findall(text), 0)  # name -> address
        self.constants = []
        for kind, name, numbers in _CONSTANT.findall(text[: entries[0].start()]):
            self._add_constant(kind, name, [int(n, 0) for n in numbers.split(",")])
        body = re.sub(r"^\s*\.(loc|file)\b[^\n]*", "", text[entries[0].end() :], flags=re.M)
        self.registers: dict[tuple, str] = {}  # (scope, name) -> type
        self._cut(self._read(body))
        Emitter(self).emit()

    def _add_constant(self, kind, name, numbers):
        bits = 8 * SIZES[kind]
        data = np.array([n & ((1 << bits) - 1) for n in numbers], UNSIGNED[SIZES[kind]])
        room = np.zeros(data.nbytes + 32, U8)
        low = (room.ctypes.data + 15) & ~15
        at = low - room.ctypes.data
        room[at : at + data.nbytes] = data.view(U8)
        self.constants.append(Region(low, low + data.nbytes, keep=room, constant=True))
        self.symbols[name] = low

    def _read(self, body):
        """(labels, instruction or None) of each statement."""
        lines = []
        for labels, text, scopes in _statements(body):
            line = None
            if text.startswith(".reg"):
                self._declare(text, scopes[-1])
            elif text.startswith(".") and not text.startswith(".pragma"):
                raise Unknown(text)
            elif text and not text.startswith("."):
                match = _INSTRUCTION.fullmatch(text)
                if not match:
                    raise Unknown(text)
                negated, predicate, opcode, rest = match.groups()
                line = predicate, bool(negated), opcode, _operands(rest), scopes
            lines.append((labels, line))
        return lines

    def _declare(self, text, scope):
        kind, names = re.match(r"\.reg\s+\.(\w+)\s+(.*)", text, re.S).groups()
        for name in names.split(","):
            many = re.fullmatch(r"(%?\w+)<(\d+)>", name.strip())
            if many:
                for k in range(int(many.group(2))):
                    self.registers[scope, f"{many.group(1)}{k}"] = kind
            else:
                self.registers[scope, name.strip()] = kind

    def _cut(self, lines):
        """Into basic blocks: a label begins one, and what is not simply followed ends one."""
        self.blocks = [Block()]
        places = {}  # label -> block
        for labels, line in lines:
            if labels and self.blocks[-1].lines:
                self.blocks.append(Block())
            for label in labels:
                places[label] = len(self.blocks) - 1
            if line is None:
                continue
            predicate, negated, opcode, operands, scopes = line
            if opcode.startswith(_OF_WARPS) and not self.blocks[-1].warps:
                self.blocks.append(Block(warps=True))
            block = self.blocks[-1]
            block.length += 1
            if opcode in ("bra", "bra.uni"):
                block.end = "branch" if predicate else "jump"
                block.target = operands[0]
            elif opcode in ("ret", "exit"):
                block.end = "return"
            elif opcode in _BARRIERS:
                if predicate or operands != ["0"]:
                    raise Unknown(f"{opcode} {operands}")
                block.end = "barrier"
            else:
                block.lines.append(line)
                continue
            block.condition = (predicate, negated, scopes) if predicate else None
            self.blocks.append(Block())
        for block in self.blocks:
            if block.target is not None:
                block.target = places[block.target]
