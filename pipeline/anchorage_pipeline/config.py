"""The experiment file: a TOML document, validated as a whole before anything runs."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from anchorage.data.listing import MAX_REJECT_SHARE, MAX_REJECTS
from anchorage.data.vectors import is_vector_data
from anchorage.errors import UsageError
from anchorage.judging.settings import JudgeSettings
from anchorage.training.settings import (
    VECTOR_ENCODER,
    EncoderSettings,
    Pooling,
    Precision,
    RunSettings,
    Strategy,
    TrainingSettings,
)
from anchorage_pipeline.documents import read_toml
from anchorage_pipeline.mistakes import explain
from anchorage_pipeline.overrides import apply_overrides
from anchorage_pipeline.values import (
    Choices,
    Count,
    Epochs,
    Finite,
    Fraction,
    Location,
    Neighbors,
    NonNegative,
    Params,
    Range,
    Rate,
    Section,
    Seed,
    Share,
)

_BUILT_IN_SLICES = ("class_size", "confused", "label")  # need no column of the data's table


class Named(Section):
    """A component chosen by name, with its constructor arguments.

    Attributes:
        name: name in the table of components, or `"module:ClassName"` for a user-defined one.
        params: constructor arguments, which may be ranges; default {}.
    """

    name: str
    params: Params = {}


class Data(Section):
    """The images, their split, and their size.

    Attributes:
        path: folder with one subfolder per class, a CSV, TSV or Parquet table, or a table of vectors (Parquet, `.npy`,
            or a folder of Arrow files); required.
        input: "images" or "vectors"; default: what is found at `path`.
        columns: names of the table's columns for path, label, split, role, and of vectors also vector and id; default
            {} expects these names.
        val_share: share of the classes outside test for validation, in [0, 1); default 0.15; unused if data is split.
        test_share: share of all classes for test, in [0, 1); default 0.5; unused if the data is split.
        image_size: side of the square images in pixels, 1 to 2,048; default 96.
        fit: how to make an image square: "crop" (default) its center, "pad" it, or "squash" it.
        max_pixels: images with more pixels are rejected, 1 to 10**9; default 50 million.
        max_reject_share: share of rejected records, in [0, 1), above which a run stops; default 0.001.
        max_rejects: number of rejected records that is accepted whatever their share; default 10.
        block_on_leaks: whether a class or identical image in several splits stops a run; default true.
        follow_links: whether symbolic links may lead out of the folder; default false.
    """

    path: Location
    input: Literal["images", "vectors"] = "images"
    columns: dict[Literal["path", "label", "split", "role", "vector", "id"], str] = {}
    val_share: Share = 0.15
    test_share: Share = 0.5
    image_size: Annotated[int, Field(gt=0, le=2_048)] = 96  # a batch of 64 of the largest takes 3 GB
    fit: Literal["crop", "pad", "squash"] = "crop"
    max_pixels: Annotated[int, Field(gt=0, le=10**9)] = 50_000_000  # an image of 10**9 takes 3 GB
    max_reject_share: Share = MAX_REJECT_SHARE
    max_rejects: Count = MAX_REJECTS
    block_on_leaks: bool = True
    follow_links: bool = False


class Encoder(Named):
    """The network that maps images to unit-length embeddings.

    Attributes:
        name: name of the trunk, or "hub:PRESET" for a preset of KerasHub; default "efficientnet_lite0", or "head" for
            vectors.
        params: constructor arguments of the trunk; default {}.
        embedding_size: dimension of the embeddings, 1 to 16,384; default 128, or that of the vectors.
        pooling: pooling of the feature map: "avg", "max", or generalized mean "gem" (default); "token" takes the class
            token, the default of a preset.
        weights: "imagenet" for pretrained weights, or the folder of a preset; default "imagenet" if `name` is not set,
            "encoders/PRESET" for a preset, else random weights.
        frozen_norm: whether batch normalization uses its stored statistics; default: chosen by the recipe.
        head: layers after the trunk; default "plain", one projection, or "identity" if nothing is trained.
    """

    name: str = "efficientnet_lite0"
    embedding_size: Annotated[int, Field(gt=0, le=16_384)] | None = EncoderSettings.embedding_size
    pooling: Pooling = EncoderSettings.pooling
    weights: str | None = EncoderSettings.weights
    frozen_norm: bool | None = None
    head: Named = Named(name=EncoderSettings.head.name)

    @model_validator(mode="before")
    @classmethod
    def _default_is_pretrained(cls, section: Any) -> Any:
        if not isinstance(section, Mapping):
            return section
        if "name" not in section:
            return {"weights": "imagenet", **section}
        if preset := _preset(section["name"]):
            return {"weights": f"encoders/{preset}", "pooling": "token", **section}
        return section

    @property
    def preset(self) -> str:
        """Name of the preset of KerasHub; empty for other encoders."""
        return _preset(self.name)


def _preset(name: Any) -> str:
    return name.removeprefix("hub:") if isinstance(name, str) and name.startswith("hub:") else ""


class Optimizer(Section):
    """The optimizer and the learning rates. Values that are not set are chosen by the recipe, also single table keys.

    Attributes:
        name: name of the optimizer, such as "adamw".
        params: further arguments of the optimizer, such as `weight_decay`.
        learning_rate: peak learning rate, above 0.
        schedule: decay of the learning rate after warm-up: "constant", "linear" or "cosine".
        warmup_steps: steps of linear warm-up; 0 starts at the peak.
        final_share: share of the peak learning rate at the last step, in [0, 1].
        rate_factors: factor on the learning rate by group of weights ("trunk", "head", "proxies"); 1 has no effect.
        frozen_steps: number of first steps in which a group is not trained, by group; 0 has no effect.
    """

    name: str | None = None
    params: Params = {}
    learning_rate: Rate | None = None
    schedule: Literal["constant", "linear", "cosine"] | None = None
    warmup_steps: Count | None = None
    final_share: Fraction | None = None
    rate_factors: dict[str, Rate] = {}
    frozen_steps: dict[str, Count] = {}


class Training(Section):
    """The training. Values without a default are chosen by the recipe for the encoder and the training classes.

    Attributes:
        epochs: maximum number of epochs, 0 to 1,000,000; 0 uses the encoder without training, so that images need no
            labels.
        steps_per_epoch: steps per epoch; 0 takes one pass of the sampler.
        patience: epochs without improvement before training stops; default 0 never stops early.
        precision: "float32" (default), "mixed_bfloat16" or "mixed_float16".
        strategy: "" (default) trains on one device, "mirrored" on all GPUs of this machine.
        sampler: sampler of the batches.
        optimizer: the optimizer and the learning rates.
        augmentation: augmentations of the training images; {} uses none.
        methods: training methods around the loss, the first one outermost; [] uses none.
        procedure: a training that consists of several runs, such as self-training; default: a single run.
    """

    epochs: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    steps_per_epoch: Count | None = None
    patience: Count = TrainingSettings.patience
    precision: Precision = TrainingSettings.precision
    strategy: Strategy = TrainingSettings.strategy
    sampler: Named | None = None
    optimizer: Optimizer = Optimizer()
    augmentation: dict[str, Finite | bool] | None = None
    methods: list[Named] | None = None
    procedure: Named | None = None


class Tuning(Section):
    """The hyperparameter search, which runs if the file contains ranges or choices.

    Attributes:
        oracle: search algorithm: "random" (default) or "bayesian".
        trials: number of trials, 1 to 100,000; default 8.
        epochs: epochs per trial, 1 to 1,000,000; default 5.
    """

    oracle: Literal["random", "bayesian"] = "random"
    trials: Annotated[int, Field(gt=0, le=100_000)] = 8
    epochs: Epochs = 5


_JUDGED = JudgeSettings()  # for its defaults


class Evaluation(Section):
    """The evaluation on the test split, and the gate that decides whether the candidate is published.

    Attributes:
        metrics: metrics of the report; default recall@1, 2, 4, 8, map@r, r_precision and ndcg@10.
        primary: metric, one of `metrics`, that decides; default "map@r".
        minimum: minimum values in [0, 1] by metric; default {}.
        leave_out: column of the table, such as the camera: a query ignores gallery images with its own value; "" none.
        parents: column of the table with coarser classes, for `graded_ndcg@k`; default "" none.
        max_drop: accepted loss of the primary metric against the last release, in [0, 1]; default 0.02.
        confidence: confidence of the bound on this loss, in [0.5, 1); default 0.95.
        resamples: number of bootstrap samples, 100 to 1,000,000; default 2,000.
        slices: columns to slice queries by, or "class_size", "confused" or "label"; default the first two of these.
        slice_drops: accepted loss in [0, 1] by slice ("family=lucide"), column ("family") or "" (others); default 0.05.
        index_loss: accepted loss of recall@1 by search through the index, in [0, 1]; default 0.02.
        index_p99_ms: limit on the 99th percentile of the query time in milliseconds; default 0, no limit.
        index_memory_mib: limit on the memory of the index in MiB; default 0, no limit.
        false_accepts: target share of queries of unknown classes that search answers, in (0, 1); default 0.05.
        max_calibration_error: calibration error in [0, 1] above which search shows no probabilities; default 0.05.
        require_calibration: whether the gate rejects a candidate whose calibration does not hold; default false.
        clustering: whether to compute clustering metrics, which is slow; default false.
        force: reason to publish a candidate that the gate rejects; default "" does not publish it.
    """

    metrics: list[str] = [*_JUDGED.metrics]
    primary: str = _JUDGED.primary
    minimum: dict[str, Fraction] = {**_JUDGED.minimum}
    leave_out: str = _JUDGED.leave_out
    parents: str = _JUDGED.parents
    max_drop: Fraction = _JUDGED.max_drop
    confidence: Annotated[Finite, Field(ge=0.5, lt=1)] = _JUDGED.confidence
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = _JUDGED.resamples
    slices: list[str] = [*_JUDGED.slices]
    slice_drops: dict[str, Fraction] = {**_JUDGED.slice_drops}
    index_loss: Fraction = _JUDGED.index_loss
    index_p99_ms: NonNegative = _JUDGED.index_p99_ms
    index_memory_mib: NonNegative = _JUDGED.index_memory_mib
    false_accepts: Annotated[Finite, Field(gt=0, lt=1)] = _JUDGED.false_accepts
    max_calibration_error: Fraction = _JUDGED.max_calibration_error
    require_calibration: bool = _JUDGED.require_calibration
    clustering: bool = _JUDGED.clustering
    force: str = _JUDGED.force

    @property
    def attributes(self) -> list[str]:
        """Columns of the data's table that the evaluation needs."""
        return sorted({self.leave_out, self.parents, *self.slices} - {"", *_BUILT_IN_SLICES})

    @model_validator(mode="after")
    def _judged_metrics_are_measured(self):
        missing = sorted({self.primary, *self.minimum} - set(self.metrics))
        if missing:
            raise ValueError(f"`primary` and `minimum` may only name entries of `metrics`. Not among them: {missing}")
        if reserved := sorted({"id", "role", "split", "vector"} & set(self.attributes)):
            raise ValueError(f"`leave_out`, `parents` and `slices` name other columns than {reserved}")
        return self


