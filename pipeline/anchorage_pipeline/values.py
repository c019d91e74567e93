"""The kinds of values in an experiment file: numbers with limits, ranges for the tuner, and tables of them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from typing_extensions import TypeAliasType

from anchorage.tuning.ranges import Range as SearchRange
from anchorage.tuning.ranges import read_space
from anchorage_pipeline.metadata.server import parse_url

# Upper limits are above any useful value, and below what would overflow or exhaust memory.
_COUNT = 10**9  # within 32 bits

Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[Finite, Field(ge=0, le=1)]
Share = Annotated[Finite, Field(ge=0, lt=1)]
Positive = Annotated[Finite, Field(gt=0)]
NonNegative = Annotated[Finite, Field(ge=0)]
Count = Annotated[int, Field(ge=0, le=_COUNT)]
Epochs = Annotated[int, Field(gt=0, le=1_000_000)]
Neighbors = Annotated[int, Field(gt=0, le=10_000)]  # kept in memory for all queries
Seed = Annotated[int, Field(ge=0, le=2**32 - 2)]  # NumPy accepts 32 bits, and the tuner uses seed + 1
DatabaseUrl = Annotated[str, Field(max_length=1_000), AfterValidator(lambda url: url and parse_url(url) and url)]
Location = Annotated[str, Field(min_length=1, max_length=1_000, pattern=r"^[^\x00]*$")]


class Section(BaseModel):
    """Base class of all sections: unknown keys are errors, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Range(Section):
    """A range of numbers for the tuner to search; integers only if both ends are integers."""

    low: int | Finite
    """Smallest value."""
    high: int | Finite
    """Largest value, above `low`."""
    sampling: Literal["linear", "log"] = "linear"
    """Scale on which to search: "linear", or "log", which requires `low` above 0."""
    step: int | Finite | None = None
    """Distance between two values, above 0; with `sampling = "log"` their ratio, above 1. Not set: any value."""
    default: int | Finite | None = None
    """Where the coordinate search starts; the middle if not set."""

    @model_validator(mode="before")
    @classmethod
    def _former_log(cls, values: Any) -> Any:
        """Files of 0.1 say `log = true`."""
        if isinstance(values, dict) and isinstance(values.get("log"), bool) and "sampling" not in values:
            rest = {key: value for key, value in values.items() if key != "log"}
            return {**rest, "sampling": "log"} if values["log"] else rest
        return values

    @model_validator(mode="after")
    def _ordered(self):
        if not self.low < self.high:
            raise ValueError(f"`low` must be below `high`. Received: low={self.low}, high={self.high}")
        if self.sampling == "log" and self.low <= 0:
            raise ValueError(f'a range with sampling = "log" must lie above 0. Received: low={self.low}')
        least = 1 if self.sampling == "log" else 0
        if self.step is not None and not self.step > least:
            raise ValueError(f"`step` must be above {least}. Received: step={self.step}")
        if self.default is not None and not self.low <= self.default <= self.high:
            raise ValueError(f"`default` must lie in the range. Received: default={self.default}")
        integers = isinstance(self.low, int) and isinstance(self.high, int)
        if integers and not all(isinstance(value, int | None) for value in (self.step, self.default)):
            raise ValueError(
                "a range between integers has integers only. "
                f"Received: step={self.step}, default={self.default}; write `low` as {self.low}.0"
            )
        return self


class Choices(Section):
    """A list of values for the tuner to try."""

    choices: Annotated[list[bool | int | float | str], Field(min_length=2)]
    """The values, at least two of one kind."""
    default: bool | int | float | str | None = None
    """Where the coordinate search starts, and what the size of an epoch is counted with; the first if not set."""

    @model_validator(mode="after")
    def _of_one_kind(self):
        kinds = {"numbers" if type(value) in (int, float) else type(value).__name__ for value in self.choices}
        if len(kinds) > 1:
            raise ValueError(f"`choices` must be of one kind. Received: {self.choices}")
        _check_distinct(self.choices, self.default)
        return self


def _check_distinct(names: Sequence[Any], default: Any) -> None:
    if repeated := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(f"`choices` must be distinct. Received twice: {repeated[0]!r}")
    if default is not None and default not in names:
        raise ValueError(f"`default` must be one of the choices {list(names)}. Received: {default!r}")


def _kind(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "<tables>"
    if isinstance(value, Choices) or (isinstance(value, dict) and "choices" in value):
        return "<choices>"
    if isinstance(value, Range) or (isinstance(value, dict) and {"low", "high"} & set(value) and "name" not in value):
        return "<range>"
    return "<table>" if isinstance(value, dict) else "<value>"


# A plain value, a range or list of choices for the tuner, or a table, such as a nested component. The discriminator
# tells them apart by their keys, so that a mistake is reported once instead of once per type.
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
    """A component chosen by name, with its constructor arguments."""

    name: str
    """Name in the table of components, or `"module:ClassName"` for a user-defined one."""
    params: Params = {}
    """Constructor arguments, which may be ranges."""


def _as_table(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


NameOrTable = Annotated[Named, BeforeValidator(_as_table, json_schema_input_type=str | Named)]


class Alternatives(Section):
    """A list of components for the tuner to try; the ranges in one of them are searched together with it."""

    choices: Annotated[list[NameOrTable], Field(min_length=2)]
    """Components of distinct names: names, or tables with `params`. Among methods, "none" leaves the entry out."""
    default: str | None = None
    """Name of the component that the coordinate search starts with; the first if not set."""

    @model_validator(mode="after")
    def _distinct(self):
        _check_distinct([choice.name for choice in self.choices], self.default)
        return self


def _part_kind(value: Any) -> str:
    return (
        "<alternatives>"
        if isinstance(value, Alternatives) or (isinstance(value, dict) and "choices" in value)
        else "<part>"
    )


Part = Annotated[
    Annotated[Named, Tag("<part>")] | Annotated[Alternatives, Tag("<alternatives>")], Discriminator(_part_kind)
]


def search_space(experiment: Section) -> list[SearchRange]:
    """The ranges of an experiment, by the path of their key."""
    return read_space(experiment.model_dump(include={"encoder", "loss", "training"}))
