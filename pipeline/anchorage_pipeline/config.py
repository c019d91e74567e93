"""The experiment file: a TOML document, validated as a whole before anything runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from anchorage.data.limits import MAX_PIXELS
from anchorage.data.listing import MAX_REJECT_SHARE, MAX_REJECTS, TEST_SHARE, VAL_SHARE
from anchorage.data.remote import holds_vectors
from anchorage.data.spans import resolve_span
from anchorage.errors import UsageError
from anchorage.judging.settings import JudgeSettings
from anchorage.retrieval.index_building import SHARD_ROWS
from anchorage.retrieval.index_tuning import IndexLimits
from anchorage.storage import is_remote, join
from anchorage.training.settings import (
    DEFAULT_LOGGER,
    VECTOR_ENCODER,
    EncoderSettings,
    Pooling,
    Precision,
    RunSettings,
    Strategy,
    TrainingSettings,
)
from anchorage_pipeline.cluster.settings import Cluster
from anchorage_pipeline.documents import Source, read_toml
from anchorage_pipeline.mistakes import explain
from anchorage_pipeline.overrides import apply_overrides
from anchorage_pipeline.sections import Beam, Card, Release, Trigger
from anchorage_pipeline.tuning import Tuning
from anchorage_pipeline.values import (
    Count,
    DatabaseUrl,
    Finite,
    Fraction,
    Location,
    Named,
    NameOrTable,
    Neighbors,
    NonNegative,
    Params,
    Part,
    Rate,
    Section,
    Seed,
    Share,
)

_RESERVED = {"id", "role", "split", "vector"}  # columns of an embedding table
_BUILT_IN_SLICES = ("class_size", "confused", "label")  # need no column of the data's table


class Data(Section):
    """The images, their split, and their size."""

    path: Location
    """Folder with a subfolder per class, table (CSV, TSV, Parquet), or vectors, also on `s3://` or `gs://`; `{SPAN}`
    stands for the newest one."""
    input: Literal["images", "vectors"] = "images"
    """What the data are; found out from `path` if not set."""
    columns: dict[Literal["path", "label", "split", "role", "vector", "id"], str] = {}
    """Names of the table's columns for path, label, split and role, of vectors also vector and id; these if not set."""
    attributes: list[str] = []
    """Columns of the table by whose values a search in the release can be filtered."""
    val_share: Share = VAL_SHARE
    """Share of the classes outside test for validation; unused if the data is split."""
    test_share: Share = TEST_SHARE
    """Share of all classes for test; unused if the data is split."""
    image_size: Annotated[int, Field(gt=0, le=2_048)] = 96  # a batch of 64 of the largest takes 3 GB
    """Side of the square images in pixels."""
    fit: Literal["crop", "pad", "squash"] = "crop"
    """How to make an image square: "crop" its center, "pad" it, or "squash" it."""
    max_pixels: Annotated[int, Field(gt=0, le=10**9)] = MAX_PIXELS  # an image of 10**9 takes 3 GB
    """Images with more pixels are rejected."""
    max_reject_share: Share = MAX_REJECT_SHARE
    """Share of rejected records above which a run stops."""
    max_rejects: Count = MAX_REJECTS
    """Number of rejected records that are accepted whatever their share."""
    block_on_leaks: bool = True
    """Whether a class or identical image in several splits stops a run."""
    follow_links: bool = False
    """Whether symbolic links may lead out of the folder."""

    @model_validator(mode="after")
    def _attributes_are_further_columns(self):
        if reserved := sorted(_RESERVED & set(self.attributes)):
            raise ValueError(f"`attributes` names other columns than {reserved}")
        return self


