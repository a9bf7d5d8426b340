"""Read the collectives of a compiled program, the exchanges between its devices, from its HLO."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import jax

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8}
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
_INSTRUCTION = re.compile(rf"= (?P<shapes>.*?) (?P<kind>{_KINDS})(?:-start)?\(")
_SHAPE = re.compile(r"(?P<type>[a-z]+\d*)\[(?P<sizes>[\d,]*)\]")
_SOURCE = re.compile(r'op_name="([^"]*)"')


class Collective(NamedTuple):
    """One exchange of data."""

    kind: str  # "all-reduce", ...
    num_bytes: int  # of what a device has afterwards
    shapes: tuple[str, ...]  # such as "f32[1024,5]"
    source: str  # JAX's name of its operation


def collectives(hlo: str) -> list[Collective]:
    """Return the collectives in the text of a compiled program, `Compiled.as_text()`; those in a loop count once."""
    found = []
    for line in hlo.splitlines():
        instruction = _INSTRUCTION.search(line)
        if instruction is None:
            continue
        shapes = [(m["type"], m["sizes"]) for m in _SHAPE.finditer(instruction["shapes"])]
        if f"{instruction['kind']}-start(" in line and len(shapes) > 1:
            shapes = shapes[len(shapes) // 2 :]  # an asynchronous one lists its operands, then its results
        num_bytes = sum(_BYTES[kind] * math.prod(int(n) for n in sizes.split(",") if n) for kind, sizes in shapes)
        source = _SOURCE.search(line)
        found.append(
            Collective(
                instruction["kind"],
                num_bytes,
                tuple(f"{kind}[{sizes}]" for kind, sizes in shapes),
                source[1] if source else "",
            )
        )
    return found


@contextlib.contextmanager
def search_in_xla() -> Iterator[None]:
    """Trace programs with the search of GPUs and TPUs, not with the tree of the host, on CPU too."""

    def default(*arguments, cpu, default):
        del cpu
        return default(*arguments)

    jax.clear_caches()  # of functions traced before
    try:
        with mock.patch.object(jax.lax, "platform_dependent", default):
            yield
    finally:
        jax.clear_caches()