class Index(Section):
    """The search index of a release. The evaluation uses the test split alone, whatever the index contains.

    Attributes:
        splits: splits whose images are searchable, among "train", "val" and "test"; default all.
        neighbors: neighbors per query for which recall is measured, 1 to 10,000; default 10.
        leaves: partitions of the index; default 0 chooses it by the number of images.
        min_recall: minimum share of true neighbors that the index finds, in [0, 1]; default 0.95.
    """

    splits: Annotated[list[Literal["train", "val", "test"]], Field(min_length=1)] = ["train", "val", "test"]
    neighbors: Neighbors = 10
    leaves: Count = 0
    min_recall: Fraction = 0.95


class Release(Section):
    """The publication of releases.

    Attributes:
        folder: folder of releases; default "", which is `releases/<name>`.
    """

    folder: Annotated[str, Field(max_length=1_000, pattern=r"^[^\x00]*$")] = ""


@dataclass(frozen=True)
class Source:
    """Where the settings of an experiment come from.

    Args:
        path: the experiment file, as given on the command line.
        text: its content.
        overrides: the values of `--set`, such as `"loss.params.margin=0.2"`.
    """

    path: str
    text: str
    overrides: tuple[str, ...] = ()

    def command(self, verb: str) -> str:
        """The command line that runs this experiment, for a shell."""
        settings = [word for override in self.overrides for word in ("--set", override)]
        return shlex.join(["anchorage", verb, self.path, *settings])