class Encoder(Named):
    """The network that maps images, or vectors, to unit-length embeddings."""

    name: str = "efficientnet_lite0"
    """Name of the trunk, or "hub:PRESET" for a preset of KerasHub, or "head" for vectors."""
    embedding_size: Annotated[int, Field(gt=0, le=16_384)] | None = EncoderSettings.embedding_size
    """Dimension of the embeddings; if not set and the data are vectors, that of the vectors."""
    pooling: Pooling = EncoderSettings.pooling
    """Pooling of the feature map: "avg", "max" or "gem" (generalized mean); "token" is the class token of a preset."""
    weights: str | None = EncoderSettings.weights
    """Pretrained weights: "imagenet", or the folder of a preset; random weights if `name` is set to another encoder."""
    frozen_norm: bool | None = None
    """Whether batch normalization uses its stored statistics; chosen by the recipe if not set."""
    head: Named = Named(name=EncoderSettings.head.name)
    """Layers after the trunk; "plain" is one projection, "identity" none, which is used if nothing is trained."""
    cache: bool = EncoderSettings.cache
    """Whether a pretrained trunk stays as it is and embeds every image once, so that only the head is trained."""
    cached_copies: Count = EncoderSettings.cached_copies
    """Augmented copies of each training image in the cache; 0 trains without augmentation."""

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
    """The optimizer and the learning rates. The recipe chooses values that are not set, also single keys of tables."""

    name: str | None = None
    """Name of the optimizer, such as "adamw"."""
    params: Params = {}
    """Further arguments of the optimizer, such as `weight_decay`."""
    learning_rate: Rate | None = None
    """Peak learning rate, above 0."""
    schedule: Literal["constant", "linear", "cosine"] | None = None
    """Decay of the learning rate after warm-up: "constant", "linear" or "cosine"."""
    warmup_steps: Count | None = None
    """Steps of linear warm-up; 0 starts at the peak."""
    final_share: Fraction | None = None
    """Share of the peak learning rate at the last step."""
    rate_factors: dict[str, Rate] = {}
    """Factor on the learning rate by group of weights ("trunk", "head", "proxies"); 1 has no effect."""
    frozen_steps: dict[str, Count] = {}
    """Number of first steps in which a group is not trained, by group; 0 has no effect."""


class Training(Section):
    """The training. Values without a default are chosen by the recipe for the encoder and the training classes."""

    epochs: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Maximum number of epochs; 0 uses the encoder without training, so that images need no labels."""
    steps_per_epoch: Count | None = None
    """Steps per epoch; 0 takes one pass of the sampler."""
    patience: Count = TrainingSettings.patience
    """Epochs without improvement before training stops; 0 never stops early."""
    precision: Precision = TrainingSettings.precision
    """Numbers of the training: "float32", "mixed_bfloat16" or "mixed_float16"."""
    strategy: Strategy = TrainingSettings.strategy
    """Devices: "" trains on one, "mirrored" on all GPUs of this machine."""
    sampler: Part | None = None
    """Sampler of the batches."""
    optimizer: Optimizer = Optimizer()
    """The optimizer and the learning rates."""
    augmentation: dict[str, Finite | bool] | None = None
    """Augmentations of the training images; {} uses none."""
    methods: list[Part] | None = None
    """Training methods around the loss, the first one outermost; [] uses none."""
    procedure: Part | None = None
    """A training that consists of several runs, such as self-training; a single run if not set."""
    loggers: list[NameOrTable] = [Named(name=DEFAULT_LOGGER)]
    """What logs the metrics: "tensorboard", "mlflow", "wandb" or a Keras callback; names, or tables with `params`."""


_JUDGED = JudgeSettings()  # for its defaults


class Evaluation(Section):
    """The evaluation on the test split, and the gate that decides whether the candidate is published."""

    metrics: list[str] = [*_JUDGED.metrics]
    """Metrics of the report."""
    primary: str = _JUDGED.primary
    """The one of `metrics` that decides."""
    minimum: dict[str, Fraction] = {**_JUDGED.minimum}
    """Minimum values by metric."""
    leave_out: str = _JUDGED.leave_out
    """Column of the table, such as the camera: a query ignores gallery images with its own value; "" none."""
    parents: str = _JUDGED.parents
    """Column of the table with coarser classes, for `graded_ndcg@k`; "" none."""
    max_drop: Fraction = _JUDGED.max_drop
    """Accepted loss of the primary metric against the last release."""
    confidence: Annotated[Finite, Field(ge=0.5, lt=1)] = _JUDGED.confidence
    """Confidence of the bound on this loss."""
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = _JUDGED.resamples
    """Number of bootstrap samples."""
    slices: list[str] = [*_JUDGED.slices]
    """Columns to slice queries by, or "class_size", "confused" or "label"."""
    slice_drops: dict[str, Fraction] = {**_JUDGED.slice_drops}
    """Accepted loss by slice ("family=lucide"), column ("family") or "" (others)."""
    index_loss: Fraction = _JUDGED.index_loss
    """Accepted loss of recall@1 by search through the index."""
    index_p99_ms: NonNegative = _JUDGED.index_p99_ms
    """Limit on the 99th percentile of the query time in milliseconds, for the choice of the index too; 0 is none."""
    index_memory_mib: NonNegative = _JUDGED.index_memory_mib
    """Limit on the memory of the index in MiB, for the choice of the index too; 0 is none."""
    false_accepts: Annotated[Finite, Field(gt=0, lt=1)] = _JUDGED.false_accepts
    """Target share of queries of unknown classes that search answers."""
    max_calibration_error: Fraction = _JUDGED.max_calibration_error
    """Calibration error above which search shows no probabilities."""
    require_calibration: bool = _JUDGED.require_calibration
    """Whether the gate rejects a candidate whose calibration does not hold."""
    clustering: bool = _JUDGED.clustering
    """Whether to compute clustering metrics, which is slow."""
    force: str = _JUDGED.force
    """Reason to publish a candidate that the gate rejects; "" does not publish it."""

    @property
    def attributes(self) -> list[str]:
        """Columns of the data's table that the evaluation needs."""
        return sorted({self.leave_out, self.parents, *self.slices} - {"", *_BUILT_IN_SLICES})

    @model_validator(mode="after")
    def _judged_metrics_are_measured(self):
        missing = sorted({self.primary, *self.minimum} - set(self.metrics))
        if missing:
            raise ValueError(f"`primary` and `minimum` may only name entries of `metrics`. Not among them: {missing}")
        if reserved := sorted(_RESERVED & set(self.attributes)):
            raise ValueError(f"`leave_out`, `parents` and `slices` name other columns than {reserved}")
        return self


