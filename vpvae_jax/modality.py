"""The protocol of a kind of signal: what loop, tokenizer and evaluator need of images and of speech."""

# Types of fields are read at run time: no postponed annotations here.
import abc
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from vpvae_jax.runtime.settings import NOT_NEGATIVE, POSITIVE, setting

if TYPE_CHECKING:
    import jax

    from vpvae_jax.models.autoencoder import Autoencoder


class Metric(NamedTuple):
    """A metric of reconstructions: one entry in a modality's list adds it to evaluations, tables and figures."""

    key: str  # in results
    title: str  # in tables
    decimals: int
    function: Callable[..., Any] | None = None
    """(reconstruction, original) -> scores; None where the scorer computes it over a whole set"""
    load: Callable[[str], Callable[..., Any]] | None = None
    """(file) -> function, where it needs the weights of a network"""
    needs: str = ""  # key of `eval` that names this file; without a file the metric is left out
    continuous: str = ""  # title of a column for the reconstruction without quantization; empty for no column


CVU = Metric("cvu", "CVU", 3)


def columns(metrics: tuple[Metric, ...]) -> dict[str, Metric]:
    """What tables show, by key of the results: each metric, its continuous form where it has a title, and CVU last."""
    shown = {}
    for metric in metrics:
        shown[metric.key] = metric
        if metric.continuous:
            shown[f"{metric.key}_continuous"] = metric._replace(title=metric.continuous)
    return shown | {CVU.key: CVU}


@dataclasses.dataclass(slots=True)
class Data:
    """Where examples come from."""

    source: str = setting(
        "tfds",
        "tfds: a prepared TFDS data set; folder: files below a folder.",
        choices=("tfds", "folder"),
        affects="source",
    )
    name: str = setting("", "With tfds: data set name, or path of a prepared version directory.", affects="source")
    path: str = setting("", "With folder: the folder, searched recursively.", affects="source")
    data_dir: str | None = setting(
        None, "With tfds: where it was prepared; default ~/tensorflow_datasets or TFDS_DATA_DIR.", affects="nothing"
    )
    train_split: str = setting("train", "Split to train on; TFDS slices and sums are allowed.", affects="source")
    crop: int = setting(256, "Side or length of a training crop.", bound=POSITIVE)
    eval_crop: int = setting(
        0, "What is evaluated of an example; 0 for all of it.", bound=NOT_NEGATIVE, affects="metrics"
    )
    num_threads: int = setting(16, "Threads that read and decode.", bound=POSITIVE, affects="nothing")
    cache_mib: int = setting(0, "Decoded examples kept in memory.", bound=NOT_NEGATIVE, unit="MiB", affects="nothing")


@dataclasses.dataclass(slots=True)
class Eval:
    """How tokenizers are scored."""

    splits: tuple[str, ...] = setting(("validation",), "Splits that are evaluated.", affects="metrics")
    batch_size: int = setting(8, "Examples, or windows of a recording, at a time.", bound=POSITIVE, affects="nothing")
    num_pictures: int = setting(
        8, "Examples of a split that are kept and shown in the report.", bound=NOT_NEGATIVE, affects="nothing"
    )
    every: int = setting(
        0,
        "While training: steps from one evaluation of a few examples to the next; 0 for none.",
        bound=NOT_NEGATIVE,
        unit="steps",
        affects="nothing",
    )
    num_watched: int = setting(
        8, "Examples of the first split that are evaluated while training.", bound=POSITIVE, affects="nothing"
    )


class Loss(NamedTuple):
    """A reconstruction loss and the parameters that it reads."""

    params: Any  # of frozen networks, {} without any: an argument of the step, not a constant in it
    function: Callable[[Any, "jax.Array", "jax.Array"], tuple["jax.Array", dict[str, "jax.Array"]]]
    """(params, reconstruction, signal) -> loss, its parts to log; float32 scalars"""


class Examples(NamedTuple):
    """The examples of an evaluation; of several processes, each has its share."""

    items: Iterator[tuple[str, np.ndarray]]  # name and example as stored
    total: int  # records of the source, readable or not
    unreadable: Mapping[int, str]  # by index of the record, filled while `items` is read
    batch_size: int  # at a time; 1 where shapes differ


class Shown(NamedTuple):
    """An example of an evaluation for people to look at or listen to."""

    evaluation: str  # "photos-test"
    name: str
    arrays: Mapping[str, np.ndarray]  # original, continuous, quantized: in stored form


