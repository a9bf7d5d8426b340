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
_KEYS = "<!-- generated: config keys -->"


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each notebook."""
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        uri = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, uri, content=notebook_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Bring linked files of the repository into the site, and fill in the config keys."""
    if _KEYS in markdown:
        markdown = markdown.replace(_KEYS, config_keys())
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


def config_keys() -> str:
    """Tables of every config key, from the schema."""
    from vpvae_jax.config import keys, quantizer_section, schema
    from vpvae_jax.quantizers import QUANTIZERS, paper

    codebook_size = 1024
    sections = {
        name: quantizer_section.make(name, paper.settings(factory, codebook_size))
        for name, factory in QUANTIZERS.items()
    }
    rows: dict[str, dict[str, list[str]]] = {}
    for network in schema.MODALITIES:
        config = schema.new_config(network, sections["vp"])
        rows[network] = {
            key: _row(key, holder, name)
            for key, holder, name in keys.leaves(config)
            if not key.startswith("quantizer.")
        }
    first, *others = rows.values()
    shared = {key for key, row in first.items() if all(other.get(key) == row for other in others)}
    parts = [_keys_table("Every config", [row for key, row in first.items() if key in shared])]
    for network, known in rows.items():
        title = f"`model.name={network}`: {schema.MODALITIES[network].__name__.lower()}"
        parts.append(_keys_table(title, [row for key, row in known.items() if key not in shared]))
    for name, section in sections.items():
        leaves = keys.leaves(section, "quantizer.")
        quantizer_rows = [_row(key, holder, field) for key, holder, field in leaves]
        parts.append(_keys_table(f"`quantizer={name}`, K = {codebook_size}", quantizer_rows))
    return "\n".join(parts)


def _row(key: str, holder: Any, name: str) -> list[str]:
    from vpvae_jax.config import keys
    from vpvae_jax.config.quantizer_section import argument_docs

    about, default = keys.about(holder, name), getattr(holder, name)
    expected = about.bound.words if about.bound else ", ".join(f"`{choice}`" for choice in about.choices)
    unit = f" ({about.unit})" if about.unit else ""
    source = f" Source: {about.source}." if about.source else ""
    doc = about.doc or argument_docs(type(holder)).get(name, "")
    doc = " ".join(doc.split()).replace("|", "\\|")
    return [f"`{key}`", f"`{default!r}`{unit}", expected, about.affects, doc + source]


def _keys_table(title: str, rows: list[list[str]]) -> str:
    lines = [["key", "default", "expected", "affects", "meaning"], ["---"] * 5, *rows]
    return f"## {title}\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines)
