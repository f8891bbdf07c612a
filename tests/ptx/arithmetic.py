"""What each arithmetic instruction becomes in Python."""

from .types import SIZES, Unknown

# The sign bits of types that numpy lacks, or that are two numbers in one.
_SIGNS = {"bf16": 0x8000, "f16x2": 0x80008000, "bf16x2": 0x80008000}


class Arithmetic:
    """A part of `emitter.Emitter`: a method for each opcode, given its other parts and operands."""

    def arithmetic(self, parts, d, a, b, sign):
        kind = self.flags(parts, "rn", "ftz")
        if kind in ("f32", "f64"):
            x, y = self.get(a, kind), self.get(b, kind)
            if "ftz" in parts:
                x, y = f"flush({x})", f"flush({y})"
            out = f"({x} {sign} {y})"
            if "ftz" in parts:
                out = f"flush({out})"
        elif kind[0] in "us":
            kind = "u" + kind[1:]
            out = f"({self.get(a, kind)} {sign} {self.get(b, kind)})"
        else:
            raise Unknown(self.opcode)
        self.result(d, kind, out)

    def op_add(self, parts, d, a, b):
        self.arithmetic(parts, d, a, b, "+")

    def op_sub(self, parts, d, a, b):
        self.arithmetic(parts, d, a, b, "-")

    def product(self, parts, a, b):
        """(type of the result, expression) of an integer product."""
        kind = parts[-1]
        if parts[0] == "lo":
            kind = "u" + kind[1:]
            return kind, f"({self.get(a, kind)} * {self.get(b, kind)})"
        if parts[0] == "hi":
            return kind, f"high_product({self.get(a, kind)}, {self.get(b, kind)})"
        if parts[0] != "wide":
            raise Unknown(self.opcode)
        bits = 16 * SIZES[kind]
        letter = "I" if kind[0] == "s" else "U"
        x, y = (f"{self.get(v, kind)}.astype({letter}{bits})" for v in (a, b))
        return f"{kind[0]}{bits}", f"({x} * {y})"

    def op_mul(self, parts, d, a, b):
        if parts[-1][0] == "f":
            self.arithmetic(parts, d, a, b, "*")
        else:
            self.result(d, *self.product(parts, a, b))

    def op_mad(self, parts, d, a, b, c):
        if parts[-1][0] == "f":
            self.op_fma(parts, d, a, b, c)
            return
        kind, out = self.product(parts, a, b)
        if kind[0] == "s":
            out, kind = f"({out}).view(U{kind[1:]})", "u" + kind[1:]
        self.result(d, kind, f"({out} + {self.get(c, kind)})")

    def op_fma(self, parts, d, a, b, c):
        kind = self.flags(parts, "rn", "ftz")
        x = [self.get(v, kind) for v in (a, b, c)]
        if kind == "f64":
            self.result(d, kind, f"fma64({', '.join(x)})")
            return
        if kind != "f32":
            raise Unknown(self.opcode)
        if "ftz" in parts:
            x = [f"flush({v})" for v in x]
        out = f"fma32({', '.join(x)})"
        self.result(d, kind, f"flush({out})" if "ftz" in parts else out)

    def op_div(self, parts, d, a, b):
        kind = parts[-1]
        x, y = self.array(a, kind), self.array(b, kind)
        if kind == "f32" and ("full" in parts or "approx" in parts):
            out = f"divide_full({x}, {y}, {'ftz' in parts})"
        elif kind[0] == "f":
            self.flags(parts, "rn")
            out = f"({x} / {y})"
        else:
            out = f"quotient({x}, {y})"
        self.result(d, kind, out)

    def op_rem(self, parts, d, a, b):
        kind = self.flags(parts)
        self.result(d, kind, f"remainder({self.array(a, kind)}, {self.array(b, kind)})")

    def extreme(self, parts, d, a, b, name):
        kind = self.flags(parts, "NaN", "ftz")
        x, y = self.array(a, kind), self.array(b, kind)
        if kind in ("f32", "f64", "f16"):
            if "ftz" in parts:
                x, y = f"flush({x})", f"flush({y})"
            out = f"{name}({x}, {y}, F{8 * SIZES[kind]}, {'NaN' in parts})"
        elif kind[0] in "us":
            out = f"np.{name}({x}, {y})"
        else:
            raise Unknown(self.opcode)
        self.result(d, kind, out)

    def op_min(self, parts, d, a, b):
        self.extreme(parts, d, a, b, "minimum")

    def op_max(self, parts, d, a, b):
        self.extreme(parts, d, a, b, "maximum")

    def op_abs(self, parts, d, a):
        kind = self.flags(parts, "ftz")
        if kind in _SIGNS:
            self.sign_bits(kind, d, a, "& ~")
            return
        x = self.get(a, kind)
        self.result(d, kind, f"np.abs({'flush(' + x + ')' if 'ftz' in parts else x})")

    def op_neg(self, parts, d, a):
        kind = self.flags(parts, "ftz")
        if kind in _SIGNS:
            self.sign_bits(kind, d, a, "^ ")
            return
        x = self.get(a, kind)
        self.result(d, kind, f"(-{'flush(' + x + ')' if 'ftz' in parts else x})")

    def sign_bits(self, kind, d, a, how):
        raw = f"b{8 * SIZES[kind]}"
        self.result(d, raw, f"({self.get(a, raw)} {how}U{raw[1:]}({_SIGNS[kind]}))")

    def unary(self, name, parts, d, a):
        kind = parts[-1]
        x = self.array(a, kind)
        if "approx" in parts and kind == "f32":
            self.flags(parts, "approx", "ftz")
            out = f"approximate('{name}', {x}, {'ftz' in parts})"
        elif "approx" in parts and kind == "f64":
            out = f"gross64('{name}', {x})"
        elif name == "sqrt" and "rn" in parts:
            self.flags(parts, "rn")
            out = f"np.sqrt({x})"
        elif name == "rcp" and "rn" in parts:
            self.flags(parts, "rn")
            out = f"(F{8 * SIZES[kind]}(1) / {x})"
        else:
            raise Unknown(self.opcode)
        self.result(d, kind, out)


def _unary(name):
    return lambda self, parts, d, a: self.unary(name, parts, d, a)


for _name in ("ex2", "lg2", "sqrt", "rsqrt", "rcp", "sin", "cos", "tanh"):
    setattr(Arithmetic, f"op_{_name}", _unary(_name))
