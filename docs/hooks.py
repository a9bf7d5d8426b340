"""What mkdocs does beyond Markdown: files of the repository that pages link to, notebooks as pages, the config keys."""

from __future__ import annotations

import json
import os
import pathlib
import re
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(\]\()([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each notebook."""
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        uri = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, uri, content=notebook_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Bring linked files of the repository into the site."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def link(match: re.Match[str]) -> str:
        start, target = match.groups()
        path = pathlib.Path(os.path.normpath(folder / target))
        if path.suffix == ".ipynb" and "notebooks/" in target:
            return start + target.removesuffix("ipynb") + "md"  # the page made from it
        if ":" in target or not path.is_file() or not path.is_relative_to(ROOT) or path.is_relative_to(ROOT / "docs"):
            return match[0]
        uri = f"files/{path.relative_to(ROOT).as_posix()}"
        if uri.endswith((".md", ".py", ".sh", ".yaml")):
            uri += ".txt"  # shown as it is: not a page, not a program
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(path)))
        return start + os.path.relpath(uri, pathlib.PurePosixPath(page.file.src_uri).parent)

    return _LINK.sub(link, markdown)


def notebook_page(path: pathlib.Path) -> str:
    """A notebook without outputs as Markdown."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    title, *rest = parts
    return "\n\n".join([title, f"[This notebook]({path.name}), to run.", *rest]) + "\n"
