"""What the source of a function says, as a short digest.

An integration replaces functions that were read when it was written. That a function is still the
one that was read is seen by its source: another formula, argument or default is another digest.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

# What a formatter or a type checker asks for says nothing about what is computed; nor does the
# context of a name, which follows from where it stands.
_SILENT = {"annotation", "returns", "type_comment", "type_params", "ctx", "kind"}


def parameter_names(function: Callable[..., Any]) -> str:
    """The names of a function's parameters, as its ``def`` line has them."""
    try:
        return ", ".join(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return "unknown"


def digest(*functions: Callable[..., Any]) -> str | None:
    """12 hex digits for the sources of functions; None where one has no source to read.

    Comments, docstrings, annotations and formatting do not count, and the same source has the same
    digest under every version of Python. A decorated function counts with its decorator's wrapper.
    """
    found = hashlib.sha256()
    for function in functions:
        for code in _codes(function):
            said = _said_by(code, getattr(code, "co_filename", ""))
            if said is None:
                return None
            found.update(said)
    return found.hexdigest()[:12]


@functools.cache
def _said_by(code: CodeType, file: str) -> bytes | None:
    """The same code in another file is equal, although its defaults may be others."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, SyntaxError, TypeError):
        return None
    return repr(_said(tree)).encode()


def _codes(function: Any) -> Iterator[CodeType]:
    """The code of a function, and of what it wraps."""
    while function is not None:
        yield getattr(function, "__code__", None)  # type: ignore[misc]  # None has no source
        function = getattr(function, "__wrapped__", None)


def _said(part: Any) -> Any:
    """A tree of syntax as tuples. ``ast.dump`` differs between versions of Python."""
    if isinstance(part, list):
        return [_said(each) for each in part]
    if not isinstance(part, ast.AST):
        return part
    fields = dict(ast.iter_fields(part))
    if isinstance(
        part, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    ) and ast.get_docstring(part, clean=False):
        fields["body"] = fields["body"][1:]
    said = {name: _said(value) for name, value in fields.items() if name not in _SILENT}
    # Fields that hold nothing came and went.
    return type(part).__name__, [(n, v) for n, v in said.items() if v is not None and v != []]
