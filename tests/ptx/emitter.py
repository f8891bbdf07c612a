"""Translating a kernel's basic blocks to Python functions on arrays of lanes."""

import re

import numpy as np

from . import approximate, floating, integers, types
from .arithmetic import Arithmetic
from .bits import Bits
from .moves import Moves
from .types import FLOATS, SIGNED, SIZES, U32, U64, UNSIGNED, Unknown

_POISON = 0xDEADBEEFDEADBEEF  # what registers hold before they are written


def _get(E, R, slot, a, dtype):
    """A register's values in the active lanes."""
    if R[slot] is None:
        R[slot] = _poisoned(E.count, np.dtype(dtype))
    return R[slot] if a is None else R[slot][a]


def _put(E, R, slot, a, value):
    """Set a register in the active lanes."""
    if value.ndim == 0:
        raise AssertionError("a number in a register")
    if a is None:
        R[slot] = value
    else:
        R[slot] = _poisoned(E.count, value.dtype) if R[slot] is None else R[slot].copy()
        R[slot][a] = value


def _poisoned(count, dtype):
    poison = 0 if dtype.kind == "b" else _POISON & np.iinfo(dtype).max
    return np.full(count, poison, dtype)


# What generated code may name.
_GLOBALS = {"np": np, "where": np.where, "get": _get, "put": _put}
for _module in (types, floating, approximate, integers):
    _GLOBALS |= vars(_module)


