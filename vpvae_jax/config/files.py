"""Config files: finding them by name, and what stands in one."""

from __future__ import annotations

import contextlib
import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

from vpvae_jax.config import keys, quantizer_section
from vpvae_jax.config.schema import Config, new_config
from vpvae_jax.runtime import settings
from vpvae_jax.runtime.errors import ConfigError

_PACKAGE = pathlib.Path(__file__).parents[1]


def image_config(
    argument: str = "",
    *,
    codebook_size: int,
    tuned: Mapping[str, Mapping[str, Any]] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Config:
    """A config for images: the defaults of `images.settings` and `config.schema` with what differs from them.

    Args:
        argument: what stands behind the file's colon, see `quantizer_section.from_argument`.
        codebook_size: K where the argument names none.
        tuned: by method, settings of the quantizer that differ from its factory's defaults.
        values: by dotted key, settings that differ from the defaults.

    Raises:
        ConfigError: a key that does not exist, or a value of another type.
    """
    return _config("vqgan", argument, codebook_size, tuned, values)


def speech_config(
    argument: str = "",
    *,
    codebook_size: int,
    tuned: Mapping[str, Mapping[str, Any]] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Config:
    """A config for speech; see `image_config`."""
    return _config("sqcodec", argument, codebook_size, tuned, values)


def _config(network, argument, codebook_size, tuned, values) -> Config:
    section = quantizer_section.from_argument(argument, codebook_size=codebook_size, tuned=tuned)
    return with_values(new_config(network, section), values or {})


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The same config, after setting values by dotted key."""
    for key, value in values.items():
        keys.assign(config, key, value)
    return config


def find(name: pathlib.Path | str) -> pathlib.Path:
    """The config file of a path, or of a name among those that come with the package (`photos`).

    Raises:
        ConfigError: no such file.
    """
    path = pathlib.Path(name).expanduser()
    relative = str(name).removeprefix("configs/").removesuffix(".py") + ".py"
    for candidate in (path, *(folder / relative for folder in _folders())):
        with contextlib.suppress(OSError):  # a name that is too long
            if candidate.is_file():
                return candidate
    known = sorted(file.stem for folder in _folders() for file in folder.glob("*.py") if file.stem != "__init__")
    hint = settings.nearest(str(name), known) if path.suffix != ".py" else ": expected a Python file with get_config()"
    raise ConfigError(f"--config={name} is neither a file nor a config of the package{hint}")


def _folders() -> list[pathlib.Path]:
    """Configs of the package: inside it once it is installed, otherwise beside it in a clone."""
    return [folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()][:1]


def load_config(path: pathlib.Path | str, argument: str = "", values: Mapping[str, Any] | None = None) -> Config:
    """What `--config=PATH:ARGUMENT --config.KEY=VALUE ...` gives.

    Args:
        path: Python file with `get_config(argument)`, or the name of one of the package's.
        argument: see `quantizer_section.from_argument`.
        values: by dotted key.

    Raises:
        ConfigError: no such file, an argument or a key that does not exist, a value of another type.
    """
    config = load_file(find(path), argument)
    if not isinstance(config, Config):
        raise wrong_kind(path, config, "image_config(...) or speech_config(...) of vpvae_jax.config.files")
    return with_values(config, values or {})


def wrong_kind(path: pathlib.Path | str, content: Any, expected: str) -> ConfigError:
    """What to raise where a file's get_config() returned something else."""
    return ConfigError(
        f"{path} gives a {type(content).__name__}: expected {expected}, as the files in configs/ do "
        f"(those of version 0.1 must be written again)"
    )


def load_file(path: pathlib.Path, argument: str = "") -> Any:
    """What the get_config() of a file returns."""
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path} has no get_config(): expected a function that returns a config")
    return module.get_config(argument) if argument else module.get_config()
