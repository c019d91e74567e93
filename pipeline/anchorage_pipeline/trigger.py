"""Whether a scheduled run of an experiment is needed, by the limits of its `[trigger]`."""

from functools import partial
from typing import TYPE_CHECKING, Any

from anchorage.errors import UsageError
from anchorage_pipeline.config import Experiment

if TYPE_CHECKING:
    from anchorage.judging.need import Need


def find_limits(experiment: Experiment) -> dict[str, Any]:
    """The limits that the experiment sets, with the store if it names one; empty if there are no limits."""
    found = {name: value for name, value in experiment.trigger.model_dump().items() if value}
    return found if found.keys() - {"store"} else {}


def require_limits(experiment: Experiment) -> dict[str, Any]:
    """The limits that the experiment sets.

    Raises:
        UsageError: E_TRIGGER_MISSING if it sets none.
    """
    if found := find_limits(experiment):
        return found
    raise UsageError(
        "E_TRIGGER_MISSING",
        "Expected a limit in [trigger] for `--if-needed`: `max_age_days`, `new_items` or `drift`. Received: none",
    )


def find_need(experiment: Experiment) -> "Need":
    """Compare the current release with the limits of `[trigger]`, as `anchorage.judging.need.find_need` does.

    Raises:
        UsageError: E_TRIGGER_MISSING if the file sets no limit, E_DATA_MISSING.
        DataError: what listing the data raises.
        ResourceError: E_STORE_UNAVAILABLE.
    """
    from anchorage.judging import need
    from anchorage_pipeline.identity import fingerprint_run
    from anchorage_pipeline.source import indexed_ids

    limits, list_ids = require_limits(experiment), partial(indexed_ids, experiment)
    return need.find_need(experiment.release_folder, fingerprint_run(experiment).run, list_ids, **limits)
