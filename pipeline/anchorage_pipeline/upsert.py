"""Adds the items of an embedding table to a service of `anchorage serve`, through its HTTP interface."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anchorage.errors import DataError, ResourceError, UsageError
from anchorage.progress import advance, task
from anchorage.storage import local_input

KEY = "ANCHORAGE_API_KEY"  # variable of the environment

_TASK = "adding to the service"
_ITEMS, _NUMBERS = 500, 2_000_000  # per request, at most
_ATTEMPTS, _SECONDS = 8, 60.0
_BUSY = (429, 502, 503, 504)


class ServedIndex:
    """A served release that items can be added to.

    Args:
        url: of the service, such as `http://127.0.0.1:8080`.
        fingerprint: of the model whose embeddings are to be added.
        wait: sleeps some seconds.

    Raises:
        UsageError: `E_KEY_MISSING` if the environment has no `ANCHORAGE_API_KEY`, `E_UPSERT_VECTORS` for a release that
            embeds vectors, which takes no embeddings.
        DataError: `E_RELEASE_MIXED` if another model is served.
        ResourceError: `E_SERVICE` if the service does not answer.
    """

    def __init__(self, url: str, fingerprint: str, wait=time.sleep):
        self._url, self._wait = url.rstrip("/"), wait
        self._key = os.environ.get(KEY, "").strip()
        if not self._key:
            raise UsageError("E_KEY_MISSING", f"Expected the key of the service in ${KEY}. Received: none")
        served = self._call("/v1/release")
        if served["fingerprint"] != fingerprint:
            raise DataError(
                "E_RELEASE_MIXED",
                f"Expected a service of the model with fingerprint {fingerprint:.12}. Received: {url} serves release "
                f"{served['version']} with {served['fingerprint']:.12}. Embed with the release that is served",
            )
        if served["input"] != "images":
            raise UsageError(
                "E_UPSERT_VECTORS",
                f"Expected a release of images, to add embeddings. Received: one of vectors at {url}",
            )

    def add(self, table: str | os.PathLike) -> int:
        """Add all rows of a table, each request whole or not at all; return their number.

        Items that are there already are replaced, so that an interrupted call can be repeated.

        Raises:
            DataError: `E_UPSERT` if the service refuses an item.
            ResourceError: `E_SERVICE`.
        """
        added = 0
        with task(_TASK), local_input(table) as place:
            for items in _items(place):
                self._call("/v1/items:batch", {"put": items})
                added += len(items)
                advance(_TASK, len(items))
        return added

    def _call(self, path: str, body: Any = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, content, headers)
        for attempt in range(_ATTEMPTS):
            try:
                with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                if error.code not in _BUSY:
                    raise DataError("E_UPSERT", f"Expected {self._url} to take the items. {_explain(error)}") from error
                reason, pause = f"status {error.code}", error.headers.get("Retry-After", "")
            except (OSError, ValueError) as error:
                reason, pause = str(error), ""
            if attempt + 1 < _ATTEMPTS:
                asked = float(pause) if pause.isdigit() else 0.0
                self._wait(max(asked, min(30.0, 0.5 * 2**attempt)))  # a minute in all, while it restarts
        raise ResourceError(
            "E_SERVICE",
            f"Expected an answer of {self._url} within {_ATTEMPTS} attempts. Received: {reason}. Run the same command "
            "again when it serves",
        )


def _items(table: Path) -> Iterator[list[dict[str, Any]]]:
    """The rows of a table as items, in lists for one request each."""
    import pyarrow.parquet as parquet

    from anchorage.retrieval.table import TEXT_COLUMNS, table_files

    for path in table_files(table):
        with parquet.ParquetFile(path) as file:
            size = max(1, min(_ITEMS, _NUMBERS // file.schema_arrow.field("vector").type.list_size))
            for batch in file.iter_batches(size, columns=[*TEXT_COLUMNS, "vector"]):
                yield [
                    {"id": row["id"], "vector": row["vector"], **({"label": row["label"]} if row["label"] else {})}
                    for row in batch.to_pylist()
                ]


def _explain(error: urllib.error.HTTPError) -> str:
    try:
        problem = json.loads(error.read())
        return f"Received: {problem['code']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"Received: status {error.code}"
