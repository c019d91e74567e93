"""The kinds of values in an experiment file: numbers with limits, ranges for the tuner, and tables of them."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from typing_extensions import TypeAliasType

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
    log: bool = False
    """Whether to search on a logarithmic scale, which requires `low` above 0."""

    @model_validator(mode="after")
    def _ordered(self):
        if not self.low < self.high:
            raise ValueError(f"`low` must be below `high`. Received: low={self.low}, high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a range with log = true must lie above 0. Received: low={self.low}")
        return self


class Choices(Section):
    """A list of values for the tuner to try."""

    choices: Annotated[list[bool | int | float | str], Field(min_length=2)]
    """The values, at least two."""


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


def search_space(experiment: Section) -> dict[str, dict[str, Any]]:
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
