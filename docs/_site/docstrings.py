"""Reads the docstrings' reStructuredText roles and formulas as Markdown: links and MathML."""

from __future__ import annotations

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

import fused_reparam as fr

_ROLE = re.compile(r":(?:func|class|meth|attr|mod):`~?([\w.]+)`")
_INLINE = re.compile(r":math:`([^`]+)`")
_BLOCK = re.compile(r"^\.\. math::\n((?:[ \t]+\S.*\n?|[ \t]*\n)+)", re.MULTILINE)


class Docstrings(griffe.Extension):
    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if getattr(obj, "is_alias", False) or obj.docstring is None:
            return
        obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    text = _BLOCK.sub(_formula, text)
    text = _INLINE.sub(lambda found: convert(found[1]), text)
    return _ROLE.sub(_link, text).replace(r"\*", "*").replace(r"\|", "|")


def _formula(found: re.Match[str]) -> str:
    """Formulas of a block, each set off from the others by an empty line."""
    parts = re.split(r"\n[ \t]*\n", found[1].strip())
    made = (convert(re.sub(r"\s+", " ", part), display="block") for part in parts)
    return "\n\n".join(f"<div>{one}</div>" for one in made) + "\n\n"


def _link(found: re.Match[str]) -> str:
    """A link where the name is one of this package's, else the name."""
    name = found[1].removeprefix("fused_reparam.")
    one = getattr(fr, name, None)
    if one is None or not getattr(one, "__module__", "").startswith("fused_reparam"):
        return f"`{found[1]}`"
    return f"[`{name}`][{one.__module__}.{one.__qualname__}]"
