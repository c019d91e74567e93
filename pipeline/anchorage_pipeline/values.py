"""The kinds of values in an experiment file: numbers with limits, ranges for the tuner, and tables of them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from typing_extensions import TypeAliasType

from anchorage.tuning.ranges import Range as SearchRange
from anchorage.tuning.ranges import read_space
from anchorage_pipeline.metadata.server import parse_url