class Emitter(Arithmetic, Bits, Moves):
    """Writes and compiles a function for each block of a kernel.

    In generated code a register is a local variable, an array of unsigned integers of its width
    (predicates: bool) over the active lanes. What is read in another block than it was written in
    lives in the list R between them.
    """

    def __init__(self, kernel):
        self.kernel = kernel
        self.globals = dict(_GLOBALS)
        self.names: dict[tuple, str] = {}  # of constants
        self.width: dict[str, str] = {}  # PTX's type of each register

    def emit(self):
        kernel = self.kernel
        uses, defines, code = [], [], []
        for block in kernel.blocks:
            self.lines, self.used, self.defined = [], [], set()
            for line in block.lines:
                self.line(*line)
            result = "None"
            if block.condition:
                predicate, negated, scopes = block.condition
                result = ("~" if negated else "") + self.read(predicate, "pred", scopes)
            uses.append(dict.fromkeys(self.used))
            defines.append(self.defined)
            code.append((self.lines, result))
        crossing = sorted(set().union(*uses))
        kernel.slots = {name: i for i, name in enumerate(crossing)}
        for k, (block, (lines, result)) in enumerate(zip(kernel.blocks, code, strict=True)):
            out = [f"def block{k}(E, R, a):"]
            out += [
                f"    {name} = get(E, R, {kernel.slots[name]}, a, {self.dtype(name)})"
                for name in uses[k]
            ]
            out += ["    " + line for line in lines]
            for name in sorted(defines[k]):
                if name in kernel.slots:
                    out.append(f"    put(E, R, {kernel.slots[name]}, a, {name})")
            out.append(f"    return {result}")
            exec(compile("\n".join(out), f"<{kernel.name} block {k}>", "exec"), self.globals)
            block.function = self.globals[f"block{k}"]

    def dtype(self, name):
        kind = self.width[name]
        return "bool" if kind == "pred" else f"U{8 * SIZES[kind]}"

    def register(self, text, scopes):
        """Python's name of a register, or None."""
        for scope in reversed(scopes):
            kind = self.kernel.registers.get((scope, text))
            if kind is not None:
                name = re.sub(r"\W", "", text) + (f"_{scope}" if scope else "") + "_"
                self.width[name] = kind
                return name
        return None

    def use(self, name):
        if name not in self.defined and name not in self.used:
            self.used.append(name)

    def constant(self, value):
        """The name of a number in generated code."""
        name = f"k{len(self.names)}"
        key = (type(value), value.tobytes())
        if key not in self.names:
            self.names[key] = name
            self.globals[name] = value
        return self.names[key]

    def immediate(self, text, kind):
        """The name of what an operand says itself: a number, or a symbol's address."""
        size = 1 if kind == "pred" else SIZES[kind]
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
            bits = U32(int(text[2:], 16))
        elif re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
            bits = U64(int(text[2:], 16))
        elif re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
            value = int(text.rstrip("U"), 0)
            bits = UNSIGNED[size](value & ((1 << 8 * size) - 1))
        elif text in self.kernel.symbols:
            bits = UNSIGNED[size](self.kernel.symbols[text])
        else:
            raise Unknown(f"operand {text}")
        if bits.dtype.itemsize != size:
            raise Unknown(f"operand {text} as {kind}")
        if kind[0] == "s":
            bits = bits.view(SIGNED[size])
        elif kind in ("f16", "f32", "f64"):
            bits = bits.view(FLOATS[size])
        return self.constant(bits)

    def read(self, text, kind, scopes):
        """An expression of this type: an array, or a number for an immediate."""
        if kind in ("bf16", "bf16x2", "f16x2"):
            raise Unknown(f"{self.opcode}: numpy has no {kind}")
        if kind == "pred" and text.startswith("!"):
            return "(~" + self.read(text[1:], kind, scopes) + ")"
        name = self.register(text, scopes)
        if name is None:
            return self.immediate(text, kind)
        self.use(name)
        have = self.width[name]
        if kind == "pred" or have == "pred":
            if kind != have:
                raise Unknown(f"{text} as {kind}")
            return name
        size = SIZES[kind]
        if SIZES[have] != size:
            if SIZES[have] < size or kind[0] not in "bus":
                raise Unknown(f"{text} of {have} as {kind}")
            name = f"{name}.astype(U{8 * size})"
        if kind[0] == "s":
            return f"{name}.view(I{8 * size})"
        if kind in ("f16", "f32", "f64"):
            return f"{name}.view(F{8 * size})"
        return name

    def write(self, text, kind, expression, scopes, predicate=None):
        """To a register; `kind` of the expression. A wider register is extended."""
        if text == "_":
            self.lines.append(f"{expression}")
            return
        name = self.register(text, scopes)
        if name is None:
            raise Unknown(f"result {text}")
        have = self.width[name]
        if have != "pred":
            if SIZES[have] != SIZES[kind]:
                if SIZES[have] < SIZES[kind]:
                    raise Unknown(f"{kind} to {text}")
                if kind[0] == "s":
                    expression = f"({expression}).astype(I{8 * SIZES[have]})"
                else:
                    expression = f"({expression}).astype(U{8 * SIZES[have]})"
            if kind[0] in "sf":
                expression = f"({expression}).view(U{8 * SIZES[have]})"
        if predicate:
            self.use(name)
            expression = f"where({predicate}, {expression}, {name})"
        self.lines.append(f"{name} = {expression}")
        self.defined.add(name)

    def address(self, text, kind, scopes):
        """An expression for [register + number]."""
        match = re.fullmatch(r"\[\s*([^\s+]+)\s*(?:\+\s*(-?\w+))?\s*\]", text)
        if not match:
            raise Unknown(f"address {text}")
        base, offset = match.groups()
        out = self.read(base, kind, scopes)
        if self.register(base, scopes) is None:
            out = f"E.full(a, {out})"
        if offset and int(offset, 0):
            out = f"({out} + {self.immediate(offset, kind)})"
        return out

    @staticmethod
    def vector(text):
        """The operands in braces, or the one that there is."""
        return [t.strip() for t in text.strip("{}").split(",")]

    def line(self, predicate, negated, opcode, operands, scopes):
        """One instruction: the method named by the first part of its opcode writes it."""
        p = None
        if predicate:
            p = ("~" if negated else "") + self.read(predicate, "pred", scopes)
            if negated:
                p = f"({p})"
        parts = opcode.replace("::", ".").split(".")
        method = getattr(self, "op_" + parts[0], None)
        if method is None:
            raise Unknown(opcode)
        self.p, self.scopes, self.opcode = p, scopes, opcode
        method(parts[1:], *operands)

    def result(self, text, kind, expression):
        self.write(text, kind, expression, self.scopes, self.p)

    def get(self, text, kind):
        return self.read(text, kind, self.scopes)

    def array(self, text, kind):
        """As `get`, but an array in any case."""
        out = self.get(text, kind)
        return out if self.register(text.lstrip("!"), self.scopes) else f"E.full(a, {out})"

    def flags(self, parts, *allowed):
        """The type; every other part must be allowed."""
        kind = parts[-1]
        for part in parts[:-1]:
            if part not in allowed:
                raise Unknown(self.opcode)
        return kind
