"""The README: its code runs, its table is the committed result's, its links lead somewhere."""

import json
import re
from pathlib import Path

import pytest

from bench import markdown

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_code_runs(page):
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, str(page), "exec"), scope)


def test_the_table_is_the_committed_result():
    page = (ROOT / "README.md").read_text()
    result = re.search(r"python -m bench table (\S+\.json)", page)
    made = markdown.table(json.loads((ROOT / result.group(1)).read_text()))
    assert markdown.replace_table(page, made) == page
    assert markdown.replace_table(page, made + "x") != page


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text()):
        assert (page.parent / target).exists(), target
