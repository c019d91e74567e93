"""Bodies of requests and answers, as they are documented in the OpenAPI document."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

_TEXT = 1024  # characters of an id, a label, or an attribute
_BASE64: dict[str, Any] = {"contentEncoding": "base64"}
# Faults take longer to list than a body to read: long lists are refused whole, and values at their first fault.
_LONGEST = 10_000

Values = str | Annotated[list[str], Field(max_length=_LONGEST, fail_fast=True)]
Text = Annotated[str, Field(max_length=_TEXT)]
Numbers = Annotated[
    list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1, max_length=16_384, fail_fast=True)
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FilterBody(_Body):
    """Conditions on the results, all of which must hold; each is a value or a list of allowed values."""

    id: Values | None = None
    label: Values | None = None
    attributes: dict[str, Values] | None = Field(
        default=None, description='Conditions by name; an item without the attribute has the value "".'
    )


class QueryBody(_Body):
    """What to search for: exactly one of `image`, `vector`, `id` and `text`."""

    image: str | None = Field(default=None, description="An image file in base64.", json_schema_extra=_BASE64)
    vector: Numbers | None = Field(
        default=None,
        description="An embedding of the release's dimension; for a release of vectors, a vector to embed.",
    )
    id: Text | None = Field(default=None, description="Id of an item, which is left out of its own results.")
    text: Annotated[str, Field(min_length=1, max_length=2_000)] | None = Field(
        default=None, description="A description, for a release with an encoder for texts."
    )
    k: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Number of results.")
    filter: FilterBody | None = None
    min_score: float | None = Field(default=None, allow_inf_nan=False, description="Least similarity of a result.")


class QueriesBody(_Body):
    """Several queries; `k`, `filter` and `min_score` hold for those without their own."""

    queries: Annotated[list[QueryBody], Field(max_length=_LONGEST)]
    k: Annotated[int, Field(ge=1)] | None = None
    filter: FilterBody | None = None
    min_score: float | None = Field(default=None, allow_inf_nan=False)


class ItemBody(_Body):
    """An item: an image or a vector, and what is known of it. What is not given stays as it is."""

    image: str | None = Field(default=None, description="An image file in base64.", json_schema_extra=_BASE64)
    vector: Numbers | None = None
    label: Text | None = None
    attributes: dict[Text, Text] | None = None


class BatchItemBody(ItemBody):
    """An item of a batch."""

    id: Annotated[str, Field(min_length=1, max_length=_TEXT)]


class BatchBody(_Body):
    """Items to put and ids to delete, all or none of them."""

    put: Annotated[list[BatchItemBody], Field(max_length=_LONGEST)] = []
    delete: Annotated[list[Text], Field(max_length=_LONGEST)] = []


class VersionBody(_Body):
    """A release by its version."""

    version: Annotated[int, Field(ge=1, lt=10**18)]


class ReleaseId(BaseModel):
    """The release that answered."""

    version: int
    fingerprint: str


class Result(BaseModel):
    """One result of a search."""

    id: str
    label: str
    score: float = Field(description="Cosine similarity, in [-1, 1].")
    probability: float | None = Field(description="Probability of a match, if the release has one that holds.")
    likely: bool | None = Field(
        description="Whether the score is that of a likely match, if the release has no match probability."
    )
    attributes: dict[str, str]


class AnswerBody(BaseModel):
    """The answer to one query."""

    results: list[Result]
    unknown: bool | None = Field(
        description="Whether all items are too far away to rule out that the gallery lacks the query's class."
    )
    left_out: list[str] = Field(description="Ids of gallery items with the same content as the query.")
    limited: bool = Field(description="Whether fewer than `k` items match.")


class SearchAnswer(AnswerBody):
    """The answer to a request with one query."""

    release: ReleaseId


class QueryAnswer(BaseModel):
    """The answer to one of several queries: its results, or its problem."""

    results: list[Result] | None = None
    unknown: bool | None = None
    left_out: list[str] | None = None
    limited: bool | None = None
    problem: dict[str, Any] | None = None


class SearchAnswers(BaseModel):
    """The answers to several queries, in their order."""

    release: ReleaseId
    answers: list[QueryAnswer]


class ItemAnswer(BaseModel):
    """An item of the gallery."""

    id: str
    label: str
    attributes: dict[str, str]
    searchable: bool = Field(description="False for an added item that the served model cannot embed.")
    image: str | None = Field(description="Path of its picture, if there is one.")


class ItemsAnswer(BaseModel):
    """Some items of the gallery."""

    items: list[ItemAnswer]
    rows: int = Field(description="Number of all searchable items.")


class WriteAnswer(BaseModel):
    """A write that is durable."""

    change: int = Field(description="Number of the last change.")
    put: int
    deleted: int
    release: ReleaseId


class ValueCount(BaseModel):
    """A value of an attribute, and the number of items with it."""

    value: str
    count: int


class AttributesAnswer(BaseModel):
    """The attributes of the items, with their most frequent values."""

    attributes: dict[str, list[ValueCount]]


class ReleaseAnswer(BaseModel):
    """The served release."""

    model_config = ConfigDict(extra="allow")
    version: int
    fingerprint: str
    created: str
    rows: int
    warnings: list[str] = Field(description="What an operator should know; the log of the service has the details.")
    manifest: dict[str, Any] = Field(
        description="The release's manifest, with the hash of each file, without paths of the machine that made it."
    )
    report: str | None = Field(description="Path of the report, if the release has one.")


class ReleaseLine(BaseModel):
    """One release of the folder."""

    version: int
    created: str
    current: bool
    loaded: bool
    metrics: dict[str, float]
    fault: str


class ReleasesAnswer(BaseModel):
    """The releases of the folder, oldest first."""

    releases: list[ReleaseLine]


class StateAnswer(BaseModel):
    """State of the service."""

    status: str
