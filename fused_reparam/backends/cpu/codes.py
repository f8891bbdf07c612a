"""The numbers that C++ has for names: looked up in the library, and written down nowhere else."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from ...core.dtypes import DTYPES
from ...core.scales import SCALE_KINDS
from ...families import FAMILIES, Family
from ...families.categorical import MODES
from ...rng.bases import BASES

# Their positions here are arguments of ops, so that the library must have the same.
_SAME = {"scale": SCALE_KINDS, "mode": MODES}


class FamilyCodes(NamedTuple):
    """A family's row as C++ has it (FamilyFacts in kernels/torch/elementwise.h)."""

    base: int
    transform: int
    hard: int
    term: int
    parameters: int
    constants: int
    terms: int
    base_number: int
    scaled: bool
    sampled: bool
    linear: bool
    given: bool


class Codes:
    """The codes of a loaded library: of dtypes, of base noise, and of what a family's row names."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        handle.fused_reparam_names.restype = ctypes.c_char_p
        lines = handle.fused_reparam_names().decode().splitlines()
        self._library = handle._name
        self.tables = {table: names for table, *names in map(str.split, lines)}
        for table, names in _SAME.items():
            if self.tables.get(table) != list(names):
                raise self._mismatch(table, ", ".join(names))
        self.dtypes = {
            dtype: self._code("dtype", str(dtype).removeprefix("torch.")) for dtype in DTYPES
        }
        self.bases = {name: self._code("base", name) for name in BASES}
        self.families = {name: self._of_family(row) for name, row in FAMILIES.items()}

    def _of_family(self, row: Family) -> FamilyCodes:
        return FamilyCodes(
            self.bases[row.base],
            self._code("transform", row.transform),
            self._code("transform", row.hard or row.transform),
            self._code("term", row.term) if row.term else -1,
            row.parameters,
            row.constants,
            row.terms,
            -1 if row.base_number is None else row.base_number,
            row.scaled,
            row.sampled,
            row.linear,
            row.base_parameter is None,
        )

    def _code(self, table: str, name: str) -> int:
        if name not in self.tables.get(table, ()):
            raise self._mismatch(table, name)
        return self.tables[table].index(name)

    def _mismatch(self, table: str, wanted: str) -> RuntimeError:
        found = ", ".join(self.tables.get(table, ())) or "none"
        return RuntimeError(
            f"the native library {self._library} is of other sources: of the table {table!r} this "
            f"package has {wanted}, the library {found}"
        )
