"""Settings of the evaluation of a candidate (`[evaluation]` of an experiment file), with their defaults."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from anchorage.errors import UsageError

TEST, VALIDATION = "test", "val"  # the split to evaluate on, and the split to choose thresholds on


class QueryProtocol(NamedTuple):
    """Columns of a table that change the evaluation.

    Args:
        leave_out: column with groups; images of the query's own group are excluded from its results.
        parents: column with parent classes.
    """

    leave_out: str = ""
    parents: str = ""


@dataclass(frozen=True)
class JudgeSettings:
    """Settings of evaluation and gate.

    Args:
        metrics: names of the metrics to report, such as `"recall@1"`.
        primary: the metric that decides; it is compared with the baselines on the same queries.
        minimum: floors: metric name -> lowest accepted value, in [0, 1].
        leave_out: column of the embeddings with groups; images of the query's own group are excluded from its results.
        parents: column of the embeddings with parent classes.
        max_drop: accepted loss in the primary metric against the earlier release, in [0, 1]; also that of queries of
            the new model in the gallery of the old one.
        confidence: confidence of the gate's bound, of the tests of slices and of the intervals against the baselines
            without training, in [0.5, 1).
        resamples: number of bootstrap resamples, at least 100.
        slices: kinds of slices of the common queries, see `make_slices`.
        slice_drops: slice name, or the part before "=" -> accepted loss on this slice; "" for all others.
        index_loss: accepted loss in recall by search through the index, in [0, 1].
        index_p99_ms: upper limit of the 99th percentile of the latency; 0 for no limit.
        index_memory_mib: upper limit of the memory of the index; 0 for no limit.
        false_accepts: highest share of queries of unknown classes that may be accepted, in (0, 1).
        max_calibration_error: highest calibration error with which search shows match probabilities, in [0, 1].
        require_calibration: whether the gate fails if the calibration is missing or does not hold.
        clustering: whether to compute clustering metrics, which is slow.
        force: reason to publish a candidate that fails the gate; "" does not publish it.
        seed: seed of all random choices.

    Raises:
        UsageError: `E_GATE` if a number of the gate is out of range.
    """

    metrics: Sequence[str] = ("recall@1", "recall@2", "recall@4", "recall@8", "map@r", "r_precision", "ndcg@10")
    primary: str = "map@r"
    minimum: Mapping[str, float] = field(default_factory=dict)
    leave_out: str = ""
    parents: str = ""
    max_drop: float = 0.02
    confidence: float = 0.95
    resamples: int = 2000
    slices: Sequence[str] = ("class_size", "confused")
    slice_drops: Mapping[str, float] = field(default_factory=lambda: {"": 0.05})
    index_loss: float = 0.02
    index_p99_ms: float = 0
    index_memory_mib: float = 0
    false_accepts: float = 0.05
    max_calibration_error: float = 0.05
    require_calibration: bool = False
    clustering: bool = False
    force: str = ""
    seed: int = 0

    def __post_init__(self):
        for name, value in {**self.minimum, "max_drop": self.max_drop, **self.slice_drops}.items():
            if not 0 <= value <= 1:
                raise UsageError("E_GATE", f"Expected `{name}` of the gate in [0, 1]. Received: {value}")
        if not 0.5 <= self.confidence < 1:
            raise UsageError("E_GATE", f"Expected `confidence` of the gate in [0.5, 1). Received: {self.confidence}")
        if self.resamples < 100:
            raise UsageError("E_GATE", f"Expected at least 100 `resamples` of the gate. Received: {self.resamples}")

    @property
    def protocol(self) -> QueryProtocol:
        """Columns that change the evaluation."""
        return QueryProtocol(self.leave_out, self.parents)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "JudgeSettings":
        """Create settings from plain values, such as a JSON object; missing ones have their defaults.

        Raises:
            TypeError: on an unknown name.
        """
        given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**given)

    @classmethod
    def from_experiment(cls, experiment: Mapping[str, Any]) -> "JudgeSettings":
        """Create settings from the experiment in a report, which can be from another version of this project."""
        values = dict(experiment.get("evaluation", {}))
        if "seed" in experiment:
            values["seed"] = experiment["seed"]
        known = {each.name for each in fields(cls)}
        return cls.from_dict({key: value for key, value in values.items() if key in known})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values for JSON."""
        return asdict(self)