class Experiment(Section):
    """All settings of a run; paths are relative to the current folder.

    Attributes:
        name: name of the experiment, 1 to 63 of the characters a-z, 0-9 and -; required.
        seed: seed of the split, the training and the evaluation, 0 to 2**32 - 2; default 0.
        runs: folder that holds the run folder of the experiment; default "runs".
        loss: the loss; default: chosen by the recipe.
        data, encoder, training, tuning, evaluation, index, release: the sections above; only `data` is required.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    seed: Seed = RunSettings.seed
    runs: Location = "runs"
    data: Data
    encoder: Encoder = Field(default_factory=lambda: Encoder.model_validate({}))
    loss: Named | None = None
    training: Training = Training()
    tuning: Tuning = Tuning()
    evaluation: Evaluation = Evaluation()
    index: Index = Index()
    release: Release = Release()

    @model_validator(mode="before")
    @classmethod
    def _head_for_vectors(cls, document: Any) -> Any:
        """Vectors have one encoder, a head."""
        data = document.get("data") if isinstance(document, Mapping) else None
        encoder = document.get("encoder", {}) if isinstance(document, Mapping) else None
        if isinstance(data, Mapping) and data.get("input") == "vectors" and isinstance(encoder, Mapping):
            return {**document, "encoder": {"name": VECTOR_ENCODER, **encoder}}
        return document

    _source: Source | None = PrivateAttr(None)  # no setting: not part of any cache key

    @property
    def source(self) -> Source | None:
        """The file that the experiment was read from; None if it was made in Python."""
        return self._source

    @model_validator(mode="before")
    @classmethod
    def _untrained_head(cls, document: Any) -> Any:
        """Without training there is no head to learn: the features themselves are the embeddings."""
        training = document.get("training") if isinstance(document, Mapping) else None
        encoder = document.get("encoder", {}) if isinstance(document, Mapping) else None
        if isinstance(training, Mapping) and training.get("epochs") == 0 and isinstance(encoder, Mapping):
            return {**document, "encoder": {"head": {"name": "identity"}, **encoder}}
        return document

    @model_validator(mode="after")
    def _nothing_to_train(self):
        if self.untrained and (self.encoder.head.name != "identity" or self.training.procedure):
            raise ValueError(
                "`training.epochs` = 0 trains nothing: leave out `training.procedure`, and `encoder.head` or name "
                f'it "identity". Received: head {self.encoder.head.name!r}'
            )
        return self

    @property
    def untrained(self) -> bool:
        """Whether the encoder is released as it is."""
        return self.training.epochs == 0

    @property
    def judge_settings(self) -> JudgeSettings:
        """The settings of the gate."""
        return JudgeSettings.from_dict({**self.evaluation.model_dump(), "seed": self.seed})

    @property
    def run_folder(self) -> Path:
        """Folder for metadata, artifacts, checkpoints and logs of this experiment."""
        return Path(self.runs).absolute() / self.name

    @property
    def release_folder(self) -> Path:
        """Folder for the published releases."""
        return Path(self.release.folder or Path("releases") / self.name).absolute()


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read and validate an experiment file.

    Args:
        path: the file.
        overrides: values that replace those of the file, such as `"loss.params.margin=0.2"`.

    Raises:
        UsageError: E_EXPERIMENT_MISSING, E_EXPERIMENT_SYNTAX, E_EXPERIMENT_KIND, E_OVERRIDE, or E_EXPERIMENT with all
            mistakes.
    """
    document = read_document(path, overrides)
    try:
        experiment = Experiment.model_validate(document)
    except ValidationError as error:
        raise UsageError("E_EXPERIMENT", f"{path} has mistakes:\n{explain(error, Experiment)}") from None
    experiment._source = Source(str(path), Path(path).read_text(encoding="utf-8-sig"), tuple(overrides))
    return experiment


