"""Reads the docstrings as Markdown: reStructuredText's roles become links, and formulas MathML."""

from __future__ import annotations

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

import fused_reparam as fr

_ROLE = re.compile(r":(?:func|class|meth|attr|mod):`~?([\w.]+)`")
_INLINE = re.compile(r":math:`([^`]+)`")
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
_FUNCTION = re.compile(r"<mi>(log|exp|tanh|cos|sin|min|max)</mi>")
_BLOCK = re.compile(r"^\.\. math::\n((?:[ \t]+\S.*\n?|[ \t]*\n)+)", re.MULTILINE)


class Docstrings(griffe.Extension):
    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if getattr(obj, "is_alias", False):
            return
        if isinstance(obj, griffe.Function):  # where names that are no arguments are explained
            kept = (one for one in obj.parameters if str(one.annotation) != "Never")
            obj.parameters = griffe.Parameters(*kept)
        if obj.docstring is None:
            return
        obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    text = _EXAMPLE.sub("Examples:", _BLOCK.sub(_formula, text))
    text = _INLINE.sub(lambda found: _mathml(found[1], "inline"), text)
    return _ROLE.sub(_link, text).replace(r"\*", "*").replace(r"\|", "|")


def first_formula(text: str) -> str:
    """The first formula that is set off in a docstring, as MathML."""
    found = _BLOCK.search(text)
    return _formula(found).strip() if found else ""


def _formula(found: re.Match[str]) -> str:
    """Formulas of a block, each set off from the others by an empty line."""
    parts = re.split(r"\n[ \t]*\n", found[1].strip())
    made = (_mathml(re.sub(r"\s+", " ", part), "block") for part in parts)
    return "\n\n".join(f"<div>{one}</div>" for one in made) + "\n\n"


def _mathml(formula: str, display: str) -> str:
    """Names of functions are operators, so that there is a space between them and an argument."""
    made = convert(re.sub(r"(?<![\w{\\])KL\b", r"\\mathrm{KL}", formula), display=display)
    return _FUNCTION.sub(r'<mo form="prefix" lspace="0.1em" rspace="0.17em">\1</mo>', made)


def _link(found: re.Match[str]) -> str:
    """A link where the name is one of this package's, else the name."""
    name = found[1].removeprefix("fused_reparam.")
    one = getattr(fr, name, None)
    if one is None or not getattr(one, "__module__", "").startswith("fused_reparam"):
        return f"`{found[1]}`"
    return f"[`{name}`][{one.__module__}.{one.__qualname__}]"
