"""What a file under configs/comparisons/ sets: the grid, the curves and refits that are wanted, and overrides."""

# Types of fields are read at run time: no postponed annotations here.
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from vpvae_jax.config.files import find, load_file, wrong_kind
from vpvae_jax.config.keys import typed
from vpvae_jax.runtime.errors import ConfigError
from vpvae_jax.runtime.settings import nearest, setting

_PAIRS = ("methods", "ablations")


@dataclasses.dataclass(slots=True)
class Comparison:
    """A grid of runs: `methods` at each of `codebook_sizes` with each of `seeds`, and what is added to it.

    Set a key by `--comparison.KEY=VALUE`, such as `--comparison.seeds="(0, 1)"`.
    """

    config: str = setting("photos", "Config file of every run, by path or by name.")
    methods: tuple[tuple[str, str], ...] = setting(
        (), "The main grid: pairs of a method's name in tables and the config's argument, without codebook_size."
    )
    codebook_sizes: tuple[int, ...] = setting((256,), "K of the main grid.")
    seeds: tuple[int, ...] = setting((0,), "Seeds of the main grid.")
    ablations: tuple[tuple[str, str], ...] = setting((), "Variants of methods, as pairs; a table of their own.")
    ablation_codebook_size: int = setting(256, "K of the ablations.")
    ablation_seeds: tuple[int, ...] = setting((0,), "Seeds of the ablations.")
    curve_seeds: tuple[int, ...] = setting(
        (), "None or one of seeds: each checkpoint of these runs is fitted and scored, for metrics over training."
    )
    curve_split: str = setting("validation", "Split that curves and refits are scored on.")
    rate_methods: tuple[str, ...] = setting((), "Methods that are trained at further sizes, with the first seed.")
    rate_codebook_sizes: tuple[int, ...] = setting((), "These sizes.")
    refit_methods: tuple[str, ...] = setting(
        (), "Methods whose trained runs are scored with codebooks of further sizes, without training again."
    )
    refit_trained_at: tuple[int, ...] = setting((), "K of the trainings that are refitted.")
    refit_codebook_sizes: tuple[int, ...] = setting((), "Sizes of these codebooks.")
    # object: the type by which the command line reads any literal, such as "{'train.num_steps': 20}".
    overrides: object = setting(None, "Of the config, for every run: a dict of values by dotted key.")
    method_overrides: object = setting(None, "The same for every run of a method: a dict of such dicts by method.")

    def overrides_of(self, method: str) -> dict[str, Any]:
        """What is overridden for a method, by dotted key."""
        by_method = _dict("method_overrides", self.method_overrides)
        for_this = _dict(f"method_overrides[{method!r}]", by_method.get(method))
        return _dict("overrides", self.overrides) | for_this

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dict, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Comparison":
        """The comparison of what `to_dict` gave, after a way through JSON."""
        return cls(**{key: _tuples(value) for key, value in content.items()})

    def check(self) -> None:
        """Raise ConfigError for a value of another type, an empty grid, or a method that does not exist."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _PAIRS:
                _check_methods(field.name, value)
            else:
                setattr(self, field.name, typed(field.name, value, field.type))
        _dict("overrides", self.overrides)
        for key in ("methods", "seeds", "codebook_sizes"):
            if not getattr(self, key):
                raise ConfigError(f"the comparison has no {key}: expected at least one")
        methods = [name for name, _ in self.methods]
        everything = [*methods, *(name for name, _ in self.ablations)]
        for key, names, known in (
            ("rate_methods", self.rate_methods, methods),
            ("refit_methods", self.refit_methods, methods),
            ("method_overrides", _dict("method_overrides", self.method_overrides), everything),
        ):
            for name in names:
                if name not in known:
                    raise ConfigError(f"{key} has {name}, no method of the comparison{nearest(name, known)}")
        if len(self.curve_seeds) > 1 or not set(self.curve_seeds) <= set(self.seeds):
            raise ConfigError(f"curve_seeds={self.curve_seeds}: expected none or one of seeds={self.seeds}")


def load_comparison(path: pathlib.Path | str) -> Comparison:
    """The comparison of a file with get_config().

    Raises:
        ConfigError: no such file, or one that gives something else.
    """
    comparison = load_file(find(path))
    if not isinstance(comparison, Comparison):
        raise wrong_kind(path, comparison, "a Comparison of vpvae_jax.compare.settings")
    return comparison


def explain(key: str) -> str:
    """What is wrong with `--comparison.KEY...`, empty if it is a key whose value was wrong."""
    known = [field.name for field in dataclasses.fields(Comparison)]
    if key in ("overrides", "method_overrides"):
        return f"--comparison.{key} takes one dict of dotted keys: --comparison.{key}=\"{{'train.num_steps': 20}}\""
    return "" if key in known else f"comparison.{key} is not a key of a comparison{nearest(key, known)}"


def _dict(key: str, value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{key}={value!r}: expected a dict, such as {{'train.num_steps': 20}}")
    return dict(value)


def _check_methods(key: str, value: Any) -> None:
    is_tuple = isinstance(value, tuple) and all(isinstance(pair, tuple) for pair in value)
    if not is_tuple or not all([type(part) for part in pair] == [str, str] for pair in value):
        raise ConfigError(
            f"{key}={value!r}: expected pairs of a name and an argument, such as (('vp', 'quantizer=vp'),)"
        )


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
