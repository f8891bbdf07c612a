"""What moves, conversions, accesses to memory and instructions of whole warps become in Python."""

import re

from .types import SIZES, Unknown

_SPECIAL = {
    "%tid.x": "E.of(E.tid, a)",
    "%ctaid.x": "E.of(E.ctaid, a)",
    "%ntid.x": "E.full(a, U32(E.block))",
    "%laneid": "(E.of(E.tid, a) % U32(32))",
    "%warpid": "(E.of(E.tid, a) // U32(32))",
}
# Parts of an opcode that change how memory is cached, and nothing here.
_CACHING = (
    *("nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt"),
    *("relaxed", "weak", "volatile", "gpu", "cta", "sys", "L1", "L2"),
)
_ROUNDINGS = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}


class Moves:
    """A part of `emitter.Emitter`: a method for each opcode, given its other parts and operands."""

    def op_mov(self, parts, d, a):
        kind = self.flags(parts)
        if a in _SPECIAL:
            self.result(d, "u32", _SPECIAL[a])
        elif a.startswith("%") and self.register(a, self.scopes) is None:
            raise Unknown(f"{self.opcode} {a}")
        elif d.startswith("{"):
            names = self.vector(d)
            size = SIZES[kind] // len(names)
            value = self.array(a, f"b{8 * SIZES[kind]}")
            for i, name in enumerate(names):
                if name != "_":
                    # all parts before any register is written: a source may be among them
                    part = f"{value} >> U{8 * SIZES[kind]}({8 * size * i})"
                    self.lines.append(f"t{i}_ = ({part}).astype(U{8 * size})")
            for i, name in enumerate(names):
                if name != "_":
                    self.result(name, f"b{8 * size}", f"t{i}_")
        elif a.startswith("{"):
            names, bits = self.vector(a), 8 * SIZES[kind]
            each = bits // len(names)
            terms = [
                f"({self.array(v, f'b{each}')}.astype(U{bits}) << U{bits}({each * i}))"
                for i, v in enumerate(names)
            ]
            self.result(d, f"b{bits}", " | ".join(terms))
        elif kind == "pred":
            self.result(d, kind, self.array(a, kind))
        else:
            self.result(d, f"b{8 * SIZES[kind]}", self.array(a, f"b{8 * SIZES[kind]}"))

    def op_cvta(self, parts, d, a):
        if parts != ["to", "global", "u64"]:
            raise Unknown(self.opcode)
        self.result(d, "b64", self.array(a, "b64"))

    def op_cvt(self, parts, d, *sources):
        to, of = parts[-2:]
        how = parts[:-2]
        if to in ("bf16x2", "f16x2"):
            if how != ["rn"] or of != "f32" or len(sources) != 2:
                raise Unknown(self.opcode)
            halves = []
            for text in sources:
                x = self.array(text, "f32")
                halves.append(f"to_bf16({x})" if to == "bf16x2" else f"{x}.astype(F16).view(U16)")
            self.result(d, "b32", f"(({halves[0]}.astype(U32) << U32(16)) | {halves[1]})")
            return
        [a] = sources
        if of == "bf16":
            x = f"of_bf16({self.array(a, 'b16')})"
            if to != "f32" or how:
                raise Unknown(self.opcode)
            self.result(d, "f32", x)
            return
        x = self.array(a, of)
        if to == "bf16":
            if how != ["rn"] or of != "f32":
                raise Unknown(self.opcode)
            self.result(d, "b16", f"to_bf16({x})")
            return
        for part in how:
            if part not in ("rn", "rzi", "rni", "rmi", "rpi", "ftz", "sat"):
                raise Unknown(self.opcode)
        if "sat" in how:
            raise Unknown(self.opcode)
        if of == "f32" and "ftz" in how:
            x = f"flush({x})"
        integer = next((h for h in how if h.endswith("i")), None)
        letter = {"u": "U", "s": "I", "f": "F"}
        if to[0] == "f" and of[0] == "f":
            if integer:
                x = f"np.{_ROUNDINGS[integer]}({x})"
            out = f"{x}.astype(F{to[1:]})"
            if to == "f32" and "ftz" in how:
                out = f"flush({out})"
        elif to[0] == "f":
            out = f"{x}.astype(F{to[1:]})"
        elif of[0] == "f":
            out = f"to_integer({x}, {letter[to[0]]}{to[1:]}, '{integer}')"
        else:
            out = f"{x}.astype({letter[to[0]]}{to[1:]})"
        self.result(d, to, out)

    def memory(self, parts):
        """(space, type, elements) of an access."""
        space = next((s for s in parts if s in ("param", "global", "shared", "local")), None)
        count = 1
        for part in parts[:-1]:
            if part in ("v2", "v4", "v8"):
                count = int(part[1])
            elif not (part in (space, *_CACHING) or part.startswith(("evict", "no_alloc"))):
                raise Unknown(self.opcode)
        return space, parts[-1], count

    def op_ld(self, parts, d, source):
        space, kind, count = self.memory(parts)
        size = SIZES[kind]
        if space == "param":
            name, offset = re.fullmatch(r"\[\s*([\w$]+)(?:\+(\d+))?\s*\]", source).groups()
            out = f"E.parameter({self.kernel.parameters[name]}, {int(offset or 0)}, U{8 * size}, a)"
            self.result(d, f"b{8 * size}", out)
            return
        if space == "global":
            where, call = self.address(source, "u64", self.scopes), "load"
        elif space == "shared":
            where, call = self.address(source, "u32", self.scopes), "load_shared"
        else:
            raise Unknown(self.opcode)
        self.lines.append(f"t_ = E.{call}({where}, {size}, {count}, {self.p}, a)")
        for i, name in enumerate(self.vector(d)):
            raw = f"t_[{i}]"
            if kind[0] == "s":
                self.result(name, kind, f"{raw}.view(I{8 * size})")
            else:
                self.result(name, f"b{8 * size}", raw)

    def op_st(self, parts, target, source):
        space, kind, _ = self.memory(parts)
        values = ", ".join(self.array(v, f"b{8 * SIZES[kind]}") for v in self.vector(source))
        if space == "global":
            where, call = self.address(target, "u64", self.scopes), "store"
        elif space == "shared":
            where, call = self.address(target, "u32", self.scopes), "store_shared"
        else:
            raise Unknown(self.opcode)
        self.lines.append(f"E.{call}({where}, [{values}], {self.p}, a)")

    def op_shfl(self, parts, d, value, b, c, mask):
        if parts[0] != "sync" or parts[-1] != "b32" or self.p:
            raise Unknown(self.opcode)
        names = d.split("|")
        x = self.array(value, "b32")
        rest = ", ".join(self.get(v, "b32") for v in (b, c, mask))
        self.lines.append(f"t_, u_ = E.shuffle('{parts[1]}', {x}, {rest}, a)")
        self.result(names[0].strip(), "b32", "t_")
        if len(names) == 2:
            self.result(names[1].strip(), "pred", "u_")

    def op_redux(self, parts, d, value, mask):
        if parts[0] != "sync" or len(parts) != 3 or self.p:
            raise Unknown(self.opcode)
        kind = parts[2]
        out = f"E.reduce_warp('{parts[1]}', {self.array(value, kind)}, {self.get(mask, 'b32')}, a)"
        self.result(d, kind, out)

    def matrix(self, parts):
        """Whether the matrices are transposed."""
        if parts[:3] != ["sync", "aligned", "m8n8"] or parts[-2:] != ["shared", "b16"] or self.p:
            raise Unknown(self.opcode)
        return "trans" in parts

    def op_ldmatrix(self, parts, d, source):
        transposed, names = self.matrix(parts), self.vector(d)
        where = self.address(source, "u32", self.scopes)
        self.lines.append(f"t_ = E.load_matrix({where}, {len(names)}, {transposed}, a)")
        for i, name in enumerate(names):
            self.result(name, "b32", f"t_[{i}]")

    def op_stmatrix(self, parts, target, source):
        transposed = self.matrix(parts)
        where = self.address(target, "u32", self.scopes)
        values = ", ".join(self.array(v, "b32") for v in self.vector(source))
        self.lines.append(f"E.store_matrix({where}, [{values}], {transposed}, a)")

    def op_bar(self, parts, *operands):
        if parts != ["warp", "sync"] or operands not in (("-1",), ("0xffffffff",)) or self.p:
            raise Unknown(self.opcode)
        self.lines.append("E.sync_warps(a)")
