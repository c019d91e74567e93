"""How a candidate is judged: what an experiment's `[evaluation]` says, with every default."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from anchorage.errors import UsageError

TEST, VALIDATION = "test", "val"  # the split that is judged, and the one that thresholds are chosen on


class QueryProtocol(NamedTuple):
    """How a table is asked: the column whose own value a query does not meet, and that of the coarser classes."""

    leave_out: str = ""
    parents: str = ""


@dataclass(frozen=True)
class JudgeSettings:
    """What decides about a candidate.

    Args:
        metrics: names of the metrics to report, such as `"recall@1"`.
        primary: the metric that decides, compared with the baselines on the same queries.
        minimum: metric name -> least accepted value, in [0, 1].
        leave_out: column of the embeddings; a query meets no image with its own value there.
        parents: column of the embeddings with coarser classes.
        max_drop: how much of the primary metric may be lost against the earlier release, in [0, 1]; also by today's
            search, where queries and gallery are of different models.
        confidence: of the gate's bound, the slices and the intervals against the baselines without training,
            in [0.5, 1).
        resamples: bootstrap draws, at least 100.
        slices: what to cut the common queries by, see `make_slices`.
        slice_drops: slice name, or the part before "=", -> how much may be lost there; "" for all others.
        index_loss: how much of the label metric search through the index may lose, in [0, 1].
        index_p99_ms: longest time of 99 % of single queries; 0: no limit.
        index_memory_mib: most memory the index may take; 0: no limit.
        false_accepts: most queries of unknown classes that may be answered, in (0, 1).
        max_calibration_error: largest calibration error with which a match probability is shown, in [0, 1].
        require_calibration: whether a calibration that does not hold, or that there is none, is a fault.
        clustering: whether to cluster the space, which takes its time.
        force: why a candidate that would be held is published all the same; "" holds it.
        seed: of everything drawn.

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
        """How a table is asked."""
        return QueryProtocol(self.leave_out, self.parents)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "JudgeSettings":
        """Settings from plain values, such as those of a JSON object; what is absent has its default.

        Raises:
            TypeError: on an unknown name.
        """
        given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**given)

    @classmethod
    def from_experiment(cls, experiment: Mapping[str, Any]) -> "JudgeSettings":
        """Settings from an experiment as a report holds it, perhaps one of another version of this project."""
        told = {**experiment.get("evaluation", {}), **{key: experiment[key] for key in ("seed",) if key in experiment}}
        known = {each.name for each in fields(cls)}
        return cls.from_dict({key: value for key, value in told.items() if key in known})

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for JSON."""
        return asdict(self)