class Index(Section):
    """The search index of a release. The evaluation uses the test split alone, whatever the index contains."""

    splits: Annotated[list[Literal["train", "val", "test"]], Field(min_length=1)] = ["train", "val", "test"]
    """Splits whose images are searchable, among "train", "val" and "test"."""
    neighbors: Neighbors = 10
    """Neighbors per query for which recall is measured."""
    leaves: Count = 0
    """Partitions of the index, or of each shard; 0 chooses them by the number of images."""
    shard_rows: Annotated[int, Field(gt=0, le=1_000_000_000)] = SHARD_ROWS
    """Most images of a shard; of a larger gallery, workers of Beam index the shards, which are searched as one."""
    min_recall: Fraction = IndexLimits.min_recall
    """Minimum share of true neighbors that the index finds."""


class Experiment(Section):
    """All settings of a run; paths are relative to the current folder."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    """Name of the experiment, 1 to 63 of the characters a-z, 0-9 and -."""
    seed: Seed = RunSettings.seed
    """Seed of the split, the training and the evaluation."""
    runs: Location = "runs"
    """Folder that holds the run folder of the experiment; with `s3://BUCKET/PATH` or `gs://BUCKET/PATH` it is
    `runs/<name>` that holds metadata, logs and cached features, and the bucket has the artifacts and checkpoints."""
    metadata: DatabaseUrl = ""
    """Database of ML Metadata, `postgresql://USER@HOST:PORT/DATABASE` or `mysql://...`, with its password in the
    environment variable `ANCHORAGE_METADATA_PASSWORD`; "" is a SQLite file in the run folder."""
    data: Data
    """The images."""
    encoder: Encoder = Field(default_factory=lambda: Encoder.model_validate({}))
    """The network."""
    loss: Part | None = None
    """The loss, or several for the tuner to choose from; chosen by the recipe if not set."""
    training: Training = Training()
    """The training."""
    tuning: Tuning = Tuning()
    """The hyperparameter search."""
    evaluation: Evaluation = Evaluation()
    """The evaluation and the gate."""
    index: Index = Index()
    """The search index."""
    release: Release = Release()
    """The publication."""
    trigger: Trigger = Trigger()
    """When a scheduled run trains again."""
    beam: Beam = Beam()
    """The engine of the nodes that read, audit, pack, embed and index the data."""
    card: Card = Card()
    """What the report and the model card say beside what was measured."""
    cluster: Cluster = Cluster()
    """Runs on Kubeflow."""

    @model_validator(mode="before")
    @classmethod
    def _usual_encoder(cls, document: Any) -> Any:
        """Vectors have one encoder, a head. Without training there is no head to learn: features are the embeddings."""
        found = document if isinstance(document, dict) else {}
        sections = [found.get(key, {}) for key in ("encoder", "data", "training")]
        if not found or not all(isinstance(section, Mapping) for section in sections):
            return document
        encoder, data, training = sections
        usual: dict[str, Any] = {"head": {"name": "identity"}} if training.get("epochs") == 0 else {}
        if data.get("input") == "vectors":
            usual |= {"name": VECTOR_ENCODER, "embedding_size": None}
        return {**document, "encoder": {**usual, **encoder}} if usual else document

    _source: Source | None = PrivateAttr(None)  # no setting: not part of any cache key

    @property
    def source(self) -> Source | None:
        """The file that the experiment was read from; None if it was made in Python."""
        return self._source

    @model_validator(mode="after")
    def _nothing_to_train(self):
        if self.untrained and (self.encoder.head.name != "identity" or self.training.procedure):
            raise ValueError(
                "`training.epochs` = 0 trains nothing: leave out `training.procedure`, and `encoder.head` or name "
                f'it "identity". Received: head {self.encoder.head.name!r}'
            )
        return self

    def computed(self) -> dict[str, Any]:
        """The settings as plain values, without those that only say when, where and by what means it is run."""
        return self.model_dump(mode="json", exclude={"runs", "release", "metadata", "trigger", "beam", "cluster"})

    @property
    def attributes(self) -> list[str]:
        """Columns of the data's table to keep with each item: for filters, and for the evaluation."""
        return sorted({*self.data.attributes, *self.evaluation.attributes})

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
        """Folder for metadata, logs and cached features of this experiment, on this machine."""
        return Path("runs" if is_remote(self.runs) else self.runs).absolute() / self.name

    @property
    def artifact_folder(self) -> str:
        """Path or URI of the folder for artifacts and checkpoints of this experiment."""
        return join(self.runs, self.name) if is_remote(self.runs) else str(self.run_folder)

    @property
    def release_folder(self) -> str:
        """Path or URI of the folder of the published releases."""
        folder = self.release.folder or f"releases/{self.name}"
        return folder if is_remote(folder) else str(Path(folder).absolute())


