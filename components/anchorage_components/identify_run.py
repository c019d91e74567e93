"""IdentifyRun: finds out what a run on a cluster starts from, so that later nodes are cached if nothing changed."""

from typing import TypedDict

from absl import logging
from tfx.dsl.component.experimental.annotations import Parameter

from anchorage.data.remote import list_data
from anchorage.data.spans import resolve_span, split_path, version_of
from anchorage.files import digest
from anchorage.judging.need import find_need
from anchorage.release import find_baseline
from anchorage_components.nodes import node
from anchorage_components.parameters import from_parameter, to_parameter


class Identity(TypedDict):
    """Outputs of IdentifyRun."""

    root: str
    table: str
    data_version: str
    run_key: str
    baseline: str
    trigger: str


@node
def IdentifyRun(
    path: Parameter[str],
    releases: Parameter[str],
    settings_version: Parameter[str],
    span: Parameter[str] = "",
    is_vectors: Parameter[int] = 0,
    columns_json: Parameter[str] = "{}",
    follow_links: Parameter[int] = 0,
    limits_json: Parameter[str] = "{}",
    listing_json: Parameter[str] = "{}",
    code_version: Parameter[str] = "",
) -> Identity:
    """Looks at the data and the releases; the only node that must never be taken from a cache.

    `anchorage run` does the same before it starts. A schedule cannot: its parameters are those of its creation.

    Args:
        path: folder or table of the data; `{SPAN}` in it is replaced by the span.
        releases: path or URI of the folder of releases; need not exist.
        settings_version: digest of the experiment and the code.
        span: name of the span; "" takes the newest.
        is_vectors: 1 if the data are vectors.
        columns_json: JSON object with the table's column names, as for ImageExampleGen.
        follow_links: 1 allows symbolic links that lead out of the folder.
        limits_json: JSON object with limits as for `anchorage.judging.need.find_need`, without which the run is needed.
        listing_json: JSON object with `splits` of the index and, to list them, `val_share`, `test_share`, `seed` and
            `own_labels`; used only for the limit `new_items`.
        code_version: digest of the code; part of the cache key, otherwise unused.

    Returns:
        `root` and `table` of the data, `data_version`, `run_key` of data, settings and code, and `baseline`, the
        identity of the release that the candidate is compared with; `trigger`, a JSON object with the reasons if limits
        were given. All are empty if the run is not needed: the nodes that take them are then skipped.

    Raises:
        UsageError: E_SPAN.
        DataError: what listing the data raises.
        ResourceError: E_STORE_UNAVAILABLE.
    """
    place = split_path(resolve_span(path, span), is_vectors=bool(is_vectors))
    columns, facts = from_parameter(columns_json), {}
    version = version_of(place, columns, is_vectors=bool(is_vectors), follow_links=bool(follow_links))
    run_key = digest([settings_version, version])
    if limits := from_parameter(limits_json):

        def list_ids() -> set[str]:
            assignment = from_parameter(listing_json)
            indexed, kind = assignment.pop("splits"), {"is_vectors": bool(is_vectors)}
            listing = list_data(place, columns, follow_links=bool(follow_links), **kind, **assignment)
            return {source.id for source in listing.sources if source.split in indexed}

        need = find_need(releases, run_key, list_ids, **limits)
        logging.info("%s: %s", "needed" if need.is_met else "not needed", need.describe())
        if not need.is_met:
            return Identity(root="", table="", data_version="", run_key="", baseline="", trigger="")
        facts = need.to_facts()
    baseline = find_baseline(releases, run_key)
    identity: Identity = {
        "root": place.root,
        "table": place.table,
        "data_version": version,
        "run_key": run_key,
        "baseline": f"{baseline['version']}:{baseline['bundle']}",
        "trigger": to_parameter(facts),
    }
    logging.info("this run: %s", identity)
    return identity
