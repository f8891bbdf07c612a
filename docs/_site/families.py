"""The API's pages: every public name by its docstring, and a page for each family.

A family's page is made of its row in docs/families.md: how it is sampled, the formula of its first
function's docstring, a picture, who uses it, and links to the docstrings.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import docstrings
from family_pictures import SHOWN, picture, words

import fused_reparam as fr
from fused_reparam import distributions as D

PAGE = Path(__file__).parents[1] / "families.md"
LINE = re.compile(r"^\|(?! family |---)(.*)\|$", re.MULTILINE)


class Row(NamedTuple):
    """A row of the table of docs/families.md."""

    title: str
    sample: str
    returned: str
    functions: str
    modules: str
    users: str

    @property
    def heading(self) -> str:
        return self.title[0].upper() + self.title[1:]

    @property
    def name(self) -> str:
        """That of the family's page."""
        return re.sub(r"\W+", "_", self.title.lower())


def rows(page: str) -> list[Row]:
    """The families in their order; each has a picture, or else a page would lack."""
    found = [Row(*(cell.strip() for cell in re.split(r"(?<!\\)\|", line)))
             for line in LINE.findall(page)]  # fmt: skip
    if apart := SHOWN.keys() ^ {row.title for row in found}:
        raise ValueError(f"docs/families.md and family_pictures.py differ: {sorted(apart)}")
    return found


def with_links(page: str) -> str:
    """The table with each family's title leading to its page."""
    for row in rows(page):
        page = page.replace(
            f"\n| {row.title} |", f"\n| [{row.title}](api/families/{row.name}.md) |"
        )
    return page


def pages() -> Iterator[tuple[str, str | bytes]]:
    """Paths below docs and their contents."""
    with fr.backend("reference"):  # the specification, which needs no compiler
        for row in rows(PAGE.read_text()):
            yield f"api/families/{row.name}.md", _family(row)
            yield f"api/families/{row.name}.png", picture(row.title, SHOWN[row.title])
    functions = sorted(name for name in fr.functional.__all__)
    classes = [name for name in fr.nn.__all__ if name[0].isupper()]
    others = [name for name in fr.nn.__all__ if name[0].islower()]
    yield "api/functions.md", _listing("Functions", [*functions, *others])
    yield "api/modules.md", _listing("Modules", classes)
    ours = sorted(name for name, one in vars(D).items() if is_ours(one))
    head = "[What is fused, and what differs from PyTorch](../distributions.md)."
    yield "api/distributions.md", _listing("Distributions", ours, D, head)
    text = "# Noise and backends {#api-noise}\n\n::: fused_reparam.noise\n"
    backends = (
        fr.backend,
        fr.current_backend,
        fr.empty_cache,
        fr.memory_stats,
        fr.integrations.patch,
    )
    yield "api/noise.md", text + "".join(f"\n::: {identifier(one)}\n" for one in backends)


def is_ours(one: Any) -> bool:
    return isinstance(one, type) and one.__module__.startswith("fused_reparam.distributions")


def identifier(one: Any) -> str:
    """Where the docstring stands, which is what the site links to."""
    return f"{one.__module__}.{one.__qualname__}"


def _listing(title: str, names: list[str], module: Any = fr, head: str = "") -> str:
    parts = [
        f"# {title} {{#api-{title.lower()}}}",
        head,
        *(f"::: {identifier(getattr(module, name))}" for name in names),
    ]
    return "\n\n".join(parts) + "\n"


def _link(name: str, module: Any = fr) -> str:
    return f"[`{name}`][{identifier(getattr(module, name))}]"


def _family(row: Row) -> str:
    shown = SHOWN[row.title]
    functions, modules = (re.findall(r"`(\w+)`", cell) for cell in (row.functions, row.modules))
    sample = row.sample.replace("\\|", "|")
    parts = [f"# {row.heading}"]
    parts += [f"A sample is\n\n```text\n{sample}\n```"] if sample else []
    if row.returned:
        what = "Beside the sample" if sample else "Returned"
        parts.append(f"{what}: {row.returned}.")
    parts += [f"Used for {row.users}."]
    formula = docstrings.first_formula(inspect.getdoc(getattr(fr, functions[0])) or "")
    parts += [f"{_link(functions[0])} computes\n\n{formula}"] if formula else []
    parts += [f"![{words(shown)} of the family {row.title}]({row.name}.png)"]
    links = {
        "Functions": [_link(one) for one in functions],
        "Modules": [_link(one) for one in modules],
        "Distribution": [_link(shown.distribution, D)] if shown.distribution else [],
    }
    parts += [f"{kind}: {', '.join(found)}." for kind, found in links.items() if found]
    return "\n\n".join([*parts, "[All families](../../families.md)."]) + "\n"
