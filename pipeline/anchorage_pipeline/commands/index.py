"""`anchorage index`: an index of any number of embeddings, and a check of one as it is served."""

import argparse
from dataclasses import asdict

from anchorage.errors import GateError
from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.gallery import add_store, open_gallery
from anchorage_pipeline.options import add_console, add_release, find_release, positive, whole

_SHOWN = 10  # mismatches in the printed list


_ACTIONS = {
    "audit": "compare the searches of a release, with the items added since, with exact search",
    "build": "build an index of an embedding table, in shards if it is large, with Beam",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to do, each with its own arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, help="what to do")
    parts = {}
    for name, purpose in _ACTIONS.items():
        parts[name] = part = actions.add_parser(
            name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.", allow_abbrev=False
        )
        add_console(part, default=argparse.SUPPRESS)
    audit, build = parts["audit"], parts["build"]
    add_release(audit)
    add_store(audit)
    audit.add_argument("--queries", type=positive, default=500, metavar="N", help="items searched (default: 500)")
    build.add_argument("table", metavar="TABLE", help="embedding table, such as `anchorage embed` writes")
    build.add_argument("--output", required=True, metavar="FOLDER", help="folder of the index (required)")
    build.add_argument(
        "--shard-rows", type=positive, metavar="N", help="most rows of a shard (default: index.shard_rows of a run)"
    )
    build.add_argument(
        "--min-recall", type=float, default=0.95, metavar="R", help="least share of true neighbors (default: 0.95)"
    )
    build.add_argument("--memory-mib", type=whole, default=0, metavar="M", help="limit of its memory (default: none)")
    for part in (audit, build):
        part.add_argument("--neighbors", type=positive, default=10, metavar="K", help="results per query (default: 10)")
        part.add_argument("--seed", type=whole, default=0, help="seed that draws the queries (default: 0)")


def run(options: argparse.Namespace) -> None:
    """Audit or build."""
    {"audit": _audit, "build": _build}[options.action](options)


def _build(options: argparse.Namespace) -> None:
    """Build the index.

    Raises:
        UsageError: E_FOLDER_NOT_EMPTY, E_INDEX_SETTING, E_BEAM_OPTION, E_BEAM_RUNNER.
        DataError: E_TABLE_MISSING, E_TABLE_DAMAGED, E_RELEASE_MIXED if the table has embeddings of several models.
        GateError: E_INDEX_RECALL, E_INDEX_LIMITS.
        ResourceError: E_BEAM_WORKER, E_BEAM_STALLED.
    """
    from anchorage.retrieval.index_building import SHARD_ROWS
    from anchorage.retrieval.index_tuning import IndexLimits
    from anchorage.retrieval.table import read_fingerprint
    from anchorage_components.beam.indexing import index_table
    from anchorage_components.beam.options import beam_options

    facts = {"model_fingerprint": read_fingerprint(options.table)}
    with progress():
        index = index_table(
            options.table,
            options.output,
            options=beam_options(options.beam_arguments),
            describe=lambda _: (None, facts),
            neighbors=options.neighbors,
            limits=IndexLimits(options.min_recall, max_memory_mib=options.memory_mib),
            shard_rows=options.shard_rows or SHARD_ROWS,
            seed=options.seed,
        )
    answer({"index": options.output, **facts, **index.facts})
    print(f"index    {options.output}: {index.facts['reason']}")
    print(f"recall@{options.neighbors} {index.facts['recall']:.4f} of exact search, {index.facts['probes']} queries")


def _audit(options: argparse.Namespace) -> None:
    """Measure the recall of the index as it is served, and list what it misses.

    Raises:
        GateError: E_INDEX_RECALL, if the recall is below the `index.min_recall` of the release.
        UsageError: E_RELEASE_MISSING, E_STORE_URL, E_EXTRA_MISSING.
        DataError: E_RELEASE_DAMAGED, E_INDEX_EMPTY.
        ResourceError: E_STORE_UNAVAILABLE.
    """
    from anchorage.release import open_release

    release = open_release(find_release(options.release))
    from anchorage.retrieval.audit import audit

    gallery = open_gallery(release, options.store)
    found = audit(gallery.live, queries=options.queries, neighbors=options.neighbors, seed=options.seed)
    least = gallery.live.index.facts.get("min_recall", 0.0)
    items = {"store": gallery.store, "change": gallery.live.change, "left_out": gallery.left_out}
    answer({"release": release.path, "version": release.version, "min_recall": least, **items, **asdict(found)})
    print(f"release  {release.version} in {release.folder}, {found.rows:,} items", end="")
    print(f" with changes up to {gallery.live.change} of {gallery.store}" if gallery.store else ", none added since")
    for id_ in gallery.left_out[:_SHOWN]:
        print(f"left out {id_}: another model made its vector")
    print(
        f"recall@{found.neighbors} {found.recall:.4f} of exact search, 95 % interval {found.low:.4f} to "
        f"{found.high:.4f}, {found.queries} queries; limit {least:g}"
    )
    print(f"mismatch {len(found.mismatches)} queries miss a neighbor")
    for mismatch in found.mismatches[:_SHOWN]:
        served = ", ".join(mismatch["served"]) or "nothing"
        print(f"         {mismatch['id']} misses {', '.join(mismatch['missed'])}; served instead: {served}")
    if found.recall < least:
        raise GateError(
            "E_INDEX_RECALL",
            f"Expected a recall of at least {least:g}, for which it was built. Received: {found.recall:.4f} over "
            f"{found.queries} queries. Publish a new release with `anchorage run`",
        )
