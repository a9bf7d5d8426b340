"""The tables of every config key, made from the schema; `docs.tables` puts them into docs/config.md."""

from __future__ import annotations

from typing import Any

from vpvae_jax.config import keys, quantizer_section, schema
from vpvae_jax.config.quantizer_section import argument_docs
from vpvae_jax.quantizers import QUANTIZERS, paper

_CODEBOOK_SIZE = 1024  # of the quantizers' defaults that are shown


def config_keys() -> str:
    """Tables of every config key, as Markdown."""
    sections = {
        name: quantizer_section.make(name, paper.settings(factory, _CODEBOOK_SIZE))
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
        parts.append(_keys_table(f"`quantizer={name}`, K = {_CODEBOOK_SIZE}", quantizer_rows))
    return "\n".join(parts)


def _row(key: str, holder: Any, name: str) -> list[str]:

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