def read_document(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read the tables of an experiment file, with overrides and without validation.

    Raises:
        UsageError: E_EXPERIMENT_MISSING, E_EXPERIMENT_SYNTAX, E_OVERRIDE, or E_EXPERIMENT_KIND for a comparison file.
    """
    document = read_toml(Path(path), "experiment")
    if {"entries", "experiment"} & set(document):
        raise UsageError("E_EXPERIMENT_KIND", f"{path} is a comparison, not an experiment: `anchorage compare {path}`")
    document = apply_overrides(document, overrides)
    data = document.get("data")
    if isinstance(data, dict) and "input" not in data and _holds_vectors(data):
        data["input"] = "vectors"
    return document


def _holds_vectors(data: Mapping[str, Any]) -> bool:
    path, columns = data.get("path"), data.get("columns")
    return isinstance(path, str) and is_vector_data(path, columns if isinstance(columns, Mapping) else {})


def search_space(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The ranges of an experiment by the path of their key: `{"loss.params.margin": {"low": ..., "high": ...}}`."""

    def walk(value: Any, path: str):
        if isinstance(value, Range | Choices):
            yield path, value.model_dump()
        elif isinstance(value, Section):
            for key in type(value).model_fields:
                yield from walk(getattr(value, key), f"{path}.{key}" if path else key)
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from walk(item, f"{path}.{key}")
        elif isinstance(value, list):
            yield from walk({str(index): item for index, item in enumerate(value)}, path)

    return dict(walk(experiment, ""))
