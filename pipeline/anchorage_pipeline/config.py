"""The experiment file: one TOML document, checked in full before anything runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from typing_extensions import TypeAliasType

from anchorage.errors import UsageError
from anchorage.judging.settings import JudgeSettings
from anchorage.training.settings import Precision, Strategy, TrainingSettings
from anchorage_pipeline.documents import read_toml
from anchorage_pipeline.mistakes import explain

# Upper limits are beyond what anyone wants and below what overflows or fills the memory.
_COUNT = 10**9  # within 32 bits

Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[Finite, Field(ge=0, le=1)]
Share = Annotated[Finite, Field(ge=0, lt=1)]
Positive = Annotated[Finite, Field(gt=0)]
NonNegative = Annotated[Finite, Field(ge=0)]
Count = Annotated[int, Field(ge=0, le=_COUNT)]
Epochs = Annotated[int, Field(gt=0, le=1_000_000)]
Neighbors = Annotated[int, Field(gt=0, le=10_000)]  # held for every query at once
Seed = Annotated[int, Field(ge=0, le=2**32 - 2)]  # NumPy takes 32 bits, and the tuner one more than this
Location = Annotated[str, Field(min_length=1, max_length=1_000, pattern=r"^[^\x00]*$")]

_NO_COLUMNS = ("class_size", "confused", "label")  # slices that need no column of the data's table


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Range(Section):
    """A number for the tuner to choose between `low` and `high`; `log` spreads the trials by factor.

    If both ends are whole numbers, so is what lies between them.
    """

    low: int | Finite
    high: int | Finite
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self):
        if not self.low < self.high:
            raise ValueError(f"`low` must be below `high`. Received: low={self.low}, high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a range with log = true must lie above 0. Received: low={self.low}")
        return self


class Choices(Section):
    """Values for the tuner to choose among."""

    choices: Annotated[list[bool | int | float | str], Field(min_length=2)]


def _kind(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "<tables>"
    if isinstance(value, Choices) or (isinstance(value, dict) and "choices" in value):
        return "<choices>"
    if isinstance(value, Range) or (isinstance(value, dict) and {"low", "high"} & set(value) and "name" not in value):
        return "<range>"
    return "<table>" if isinstance(value, dict) else "<value>"


# A plain value, a table that the tuner searches, or another table, such as a building block inside this one; told
# apart by shape, so that a mistake is explained once.
_Range = Annotated[Range, Tag("<range>")]
_Choices = Annotated[Choices, Tag("<choices>")]
_Table = Annotated[dict[str, "Param"], Tag("<table>")]
_Tables = Annotated[list[dict[str, "Param"]], Tag("<tables>")]
Scalar = bool | int | float | str
Param = TypeAliasType(
    "Param",
    Annotated[
        Annotated[Scalar | list[Scalar], Tag("<value>")] | _Range | _Choices | _Table | _Tables, Discriminator(_kind)
    ],
)
Rate = Annotated[Annotated[Positive, Tag("<value>")] | _Range | _Choices, Discriminator(_kind)]
Params = dict[str, Param]


class Named(Section):
    """A building block picked by name, with its constructor arguments."""

    name: str
    params: Params = {}


class Data(Section):
    """Where the images are, how they are split and to what size they are brought.

    `follow_links` lets symbolic links lead out of the folder of images.
    """

    path: Location
    columns: dict[Literal["path", "label", "split", "role"], str] = {}
    val_share: Share = 0.15
    test_share: Share = 0.5
    image_size: Annotated[int, Field(gt=0, le=2_048)] = 96  # a batch of 64 such images takes 3 GB
    fit: Literal["crop", "pad", "squash"] = "crop"
    max_pixels: Annotated[int, Field(gt=0, le=10**9)] = 50_000_000  # one such image takes 3 GB
    max_reject_share: Share = 0.001
    max_rejects: Count = 10
    block_on_leaks: bool = True
    follow_links: bool = False


class Encoder(Named):
    """The network from images to unit-length embeddings.

    Without a `name` it starts from stored weights; a network that is named has random ones unless `weights` says
    otherwise. `frozen_norm` is left to the recipe where it is not written.
    """

    name: str = "efficientnet_lite0"
    embedding_size: Annotated[int, Field(gt=0, le=16_384)] = 128
    pooling: Literal["avg", "max", "gem"] = "gem"
    weights: str | None = None
    frozen_norm: bool | None = None
    head: Named = Named(name="plain")

    @model_validator(mode="before")
    @classmethod
    def _default_is_pretrained(cls, section: Any) -> Any:
        if isinstance(section, Mapping) and "name" not in section:
            return {"weights": "imagenet", **section}
        return section


class Optimizer(Section):
    """The optimizer, its schedule and the learning-rate factors of groups of weights.

    What is not written is left to the recipe, groups one by one; a factor of 1 and 0 frozen steps switch it off.
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
    """One training run; `methods` wrap around the loss, the first as the outermost.

    A `procedure` makes several such runs into one learner. What is None is chosen by the recipe,
    `models/anchorage/training/recipes.py`, for the encoder and the classes there are; an empty table or list means
    none.
    """

    epochs: Epochs | None = None
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
    """The search, when some value of the file is a range."""

    oracle: Literal["random", "bayesian"] = "random"
    trials: Annotated[int, Field(gt=0, le=100_000)] = 8
    epochs: Epochs = 5


