"""Which kernels and which of their variants the cases launch.

A kernel that is launched is a function of the backend whose `triton.jit` is told what not to
specialize on. It is found in the source; what a case launches is noted in place of launching it.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import fused_reparam.backends
from tests.ptx.case import DTYPES
from tests.ptx.kernel_cases import cases

BACKEND = Path(fused_reparam.backends.__file__).parent / "triton"


class Kernel(NamedTuple):
    """What the source says. Parameters by kind; `unspecialized`: as `triton.jit` is told."""

    pointers: tuple[str, ...]
    numbers: dict[str, str]  # -> annotation
    constants: tuple[str, ...]
    unspecialized: tuple[str, ...]


@cache
def kernels() -> dict[str, Kernel]:
    """By module and name."""
    found = {}
    for path in sorted(BACKEND.glob("kernels/*.py")):
        for function in ast.parse(path.read_text()).body:
            if isinstance(function, ast.FunctionDef):
                for decorator in function.decorator_list:
                    if (
                        isinstance(decorator, ast.Call)
                        and ast.unparse(decorator.func) == "triton.jit"
                    ):
                        found[f"{path.stem}.{function.name}"] = _kernel(function, decorator)
    return found


def _kernel(function: ast.FunctionDef, decorator: ast.Call) -> Kernel:
    pointers, numbers, constants = [], {}, []
    for argument in function.args.args:
        annotation = argument.annotation
        if annotation is None:
            pointers.append(argument.arg)
        elif isinstance(annotation, ast.Constant):
            numbers[argument.arg] = annotation.value
        else:
            constants.append(argument.arg)
    [words] = decorator.keywords
    assert words.arg == "do_not_specialize", "another option of triton.jit: see to it here"
    return Kernel(
        tuple(pointers), numbers, tuple(constants), tuple(ast.literal_eval(words.value))
    )  # fmt: skip


# What a kernel is told of its family, as `triton.elementwise.functions` has it but for the first.
_FORMULAS = (
    "BASE", "PREPARE", "SAMPLE", "TERM_OF", "GRADIENTS", "TERM_GRADIENTS", "ZEROS", "FINISH"
)  # fmt: skip


class Record:
    """Of each kernel, the constants of every variant that was launched, and by their names whether
    its pointers were given.
    """

    def __init__(self) -> None:
        self.variants: dict[str, list[dict]] = defaultdict(list)

    def note(self, variant, pointers) -> None:
        function = variant.kernel.fn
        name = f"{function.__module__.split('.')[-1]}.{function.__name__}"
        about = kernels()[name]
        values = dict(zip(about.constants, variant.constexprs, strict=True))
        given = (pointer is not None for pointer in pointers)
        values |= dict(zip(about.pointers, given, strict=True))
        values["FORMULAS"] = tuple(values[one] for one in _FORMULAS if one in values)
        self.variants[name].append(values)


@contextmanager
def recording():
    """A record of the launches, which are not made: outputs stay as they were allocated."""
    import fused_reparam.backends.triton as backend
    from fused_reparam.backends.triton import launch

    record = Record()

    with (
        mock.patch.object(
            launch.Variant, "launch", lambda variant, pointers, _: record.note(variant, pointers)
        ),
        mock.patch.object(backend, "unavailable_reason", return_value=None),
    ):
        yield record


Feature = tuple[str, str, object]  # kernel, constant, value


@cache
def features() -> dict[tuple[str, str], frozenset[Feature]]:
    """Of each case in each dtype: what its launches in that dtype have."""
    found = {}
    for dtype_name, dtype in DTYPES.items():
        for name, case in cases().items():
            with recording() as record:
                case.computed(dtype, case.inputs(dtype))
            found[name, dtype_name] = frozenset(
                (kernel, constant, value)
                for kernel, variants in record.variants.items()
                for values in variants
                if values.get("VEC") in (None, 16 // dtype.itemsize)
                for constant, value in values.items()
            )
    return found


_NO_MATTER_OF_TILES = ("KIND", "MODE", "EACH", "MIXED", "LAYOUT", "FORM", "CLAMP", "WHOLE")
_OF_FAMILIES = ("FORMULAS", "BASE", *_FORMULAS)
# In which a family's formula is computed; the others are widened before and narrowed behind it.
ARITHMETIC = ("float32", "float64")


@cache
def chosen() -> list[tuple[str, str]]:
    """The cases to execute, with their dtypes: float32 in all of them, another dtype in those that
    must be, and in as many more as it takes to have every feature that any of them has. float16 is
    cut into tiles as bfloat16 is, and float64, which takes a compiler longest, as float32 with half
    the elements: theirs need only be what is no matter of tiles. In half precision a family's
    formula is float32's, and need not be executed again.
    """
    made = []
    for dtype in DTYPES:
        own = {name: features()[name, dtype] for name in cases()}
        picked = [name for name, case in cases().items() if dtype == "float32" or case.every_dtype]
        left = set().union(*own.values()).difference(*(own[name] for name in picked))
        if dtype not in ARITHMETIC:
            left = {f for f in left if f[1] not in _OF_FAMILIES}
        if dtype in ("float16", "float64"):
            left = {f for f in left if f[1] in (*_NO_MATTER_OF_TILES, *_OF_FAMILIES)}
        while left:
            best = max(own, key=lambda name: len(own[name] & left))
            picked.append(best)
            left -= own[best]
        made += [(name, dtype) for name in cases() if name in picked]
    return made
