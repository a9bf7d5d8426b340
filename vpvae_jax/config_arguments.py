"""Variants of a config file by argument: `configs/photos.py:quantizer=fsp,codebook_size=1024,activation=normal`."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pathlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
from ml_collections import config_dict

from vpvae_jax.errors import ConfigError
from vpvae_jax.quantizers import QUANTIZERS, paper

_SET_ELSEWHERE = ("kmeans_iterations",)  # codebook.max_iterations
_KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a name",
    Sequence[int]: "whole numbers with x between them, such as 8x6x5",
}


def load_config(
    path: pathlib.Path | str, argument: str = "", values: Mapping[str, Any] | None = None
) -> ml_collections.ConfigDict:
    """What `--config=PATH:ARGUMENT --config.KEY=VALUE ...` gives.

    Args:
        path: Python file with `get_config(argument)`.
        argument: see `quantizer_section`.
        values: by dotted key.

    Raises:
        ConfigError: no such file, an argument or a key that does not exist, a value of another type.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ConfigError(f"{path} is not a file: expected a Python file with get_config()")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(argument) if argument else module.get_config()
    config.lock()  # as the command line does: no new keys
    try:
        config.update_from_flattened_dict(dict(values or {}))
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: {error.args[0]}") from error
    return config


def take_switch(argument: str, name: str) -> tuple[bool, str]:
    """Whether `name=true` stands in a config file's argument, and the argument without it.

    Raises:
        ConfigError: another value than true or false.
    """
    pairs = [pair for pair in argument.split(",") if pair]
    values = [pair.partition("=")[2] for pair in pairs if pair.partition("=")[0] == name]
    if values not in ([], ["true"], ["false"]):
        raise ConfigError(f"{name}={','.join(values)} behind the config file: expected true or false, once")
    return values == ["true"], ",".join(pair for pair in pairs if pair.partition("=")[0] != name)


def quantizer_section(
    argument: str, *, codebook_size: int, tuned: Mapping[str, Mapping[str, Any]]
) -> ml_collections.ConfigDict:
    """The quantizer section of a config: every argument of a method's factory, with the paper's levels for K.

    Args:
        argument: what stands behind the file's colon: `key=value` pairs between commas. `quantizer` is the method
            (default vp), `codebook_size` is K; every other key is an argument of the method, with tuples as 8x6x5.
        codebook_size: K where the argument names none.
        tuned: by method, what the config sets otherwise than the factory's defaults.

    Raises:
        ConfigError: a pair, method, size or key that does not exist.
    """
    given = _parse(argument)
    name = given.pop("quantizer", "vp")
    if name not in QUANTIZERS:
        raise ConfigError(f"quantizer={name}: expected one of {', '.join(QUANTIZERS)}")
    is_sized = "codebook_size" in given
    try:
        by_size = paper.settings(QUANTIZERS[name], given.pop("codebook_size", codebook_size))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    known = {key: p.default for key, p in inspect.signature(QUANTIZERS[name]).parameters.items()}
    if "levels" in given and is_sized:
        raise ConfigError(
            "levels and codebook_size behind the config file: expected one of them, levels make the codes"
        )
    unknown = [key for key in given if key not in known or key in _SET_ELSEWHERE]
    if unknown:
        raise ConfigError(f"{', '.join(unknown)}: no setting of quantizer={name}, expected one of {', '.join(known)}")
    values = known | by_size | dict(tuned.get(name, {})) | given
    try:
        values = with_types(QUANTIZERS[name], values)
    except TypeError as error:
        raise ConfigError(f"{error} (behind the config file)") from error
    section = ml_collections.ConfigDict({"name": name})
    for key, value in values.items():
        if key not in _SET_ELSEWHERE:
            section[key] = config_dict.placeholder(int) if value is None else value
    return section


def with_types(factory: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as the factory annotates them: whole numbers given for real ones become real ones.

    Args:
        factory: a value of `QUANTIZERS`.
        settings: by name, arguments of the factory.

    Raises:
        TypeError: a setting of another type, such as 2.5 for a rank.
    """
    hints = typing.get_type_hints(factory)
    typed = dict(settings)
    for key, value in settings.items():
        if key not in hints:
            continue  # the factory itself names what it does not know
        kinds = typing.get_args(hints[key]) if isinstance(hints[key], types.UnionType) else (hints[key],)
        if float in kinds and type(value) is int:
            typed[key] = float(value)
        elif not any(_is_of(value, kind) for kind in kinds):
            raise TypeError(f"{key}={value}: expected {' or '.join(_KINDS[kind] for kind in kinds if kind in _KINDS)}")
    return typed


def _is_of(value: Any, kind: Any) -> bool:
    if kind == Sequence[int]:
        return isinstance(value, tuple | list) and all(type(member) is int for member in value)
    return type(value) is kind  # a bool is no int here


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