_JUDGED = JudgeSettings()  # has the defaults


class Evaluation(Section):
    """How the candidate is judged, on the test split and against the last release.

    Columns are those of the data's table: `leave_out` (a query meets no image with its own value there, such as the
    camera or the family of drawings), `parents` (coarser classes, for `graded_ndcg@k`) and `slices` (parts judged one
    by one, each value with its own; "class_size", "confused" and "label" need no column). `max_drop` is what the
    primary metric may lose with `confidence`, `slice_drops` what it may lose on a slice, by its name ("family=lucide"),
    its kind ("family") or "" for all others. `index_loss` is what search through the index may lose of the label
    metric; `index_p99_ms` and `index_memory_mib` limit it where they are not 0. `false_accepts` is the share of queries
    of unknown classes that search may answer. A match probability whose calibration error on the test split is above
    `max_calibration_error` is not shown, and with `require_calibration` holds the candidate, as does a broken promise
    on unknown classes. `force` gives a reason to publish what the gate holds.
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
        """Columns of the data's table that must travel with the images."""
        return sorted({self.leave_out, self.parents, *self.slices} - {"", *_NO_COLUMNS})

    @model_validator(mode="after")
    def _judged_metrics_are_measured(self):
        missing = sorted({self.primary, *self.minimum} - set(self.metrics))
        if missing:
            raise ValueError(f"`primary` and `minimum` may only name entries of `metrics`. Not among them: {missing}")
        if reserved := sorted({"id", "role", "split", "vector"} & set(self.attributes)):
            raise ValueError(f"`leave_out`, `parents` and `slices` name other columns than {reserved}")
        return self


class Index(Section):
    """The gallery index: by default of the whole catalogue; `leaves = 0` lets the number of rows decide.

    What is evaluated is the test split alone, whatever the index holds.
    """

    splits: Annotated[list[Literal["train", "val", "test"]], Field(min_length=1)] = ["train", "val", "test"]
    neighbors: Neighbors = 10
    leaves: Count = 0
    min_recall: Fraction = 0.95


class Release(Section):
    """Where blessed releases are published; by default a folder of the experiment's own."""

    folder: Annotated[str, Field(max_length=1_000, pattern=r"^[^\x00]*$")] = ""


class Experiment(Section):
    """Everything that tells one run from another."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    seed: Seed = 0
    runs: Location = "runs"
    data: Data
    encoder: Encoder = Field(default_factory=lambda: Encoder.model_validate({}))
    loss: Named | None = None
    training: Training = Training()
    tuning: Tuning = Tuning()
    evaluation: Evaluation = Evaluation()
    index: Index = Index()
    release: Release = Release()

    @property
    def judge_settings(self) -> JudgeSettings:
        """What decides about the candidate."""
        return JudgeSettings.from_dict({**self.evaluation.model_dump(), "seed": self.seed})

    @property
    def run_folder(self) -> Path:
        """Where metadata, artifacts, checkpoints and logs of this experiment stay."""
        return Path(self.runs).absolute() / self.name

    @property
    def release_folder(self) -> Path:
        """Base path of the published versions."""
        return Path(self.release.folder or Path("releases") / self.name).absolute()


def load_experiment(path: str | Path) -> Experiment:
    """Read and check one experiment file.

    Raises:
        UsageError: E_EXPERIMENT_MISSING, E_EXPERIMENT_SYNTAX, E_EXPERIMENT_KIND, or E_EXPERIMENT naming
            every wrong key and value at once.
    """
    try:
        return Experiment.model_validate(read_document(path))
    except ValidationError as error:
        raise UsageError("E_EXPERIMENT", f"{path} has mistakes:\n{explain(error, Experiment)}") from None


def read_document(path: str | Path) -> dict[str, Any]:
    """The tables of an experiment file as they stand there.

    Raises:
        UsageError: E_EXPERIMENT_MISSING, E_EXPERIMENT_SYNTAX, or E_EXPERIMENT_KIND for a comparison file.
    """
    document = read_toml(Path(path), "experiment")
    if {"entries", "experiment"} & set(document):
        raise UsageError("E_EXPERIMENT_KIND", f"{path} is a comparison, not an experiment: `anchorage compare {path}`")
    return document


def search_space(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The ranges of the file by the path of their key: `{"loss.params.margin": {"low": ..., "high": ...}}`."""

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
            yield from walk({str(place): item for place, item in enumerate(value)}, path)

    return dict(walk(experiment, ""))
