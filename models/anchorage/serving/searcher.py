"""Image search in a release: image bytes in, ids of the nearest gallery images out."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from anchorage.errors import DataError
from anchorage.release import Release, open_release
from anchorage.retrieval.index import load_index, search
from anchorage.retrieval.table import read_ids
from anchorage.serving.answers import Answer, Answers, Judgement
from anchorage.serving.embedders import LocalEmbedder, TextEmbedder
from anchorage.serving.queries import Query, QueryCheck, encode_query

__all__ = ["Answer", "Answers", "Searcher"]


class Searcher:
    """Loads model, index and gallery of a release, and searches them.

    Args:
        release: a release from `open_release`, which verifies all files, or
            the path of a release or of a folder of releases.

    Attributes:
        threshold: cosine from which a result is a likely match; None if the
            release has none, or a match probability instead.
        probability: parameters of the match probability; None if the release
            has none that holds on its test classes.
        unknown_below: cosine below which a query counts as unknown, or None.
        unknown_rates: shares of the test queries that are below it, or None.
        doubts: sentences on why there is no match probability or no threshold
            for unknown queries.

    Raises:
        DataError: `E_RELEASE_MIXED` if gallery, index and model do not match,
            `E_QUERY_SHAPE` if their dimensions differ.
    """

    def __init__(self, release: Release | str | os.PathLike):
        if isinstance(release, str | os.PathLike):
            release = open_release(os.fspath(release))
        self.release = release
        self.embedder = LocalEmbedder(release)
        self.dimension = self.embedder.dimension
        self.index = load_index(release.index_folder, dimension=self.dimension)
        self.gallery = read_ids(release.gallery_path)
        self._text: TextEmbedder | None = None  # once a text was searched with
        self._judgement = judgement = Judgement(release)
        self.threshold, self.probability, self.doubts = judgement.threshold, judgement.probability, judgement.doubts
        self.unknown_below, self.unknown_rates = judgement.unknown_below, judgement.unknown_rates
        self._check = QueryCheck(self.gallery, self.index.facts, self.embedder)
        if len(self.gallery["id"]) != self.index.rows:
            raise DataError(
                "E_RELEASE_MIXED",
                f"Expected one gallery id per row of the index. Received: {len(self.gallery['id'])} ids and "
                f"{self.index.rows} rows in {release.path}.",
            )

    def __repr__(self) -> str:
        return f"<Searcher of release {self.release.version} in {self.release.path}: {self.index.rows:,} images>"

    @property
    def takes_vectors(self) -> bool:
        """Whether the release embeds given vectors instead of images."""
        return self.embedder.takes_vectors

    def search(self, images: Sequence[Query] | Query, k: int = 10) -> Answers:
        """Search the `k` nearest gallery images of each image, without the image itself.

        Args:
            images: paths, encoded images (JPEG, PNG, GIF, BMP, WebP), Pillow
                images or `(H, W, 3)` uint8 pixels; for a release of vectors
                `(V,)` float arrays; or a single one of these.
            k: number of results per image, limited by the size of the gallery.

        Returns:
            One answer per image, in the order of `images`; the answer of an
            invalid image has a fault, and the others are not affected.

        Raises:
            UsageError: if `k < 1`; `E_IMAGE_MISSING`, `E_QUERY_KIND`.
        """
        queries: Any = images
        if self.takes_vectors:
            alone = isinstance(images, np.ndarray) and images.ndim == 1
            return Answers(self._search([np.asarray(row) for row in ([images] if alone else queries)], k))
        batch = isinstance(images, np.ndarray) and images.ndim == 4
        if not batch and (isinstance(images, str | bytes) or not isinstance(images, Sequence)):
            queries = [images]
        return Answers(self._search([encode_query(query) for query in queries], k))

    def _search(self, images: Sequence[bytes | np.ndarray], k: int) -> list[Answer]:
        checked = [self._check(image) for image in images]
        valid = [each for each in checked if not each.fault]
        own = [each.rows for each in valid]
        vectors = self.embedder.embed([each.record for each in valid])
        reach = self._judgement.reach(k) if k > 0 else k
        rows, scores = search(self.index, vectors, reach + max(map(len, own), default=0))
        results = iter(zip(rows, scores, own, strict=True))
        return [
            Answer([], [], [], None, None, None, each.fault) if each.fault else self._answer(*next(results), k)
            for each in checked
        ]

    def _answer(self, rows: np.ndarray, scores: np.ndarray, own: list[int], k: int) -> Answer:
        others = ~np.isin(rows, own)
        rows, scores = rows[others], scores[others]
        ids, labels = self.gallery["id"][rows].tolist(), self.gallery["label"][rows].tolist()
        return self._judgement.answer(ids, labels, scores, k, left_out=self.gallery["id"][own].tolist())

    def search_text(self, texts: Sequence[str], k: int = 10) -> Answers:
        """The `k` gallery images nearest to each description.

        What the release knows of matches and unknown queries was measured between images: these answers have none.

        Raises:
            UsageError: E_NO_TEXT if the release has no encoder for texts; E_EXTRA_MISSING if KerasHub, which has the
                tokenizer, is not installed; if `k < 1`.
        """
        self._text = self._text or TextEmbedder(self.release)
        rows, scores = search(self.index, self._text.embed(texts), k)
        ids, labels = self.gallery["id"][rows].tolist(), self.gallery["label"][rows].tolist()
        found = zip(ids, labels, scores.tolist(), strict=True)
        answers = [Answer(*answer, likely=None, probabilities=None, unknown=None, fault=None) for answer in found]
        return Answers(answers)
