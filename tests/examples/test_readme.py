"""The README and docs: their code runs, their links lead somewhere."""

import re

import pytest

import fused_reparam as fr
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
    assert line.replace("|  |", "| |") in (ROOT / "docs/families.md").read_text()


def test_the_table_of_families_names_each_function_that_samples_or_scores():
    """In backticks and in its row; the rest of `functional` are divergences to other laws."""
    table = (ROOT / "docs/families.md").read_text().split("```python")[0]
    missing = {name for name in fr.functional.__all__ if f"`{name}`" not in table}
    assert missing == {"kumaraswamy_kl"}


def test_readme_is_a_page_of_less_than_150_lines_and_says_what_it_must():
    lines = PAGES[0].read_text().splitlines()
    assert len(lines) < 150
    text = " ".join(lines)
    for words in ("make demo", "make test", "pip install", "reduction=", "fused_reparam.sampling(",
                  "python -m fused_reparam info", "selftest", "MIT", "not yet timed",
                  "docs/families.md", "docs/modules.md", "docs/migrate.md", "docs/noise.md",
                  "docs/performance.md", "docs/architecture.md", "CONTRIBUTING.md", "CHANGELOG.md",
                  "SECURITY.md", "A bug:"):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text()):
        assert (page.parent / target).exists(), target
