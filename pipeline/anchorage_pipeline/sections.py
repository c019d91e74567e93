"""Sections of the experiment file about how a run is carried out and published, not what it learns."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from anchorage.errors import UsageError
from anchorage.release.places import find_place
from anchorage.storage import is_remote
from anchorage_pipeline.values import Count, Section


class Release(Section):
    """The publication of releases."""

    folder: Annotated[str, Field(max_length=1_000, pattern=r"^[^\x00]*$")] = ""
    """Folder of releases, a path, `s3://BUCKET/PATH` or `gs://BUCKET/PATH`; "" is `releases/<name>`, on a cluster that
    of its volume."""

    @field_validator("folder")
    @classmethod
    def _check_address(cls, folder: str) -> str:
        try:
            if is_remote(folder):
                find_place(folder)
        except UsageError as error:
            raise ValueError(error.message) from error
        return folder


class Trigger(Section):
    """When `anchorage run --if-needed` and the schedule on Kubeflow train again; a limit of 0 or "" is none."""

    max_age_days: Count = 0
    """Age of the current release in days."""
    new_items: Count = 0
    """Number of images in the data, and of items added to the service, that the current release does not have."""
    drift: Literal["", "evaluation", "first"] = ""
    """Drift of the sampled queries, against "evaluation" or "first" as in `anchorage drift --reference`."""
    store: Annotated[str, Field(pattern=r"^$|^sqlite:///\S+$|^postgresql://[^:/@\s]+@\S+$")] = ""
    """Database with the queries and the added items, such as "postgresql://USER@HOST/DATABASE" with the password in
    $PGPASSWORD; "" is the file beside the releases."""


class Beam(Section):
    """The engine of the nodes that read, audit, pack, embed and index the data: see `pipeline/reference/engines.md`."""

    flags: list[str] = []
    """Options for Beam, such as "--runner=FlinkRunner"; [] uses one worker in the process of the node."""


class Card(Section):
    """What the report and the model card of a release say beside what was measured."""

    intended_use: str = ""
    """What the model is for; "" is finding images of the same class among images like these."""
    limitations: list[str] = []
    """Known limits, one sentence each, added to those of the evaluation."""
    license: str = ""
    """Identifier of the model's license, such as "apache-2.0"; "" names none."""
