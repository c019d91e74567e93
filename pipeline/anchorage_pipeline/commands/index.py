"""`anchorage index`: checks of the index of a release as it is served, with the items added since."""

import argparse
from dataclasses import asdict

from anchorage.errors import GateError
from anchorage_pipeline.console import answer
from anchorage_pipeline.gallery import add_store, open_gallery
from anchorage_pipeline.options import add_release, find_release, positive, whole

_SHOWN = 10  # mismatches in the printed list


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to do, the release, and how many queries to take."""
    parser.add_argument("action", choices=["audit"], help="compare the results of searches with exact search")
    add_release(parser)
    add_store(parser)
    parser.add_argument("--queries", type=positive, default=500, metavar="N", help="items searched (default: 500)")
    parser.add_argument("--neighbors", type=positive, default=10, metavar="K", help="results per item (default: 10)")
    parser.add_argument("--seed", type=whole, default=0, help="seed that draws the items (default: 0)")


def run(options: argparse.Namespace) -> None:
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
