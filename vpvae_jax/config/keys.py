"""Settings dataclasses by dotted key: read, set with the right type, checked, as dicts."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from vpvae_jax.runtime.errors import ConfigError
from vpvae_jax.runtime.settings import Setting, nearest


def leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Dotted key, the dataclass that holds it and its name there, for every setting."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", section, field.name


def about(section: Any, name: str) -> Setting:
    """The `Setting` of a field of a settings dataclass."""
    return next(
        field.metadata.get("setting", Setting("")) for field in dataclasses.fields(section) if field.name == name
    )


def assign(config: Any, key: str, value: Any) -> None:
    """Set a setting by its dotted key.

    Raises:
        ConfigError: no such key (the nearest one is named), or a value of another type.
    """
    *path, name = key.split(".")
    holder = config
    for part in path:
        holder = getattr(holder, part, None)
    if not dataclasses.is_dataclass(holder) or name not in {field.name for field in dataclasses.fields(holder)}:
        raise ConfigError(f"{key} is not a key of this config{nearest(key, [known for known, _, _ in leaves(config)])}")
    if dataclasses.is_dataclass(section := getattr(holder, name)):
        raise ConfigError(f"{key} is a section: set one of its keys, such as {next(leaves(section, f'{key}.'))[0]}")
    setattr(holder, name, typed(key, value, _kind(holder, name)))


def _kind(holder: Any, name: str) -> Any:
    """The type of a setting; sections may know more than their fields can say (`value_types`)."""
    kinds = getattr(holder, "value_types", {})
    return kinds.get(name) or next(field.type for field in dataclasses.fields(holder) if field.name == name)


def typed(key: str, value: Any, kind: Any) -> Any:
    """The value as a type asks for it: int for float becomes float, a list for a tuple a tuple.

    Raises:
        ConfigError: a value of another type.
    """
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for each in kinds:
        if each is object or (each is type(None) and value is None):
            return value
        if typing.get_origin(each) is tuple and isinstance(value, tuple | list):
            member = typing.get_args(each)[0]
            if all(type(item) is member for item in value):
                return tuple(value)
        elif each is float and type(value) is int:
            return float(value)
        elif type(value) is each:  # a bool is no int here
            return value
    raise ConfigError(f"{key}={value!r}: expected {' or '.join(_words(each) for each in kinds)}")


def check(config: Any) -> None:
    """Raise ConfigError for a value of another type, or outside its bounds or choices; numbers must be finite."""
    for key, holder, name in leaves(config):
        value, known = getattr(holder, name), about(holder, name)
        typed(key, value, _kind(holder, name))
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}={value}: expected a finite number (--config.{key}=...)")
        if known.bound is not None and value is not None and not known.bound.holds(value):
            raise ConfigError(f"{key}={value}: expected {known.bound.words} (--config.{key}=...)")
        if known.choices and value not in known.choices:
            raise ConfigError(f"{key}={value!r}{nearest(str(value), known.choices)}")


def to_dict(config: Any) -> dict[str, Any]:
    """Nested dict of a config, for JSON; tuples as lists."""
    return {
        field.name: to_dict(value) if dataclasses.is_dataclass(value := getattr(config, field.name)) else _plain(value)
        for field in dataclasses.fields(config)
    }


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a.b": value}` of a nested dict."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a name", type(None): "nothing"}


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        member = typing.get_args(kind)[0]
        return "whole numbers, such as (8, 6, 5)" if member is int else "names, such as ('validation', 'test')"
    return _WORDS.get(kind, str(kind))
