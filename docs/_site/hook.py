"""MkDocs hook: the pages that are made rather than written.

CHANGELOG and CONTRIBUTING are shown from the root, notebooks become pages, families get theirs, and
links to files outside of docs lead to copies of them on the site.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import families

ROOT = Path(__file__).parents[2]
FROM_ROOT = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
OUTSIDE = re.compile(r"\]\(\.\./((?:fused_reparam|bench|tests|examples|kernels)[^)#]*)\)")


def on_config(config: Any) -> Any:
    """Each family's page stands below that of all."""
    [api] = (part["API"] for part in config.nav if "API" in part)
    [place] = (index for index, part in enumerate(api) if "Families" in part)
    every = families.rows(families.PAGE.read_text())
    links = [{row.heading: f"api/families/{row.name}.md"} for row in every]
    api[place] = {"Families": ["families.md", *links]}
    return config


def on_files(files: Files, config: Any) -> Files:
    def add(path: str, content: str | bytes) -> None:
        if found := files.get_file_from_path(path):
            files.remove(found)
        files.append(File.generated(config, path, content=content))

    for path, source in FROM_ROOT.items():
        add(path, (ROOT / source).read_text().replace("](docs/", "]("))
    for notebook in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        name = f"notebooks/{notebook.stem}"
        text, pictures = from_notebook(json.loads(notebook.read_text()), notebook.stem)
        add(f"{name}.md", text)
        for picture, content in pictures.items():
            add(f"notebooks/{picture}", content)
    for path, content in families.pages():
        add(path, content)
    for page in sorted((ROOT / "docs").glob("*.md")):
        for target in OUTSIDE.findall(page.read_text()):
            found = ROOT / target
            if found.is_file():
                add(f"repository/{shown(target)}", found.read_bytes())
            elif found.is_dir():
                listed = "\n".join(sorted(one.name for one in found.iterdir())) + "\n"
                add(f"repository/{target.rstrip('/')}.txt", listed)
            # What is neither is left for the build to complain about.
    return files


def shown(target: str) -> str:
    """The name of a copied file; a browser shows text where it would download a script."""
    return target + ".txt" if target.endswith((".py", ".cpp", ".h")) else target


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    def place(match: re.Match[str]) -> str:
        target = match[1]
        if (ROOT / target).is_dir():
            return f"](repository/{target.rstrip('/')}.txt)"
        return f"](repository/{shown(target)})"

    if page.file.src_path == "families.md":
        markdown = families.with_links(markdown)
        page.meta["hide"] = ["toc"]  # for a table that needs the room
    return OUTSIDE.sub(place, markdown).replace(".ipynb)", ".md)")


def from_notebook(notebook: dict[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a notebook with its stored outputs, and its pictures."""
    parts, pictures = [], {}
    for index, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{stem}_{index}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![What the code above draws]({name})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))):
                parts.append(f"```text\n{text.rstrip()}\n```")
    parts.append(
        f"*This page is the notebook `docs/notebooks/{stem}.ipynb`, which the tests execute.*"
    )
    return "\n\n".join(parts) + "\n", pictures
