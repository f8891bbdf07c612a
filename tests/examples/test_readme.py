"""The README and docs: their code runs, their links lead somewhere."""

import re

import pytest

from fused_reparam.families import FAMILIES
from fused_reparam.integrations import protocol
from tests.helpers.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_code_runs(page):
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, str(page), "exec"), scope)
    for value in scope.values():
        if isinstance(value, protocol.Report):
            value.undo()  # or PyTorch stays patched for every test that comes after


@pytest.mark.parametrize("name", [name for name, row in FAMILIES.items() if row.law])
def test_the_table_of_families_has_each_row(name):
    row = FAMILIES[name]
    title, sample, use = row.about
    functions = f"`{name}_rsample`" + (f", `{name}_latent`" if row.terms else "")
    line = f"| {title} | {sample} | {'KL' if row.terms else ''} | {functions} | | {use} |"
    assert line.replace("|  |", "| |") in PAGES[0].read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text()):
        assert (page.parent / target).exists(), target
