"""IdentifyRun: finds out what a run on a cluster starts from, so that later nodes are cached if nothing changed."""

from typing import TypedDict

from absl import logging
from tfx.dsl.component.experimental.annotations import Parameter

from anchorage.data.spans import resolve_span, split_path, version_of
from anchorage.files import digest
from anchorage.release import find_baseline
from anchorage_components.nodes import node
from anchorage_components.parameters import from_parameter


class Identity(TypedDict):
    """Outputs of IdentifyRun."""

    root: str
    table: str
    data_version: str
    run_key: str
    baseline: str


@node
def IdentifyRun(
    path: Parameter[str],
    releases: Parameter[str],
    settings_version: Parameter[str],
    span: Parameter[str] = "",
    is_vectors: Parameter[int] = 0,
    columns_json: Parameter[str] = "{}",
    follow_links: Parameter[int] = 0,
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
        code_version: digest of the code; part of the cache key, otherwise unused.

    Returns:
        `root` and `table` of the data, `data_version`, `run_key` of data, settings and code, and `baseline`, the
        identity of the release that the candidate is compared with.

    Raises:
        UsageError: E_SPAN.
        DataError: what listing the data raises.
    """
    place = split_path(resolve_span(path, span), is_vectors=bool(is_vectors))
    columns = from_parameter(columns_json)
    version = version_of(place, columns, is_vectors=bool(is_vectors), follow_links=bool(follow_links))
    run_key = digest([settings_version, version])
    baseline = find_baseline(releases, run_key)
    identity: Identity = {
        "root": place.root,
        "table": place.table,
        "data_version": version,
        "run_key": run_key,
        "baseline": f"{baseline['version']}:{baseline['bundle']}",
    }
    logging.info("this run: %s", identity)
    return identity