def load_experiment(path: str | Path, overrides: Sequence[str] = (), *, is_local: bool = True) -> Experiment:
    """Read and validate an experiment file.

    Args:
        path: the file.
        overrides: values that replace those of the file, such as `"loss.params.margin=0.2"`.
        is_local: whether the data is on this machine; `{SPAN}` in its path is then replaced by the newest span.

    Raises:
        UsageError: E_EXPERIMENT_MISSING, _SYNTAX, _KIND, E_OVERRIDE, E_SPAN, or E_EXPERIMENT with all mistakes.
    """
    document = read_document(path, overrides, is_local=is_local)
    try:
        experiment = Experiment.model_validate(document)
    except ValidationError as error:
        raise UsageError("E_EXPERIMENT", f"{path} has mistakes:\n{explain(error, Experiment)}") from None
    text = Path(path).read_text(encoding="utf-8-sig")
    experiment._source = Source(str(path) if is_local else Path(path).name, text, tuple(overrides))
    return experiment


def read_document(path: str | Path, overrides: Sequence[str] = (), *, is_local: bool = True) -> dict[str, Any]:
    """Read the tables of an experiment file, with overrides and without validation; raises as `load_experiment`."""
    document = read_toml(Path(path), "experiment")
    if {"entries", "experiment"} & set(document):
        raise UsageError("E_EXPERIMENT_KIND", f"{path} is a comparison, not an experiment: `anchorage compare {path}`")
    document = apply_overrides(document, overrides)
    data = document.get("data")
    if is_local and isinstance(data, dict) and isinstance(data.get("path"), str):
        data["path"] = resolve_span(data["path"])
    if isinstance(data, dict) and "input" not in data and _holds_vectors(data):
        data["input"] = "vectors"
    return document


def _holds_vectors(data: Mapping[str, Any]) -> bool:
    path, columns = data.get("path"), data.get("columns")
    return isinstance(path, str) and holds_vectors(path, columns if isinstance(columns, Mapping) else {})
