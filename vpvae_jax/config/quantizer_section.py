"""The quantizer section of a config: its keys are the arguments of the factory, and nothing else lists them."""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vpvae_jax.config import keys
from vpvae_jax.quantizers import QUANTIZERS, Quantizer, paper
from vpvae_jax.runtime import settings
from vpvae_jax.runtime.errors import ConfigError
from vpvae_jax.runtime.settings import Setting

_OF_THE_FIT = ("kmeans_iterations",)  # affects the codebook; everything else changes what is trained


def from_argument(argument: str, *, codebook_size: int, tuned: Mapping[str, Mapping[str, Any]] | None = None) -> Any:
    """The section that a config file's argument asks for, with the paper's levels and dimensions for K.

    Args:
        argument: what stands behind the file's colon: `key=value` pairs between commas. `quantizer` is the method
            (default vp), `codebook_size` is K; every other key is an argument of the method, with tuples as 8x6x5.
        codebook_size: K where the argument names none.
        tuned: by method, what the config sets differently from the factory's defaults.

    Raises:
        ConfigError: a pair, method, size or key that does not exist.
    """
    given = _parse(argument)
    name = given.pop("quantizer", "vp")
    if name not in QUANTIZERS:
        raise ConfigError(f"quantizer={name}{settings.nearest(str(name), QUANTIZERS)}")
    if "levels" in given and "codebook_size" in given:
        raise ConfigError(
            "levels and codebook_size behind the config file: expected one of them, levels make the codes"
        )
    try:
        by_size = paper.settings(QUANTIZERS[name], given.pop("codebook_size", codebook_size))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return make(name, by_size | dict((tuned or {}).get(name, {})) | given)


def make(name: str, values: Mapping[str, Any]) -> Any:
    """The section of a method.

    Args:
        name: a key of `QUANTIZERS`.
        values: by key, dotted for `latent_norm.mean_weight`.

    Raises:
        ConfigError: no such method or key, a key that is lacking, or a value of another type.
    """
    if name not in QUANTIZERS:
        raise ConfigError(f"quantizer.name={name!r}{settings.nearest(str(name), QUANTIZERS)}")
    section_type = _section_type(name)
    required = [
        field.name for field in dataclasses.fields(section_type) if _is_required(field) and field.name != "name"
    ]
    if lacking := [key for key in required if key not in values]:
        raise ConfigError(f"quantizer.{lacking[0]} is lacking: {name} needs {', '.join(required)}")
    section = section_type(name, **{key: values[key] for key in required})
    for key, value in values.items():
        try:
            keys.assign(section, key, value)
        except ConfigError as error:
            raise ConfigError(f"quantizer.{error}") from error
    return section


def build(section: Any) -> Quantizer:
    """The quantizer of a section.

    Raises:
        ConfigError: a setting that cannot work.
    """
    arguments = {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}
    del arguments["name"]
    try:
        for key, value in arguments.items():
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                arguments[key] = dataclasses.replace(value)  # checks itself again: its values were set one by one
        return QUANTIZERS[section.name](**arguments)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"quantizer: {error}") from error


def take(argument: str, name: str) -> tuple[str | None, str]:
    """The value of a pair in a config file's argument, None without it, and the argument without the pair.

    Raises:
        ConfigError: the pair stands there twice.
    """
    pairs = [pair for pair in argument.split(",") if pair]
    values = [pair.partition("=")[2] for pair in pairs if pair.partition("=")[0] == name]
    if len(values) > 1:
        raise ConfigError(f"{name} is given {len(values)} times behind the config file: expected once")
    rest = ",".join(pair for pair in pairs if pair.partition("=")[0] != name)
    return (values[0] if values else None), rest


def take_switch(argument: str, name: str) -> tuple[bool, str]:
    """Whether `name=true` stands in a config file's argument, and the argument without it.

    Raises:
        ConfigError: another value than true or false.
    """
    value, rest = take(argument, name)
    if value not in (None, "true", "false"):
        raise ConfigError(f"{name}={value} behind the config file: expected true or false")
    return value == "true", rest


@functools.cache
def _section_type(name: str) -> type:
    factory = QUANTIZERS[name]
    hints, docs = typing.get_type_hints(factory), argument_docs(factory)
    unions = {key: hint for key, hint in hints.items() if _field_type(hint, None) is object}
    fields: list[tuple[str, Any, Any]] = [
        ("name", str, dataclasses.field(metadata={"setting": Setting("The method.")}))
    ]
    for key, parameter in inspect.signature(factory).parameters.items():
        metadata = {"setting": Setting(docs.get(key, ""), affects="codebook" if key in _OF_THE_FIT else "state")}
        default = parameter.default
        if default is inspect.Parameter.empty:
            field = dataclasses.field(metadata=metadata)
        elif dataclasses.is_dataclass(default):
            field = dataclasses.field(default_factory=functools.partial(copy.copy, default), metadata=metadata)
        else:
            field = dataclasses.field(default=default, metadata=metadata)
        fields.append((key, _field_type(hints[key], default), field))
    return dataclasses.make_dataclass(f"{name}_section", fields, namespace={"value_types": unions}, slots=True)


def _field_type(hint: Any, default: Any) -> Any:
    if dataclasses.is_dataclass(default):
        return type(default)
    if hint == Sequence[int]:
        return tuple[int, ...]
    if (
        isinstance(hint, types.UnionType)
        and len([kind for kind in typing.get_args(hint) if kind is not type(None)]) > 1
    ):
        return object  # such as a number or a word: the command line reads any literal, `value_types` says which
    return hint


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def argument_docs(factory: Callable[..., Any]) -> dict[str, str]:
    """What a factory's docstring says of each argument, by name."""
    text = inspect.getdoc(factory) or ""
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n|\n)*)", text + "\n", flags=re.MULTILINE)
    docs: dict[str, list[str]] = {}
    name = ""
    for line in section.group(1).splitlines() if section else []:
        if begin := re.match(r" {4}(\w+): (.*)", line):
            name = begin.group(1)
            docs[name] = [begin.group(2)]
        elif name:
            docs[name].append(line.strip())
    return {key: " ".join(words) for key, words in docs.items()}


def _parse(argument: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in filter(None, argument.split(",")):
        key, equals, text = pair.partition("=")
        if not equals or not key or not text or key in values:
            raise ConfigError(f"{pair!r} behind the config file: expected key=value pairs, each key once, with commas")
        values[key] = _literal(text)
    return values


def _literal(text: str) -> Any:
    parts = text.split("x")
    if len(parts) > 1 and all(part.isdigit() for part in parts):
        return tuple(int(part) for part in parts)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
