"""Metrics of the service, for Prometheus."""

from typing import Any

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters, gauges and histograms of one service, in a registry of their own.

    Attributes:
        requests: answered requests by method, route and status.
        request_seconds: time from the head of a request to its answer, by route.
        stage_seconds: time of the stages check, queue, embed, search and write.
        batch_size: records per call of the model.
        pending: queries and items in work.
        queue: records that wait for the next batch.
        rows: searchable items.
        changed_share: rows changed since the index was built, per row.
        left_out: added items that cannot be searched, as another model made their vector and their image is not kept.
        queries: answered queries; `unknown`: those reported as unknown.
        sampled: queries whose embeddings were stored.
        writes: items put and deleted.
        switches: switches of the release by result: done or refused.
        rebuilds: indexes built in the background since the release was loaded.
        release: 1 for the served version, with its fingerprint.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = registry = CollectorRegistry()

        def make(kind: Any, name: str, text: str, labels: tuple[str, ...] = (), **more: Any) -> Any:
            return kind(f"anchorage_{name}", text, labels, registry=registry, **more)

        self.requests = make(Counter, "requests", "Answered requests.", ("method", "route", "status"))
        self.request_seconds = make(
            Histogram, "request_seconds", "Time from the head of a request to its answer.", ("route",), buckets=_SECONDS
        )
        self.stage_seconds = make(
            Histogram, "stage_seconds", "Time of each stage of a request.", ("stage",), buckets=_SECONDS
        )
        self.batch_size = make(Histogram, "batch_size", "Records per call of the model.", buckets=_SIZES)
        self.pending = make(Gauge, "pending", "Queries and items in work.")
        self.queue = make(Gauge, "queue_length", "Records that wait for the next batch.")
        self.rows = make(Gauge, "index_rows", "Searchable items.")
        self.shard_rows = make(Gauge, "index_shard_rows", "Rows of each shard, as it was built.", ("shard",))
        self.changed_share = make(Gauge, "changed_share", "Rows changed since the index was built, per row.")
        self.left_out = make(Gauge, "left_out_items", "Added items that the served model cannot search.")
        self.queries = make(Counter, "queries", "Answered queries.")
        self.unknown = make(Counter, "unknown_queries", "Answered queries reported as unknown.")
        self.sampled = make(Counter, "sampled_queries", "Queries whose embeddings were stored.")
        self.writes = make(Counter, "written_items", "Items put and deleted.", ("kind",))
        self.switches = make(Counter, "switches", "Switches of the release.", ("result",))
        self.rebuilds = make(Gauge, "rebuilds", "Indexes built in the background since the release was loaded.")
        self.release = make(Gauge, "release", "The served release.", ("version", "fingerprint"))

    def page(self) -> tuple[bytes, str]:
        """Return all values in Prometheus's text format, and its media type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