class Scorer(AbstractContextManager, Protocol):
    """Takes reconstructions and gives metrics; leaving its context ends what it has running."""

    def add(self, names: list[str], original: np.ndarray, continuous: np.ndarray, quantized: np.ndarray) -> None:
        """Score a batch, `(n, ...)` in stored form each."""

    def results(self, gather: Callable[[Any], list[Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Means over all examples, None for a metric that scored nothing, and `name` and scores of each.

        Args:
            gather: from what this process has to what each has, such as `processes.gather`.
        """


class Modality(abc.ABC):
    """A kind of signal, bound to its settings.

    An example is what the data pipeline gives and the tokenizer takes: `stored` form. The network sees `signal` form.
    Methods that need readers, scorers or pictures import them when they are called: a tokenizer needs none of them.

    Args:
        data: a `Data` of the modality.
        model: settings of the network.
        loss: settings of the reconstruction loss.
        evaluation: an `Eval` of the modality.
    """

    sections: ClassVar[Mapping[str, type]]  # settings dataclasses: data, model, loss, eval
    unit: ClassVar[str]  # one example, in progress bars
    rate_unit: ClassVar[str]  # of `rate`: bits per pixel, per second
    token_axes: ClassVar[int]  # axes of an example's tokens
    metrics: ClassVar[tuple[Metric, ...]]
    """The first says how good a reconstruction is, and is also tabled without quantization."""

    def __init__(self, data: Any, model: Any, loss: Any, evaluation: Any):
        self.data, self.model, self.loss_settings, self.evaluation = data, model, loss, evaluation

    @abc.abstractmethod
    def check(self, crops: Mapping[str, int]) -> None:
        """Raise ConfigError for settings that do not fit together.

        Args:
            crops: crops that the network sees, by key: `data.crop`, `data.eval_crop`, `codebook.crop`.
        """

    @property
    @abc.abstractmethod
    def stride(self) -> int:
        """Pixels of a side, or samples, that become one token."""

    @abc.abstractmethod
    def tokens(self, crop: int) -> int:
        """Tokens of a crop."""

    @abc.abstractmethod
    def rate(self, num_codes: int) -> float:
        """Bits per `rate_unit`."""

    @abc.abstractmethod
    def network(self, input_dim: int, latent_dim: int) -> "Autoencoder":
        """Encoder, bottleneck of the quantizer's widths, decoder."""

    @abc.abstractmethod
    def loss(self) -> Loss:
        """The reconstruction loss; loads the weights of its frozen networks.

        Raises:
            ConfigError: weights that do not exist or cannot be read.
        """

    @abc.abstractmethod
    def source(self, split: str) -> Any:
        """The records of a split."""

    @abc.abstractmethod
    def batches(self, source: Any, *, batch_size: int, crop: int, seed: int) -> Any:
        """Endless iterator of batches in stored form; each process reads its rows."""

    @abc.abstractmethod
    def check_source(self, source: Any, crop: int) -> int:
        """Raise DataError for records that would stop the run later.

        Args:
            source: records of a split.
            crop: largest crop that is cut from them; 0 for whole examples.

        Returns:
            How many are known to be skipped.
        """

    @abc.abstractmethod
    def batch_shape(self, batch_size: int, crop: int) -> "jax.ShapeDtypeStruct":
        """Shape and type of a batch in stored form."""

    @property
    @abc.abstractmethod
    def eval_size(self) -> str:
        """What is evaluated of an example, in a word: `256px`, `whole`."""

    @abc.abstractmethod
    def examples(self, source: Any) -> Examples:
        """The examples of an evaluation."""

    def weights_of(self, needs: str) -> str:
        """The file of a metric's weights by its key in `eval`, empty for none."""
        return getattr(self.evaluation, needs)

    @abc.abstractmethod
    def scorer(self) -> Scorer:
        """What scores one evaluation.

        Raises:
            ConfigError: weights of a metric that do not exist or cannot be read.
        """

    @abc.abstractmethod
    def first_metric(self, reconstruction: np.ndarray, original: np.ndarray) -> list[float]:
        """The first of `metrics` of each example of a batch in stored form; without those that have no score."""

    @abc.abstractmethod
    def show(self, directory: pathlib.Path, examples: list[Shown]) -> list[pathlib.Path]:
        """Write pictures and sounds of at least one example; returns their paths."""

    @abc.abstractmethod
    def to_signal(self, stored: "jax.Array") -> "jax.Array":
        """What the network sees of examples in stored form."""

    @abc.abstractmethod
    def to_stored(self, signal: "jax.Array") -> "jax.Array":
        """Examples in stored form of what the network gives."""

    @abc.abstractmethod
    def check_examples(self, examples: Any) -> None:
        """Raise DataError for a batch that cannot be tokenized."""

    @abc.abstractmethod
    def encode(self, function: Callable, examples: Any) -> np.ndarray:
        """Latents `(n, ..., d)` of examples of any size, by a function of batches of few sizes."""

    @abc.abstractmethod
    def decode(self, function: Callable, latents: Any) -> np.ndarray:
        """Examples of latents; see `encode`."""


def label(text: str) -> str:
    """A name as matplotlib shows it: no formulas, nothing that cannot be encoded, no underscore that hides it."""
    plain = text.encode("utf-8", "replace").decode().replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain
