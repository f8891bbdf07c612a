"""What instructions on bits, comparisons and selections become in Python."""

from .types import SIGNED, SIZES, UNSIGNED, Unknown

COMPARISONS = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "lo": "<", "ls": "<=", "hi": ">", "hs": ">=",
}  # fmt: skip
_COMBINATIONS = {"and": "&", "or": "|", "xor": "^"}


class Bits:
    """A part of `emitter.Emitter`: a method for each opcode, given its other parts and operands."""

    def bitwise(self, parts, d, a, b, sign):
        kind = self.flags(parts)
        self.result(d, kind, f"({self.get(a, kind)} {sign} {self.get(b, kind)})")

    def op_and(self, parts, d, a, b):
        self.bitwise(parts, d, a, b, "&")

    def op_or(self, parts, d, a, b):
        self.bitwise(parts, d, a, b, "|")

    def op_xor(self, parts, d, a, b):
        self.bitwise(parts, d, a, b, "^")

    def op_not(self, parts, d, a):
        kind = self.flags(parts)
        self.result(d, kind, f"(~{self.get(a, kind)})")

    def shift(self, parts, d, a, b, sign):
        kind = self.flags(parts)
        letter, bits = ("I" if kind[0] == "s" else "U"), 8 * SIZES[kind]
        amount = f"np.minimum({self.get(b, 'u32')}, U32({bits})).astype({letter}{bits})"
        if self.register(b, self.scopes) is None:
            count = min(int(b, 0), bits)
            amount = self.constant((SIGNED if letter == "I" else UNSIGNED)[bits // 8](count))
        self.result(d, kind, f"({self.array(a, kind)} {sign} {amount})")

    def op_shl(self, parts, d, a, b):
        self.shift(parts, d, a, b, "<<")

    def op_shr(self, parts, d, a, b):
        self.shift(parts, d, a, b, ">>")

    def op_shf(self, parts, d, a, b, c):
        way, mode, kind = parts
        if kind != "b32":
            raise Unknown(self.opcode)
        n = self.array(c, "u32")
        n = f"({n} & U32(31))" if mode == "wrap" else f"np.minimum({n}, U32(32))"
        n += ".astype(U64)"
        both = f"(({self.array(b, 'b32')}.astype(U64) << U64(32)) | {self.array(a, 'b32')})"
        out = f"({both} >> {n})" if way == "r" else f"(({both} << {n}) >> U64(32))"
        self.result(d, kind, f"{out}.astype(U32)")

    def op_bfe(self, parts, d, a, b, c):
        kind = self.flags(parts)
        raw = "u" + kind[1:]
        x, first, count = self.array(a, raw), self.get(b, "u32"), self.get(c, "u32")
        self.result(d, raw, f"extract({x}, {first}, {count}, {kind[0] == 's'})")

    def op_prmt(self, parts, d, a, b, c):
        self.flags(parts)
        self.result(d, "b32", f"permute({', '.join(self.array(v, 'b32') for v in (a, b, c))})")

    def op_lop3(self, parts, d, a, b, c, table):
        self.flags(parts)
        x = ", ".join(self.array(v, "b32") for v in (a, b, c))
        self.result(d, "b32", f"logic3({x}, {int(table, 0)})")

    def op_popc(self, parts, d, a):
        self.result(d, "b32", f"np.bitwise_count({self.array(a, parts[-1])}).astype(U32)")

    def op_setp(self, parts, d, a, b, c=None):
        compare, *middle, kind = parts
        if kind == "f16x2":
            self.compare_halves(compare, middle, d, a, b)
            return
        if any(m not in (*_COMBINATIONS, "ftz") for m in middle) or "|" in d:
            raise Unknown(self.opcode)
        if kind == "bf16":
            x, y = (f"of_bf16({self.array(v, 'b16')})" for v in (a, b))
        else:
            x, y = self.array(a, kind), self.get(b, kind)
        if kind[0] == "f" or kind == "bf16":
            if "ftz" in middle:
                x, y = f"flush({x})", f"flush({y})"
            out = self.compare_numbers(compare, x, y)
        else:
            out = f"({x} {COMPARISONS[compare]} {y})"
        for sign in middle:
            if sign in _COMBINATIONS:
                out = f"({out} {_COMBINATIONS[sign]} {self.get(c, 'pred')})"
        self.result(d, "pred", out)

    def compare_numbers(self, compare, x, y):
        """NaN compares as false, but by the comparisons that end in u ("unordered")."""
        unordered = f"(np.isnan({x}) | np.isnan({y}))"
        if compare == "nan":
            return unordered
        if compare == "num":
            return f"(~{unordered})"
        if compare == "ne":
            return f"(({x} != {y}) & ~{unordered})"
        if compare in ("equ", "neu", "ltu", "leu", "gtu", "geu"):
            return f"(({x} {COMPARISONS[compare[:2]]} {y}) | {unordered})"
        return f"({x} {COMPARISONS[compare]} {y})"

    def compare_halves(self, compare, middle, d, a, b):
        """Two predicates, separated by a bar, from two float16 in a register."""
        if middle:
            raise Unknown(self.opcode)
        x, y = self.array(a, "b32"), self.array(b, "b32")
        names = [name.strip() for name in d.split("|")]
        for i in range(len(names)):
            one, two = (f"({v} >> U32({16 * i})).astype(U16).view(F16)" for v in (x, y))
            self.lines.append(f"t{i}_ = {self.compare_numbers(compare, one, two)}")
        for i, name in enumerate(names):
            self.result(name, "pred", f"t{i}_")

    def op_selp(self, parts, d, a, b, c):
        raw = f"b{8 * SIZES[self.flags(parts)]}"
        x, y = self.get(a, raw), self.get(b, raw)
        self.result(d, raw, f"where({self.get(c, 'pred')}, {x}, {y})")
