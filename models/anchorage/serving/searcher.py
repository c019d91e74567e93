"""Search by image in one release: bytes in, ids of the nearest gallery images out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anchorage.data.images import ImageFault, check_image, decode_checked, resize_image
from anchorage.data.store import content_digest
from anchorage.errors import DataError
from anchorage.release import Release
from anchorage.retrieval.calibration import match_probability
from anchorage.retrieval.index import load_index, search
from anchorage.retrieval.table import read_ids

_BATCH = 64  # images embedded at once


class Answer(NamedTuple):
    """What one image found, nearest first.

    Attributes:
        ids: of gallery images; empty where the image is at fault.
        labels: their classes.
        scores: cosine similarities, in [-1, 1].
        likely: whether each score reaches the release's threshold for a
            likely match; None where the release has no threshold.
        probabilities: of each being a match, for an image of a class that
            the encoder was not trained on; None for answers farther down the
            list than the probability was fitted to, or for all of them where
            the release has no probability that held on the test classes.
        unknown: whether even the nearest lies below the threshold for an
            answer, so that the image shows nothing that the gallery holds;
            None where the release has no threshold that held on the test
            classes.
        fault: why the image could not be used; None if all is well.
        left_out: ids of gallery images that are the query itself, pixel for
            pixel, under whatever name; they are no answers.
    """

    ids: list[str]
    labels: list[str]
    scores: list[float]
    likely: list[bool] | None
    probabilities: list[float | None] | None
    unknown: bool | None
    fault: ImageFault | None
    left_out: Sequence[str] = ()


class Searcher:
    """Model, index and gallery of one release, loaded together.

    Args:
        release: from `open_release`, which compared every file with its hash.

    Attributes:
        probability: how the chance of a match follows from an answer; None if
            the release has none that held on its test classes.
        unknown_below: cosine below which a query counts as unknown, or None.
        doubts: sentences on why there is no probability or no such cosine.

    Raises:
        DataError: `E_RELEASE_MIXED` if gallery, index and model do not fit
            together, `E_QUERY_SHAPE` if their dimensions differ.
    """

    def __init__(self, release: Release):
        import tensorflow as tf

        self.release = release
        self._model = tf.saved_model.load(str(release.path))  # the signature does not keep the model alive
        self._embed = self._model.signatures["serving_default"]
        self.dimension = self._embed.structured_outputs["embeddings"].shape[-1]
        self.index = load_index(release.index_folder, dimension=self.dimension)
        self.gallery = read_ids(release.gallery_path)
        self.threshold: float | None = release.thresholds.get("likely_match", {}).get("threshold")
        self.calibration = release.calibration
        self.probability: dict | None = self.calibration.get("probability") if self._holds("probability") else None
        self.unknown_below: float | None = self.calibration["unknown"]["threshold"] if self._holds("unknown") else None
        self.doubts = _doubts(self.calibration)
        self._rows_of: dict[str, list[int]] = {}  # by digest; empty for an earlier release, which has none
        for row, digest in enumerate(self.gallery.get("pixels", ())):
            self._rows_of.setdefault(digest, []).append(row)
        if len(self.gallery["id"]) != self.index.rows:
            raise DataError(
                "E_RELEASE_MIXED",
                f"Expected one gallery id per row of the index. Received: {len(self.gallery['id'])} ids and "
                f"{self.index.rows} rows in {release.path}.",
            )

    def search(self, images: Sequence[bytes], k: int = 10) -> list[Answer]:
        """The `k` nearest gallery images of each image, other than the image itself.

        Args:
            images: encoded images (JPEG, PNG, GIF, BMP, WebP).
            k: answers per image; cut to what the gallery holds besides the
                image.

        Returns:
            One answer per image, in their order; a bad image has a fault in
            its own answer and leaves the others alone.

        Raises:
            UsageError: if `k < 1`.
        """
        vectors, faults = self.embed(images)
        own = [self._find(image) for image, fault in zip(images, faults, strict=True) if not fault]
        voters = self.probability["neighbors"] if self.probability else 0
        rows, scores = search(self.index, vectors, max(k, voters if k > 0 else 0) + max(map(len, own), default=0))
        found = iter(zip(rows, scores, own, strict=True))
        return [
            Answer([], [], [], None, None, None, fault) if fault else self._answer(*next(found), k) for fault in faults
        ]

    def embed(self, images: Sequence[bytes]) -> tuple[np.ndarray, list[ImageFault | None]]:
        """Embeddings of the good images, `(n, D)` float32 in their order, and one fault or None per image."""
        faults = [check_image(image) for image in images]
        good = [at for at, fault in enumerate(faults) if fault is None]
        vectors = [np.empty((0, self.dimension), np.float32)]
        for start in range(0, len(good), _BATCH):
            batch = good[start : start + _BATCH]
            vectors.append(self._run([images[at] for at in batch]))
        return np.concatenate(vectors), faults

    def _run(self, images: list[bytes]) -> np.ndarray:
        import tensorflow as tf

        return self._embed(images=tf.constant(images, tf.string))["embeddings"].numpy()

    def _find(self, image: bytes) -> list[int]:
        """Gallery rows whose pixels, as the encoder sees them, are those of the image."""
        if not self._rows_of:
            return []
        facts, (pixels, _) = self.index.facts, decode_checked(image)
        return self._rows_of.get(content_digest(resize_image(pixels, facts["image_size"], facts["fit"]).numpy()), [])

    def _holds(self, part: str) -> bool:
        """Whether a part of the calibration held on the test classes; one of an earlier format was never checked."""
        return self.calibration.get("check", {}).get(part, {}).get("holds", False)

    def _answer(self, rows: np.ndarray, scores: np.ndarray, own: list[int], k: int) -> Answer:
        others = ~np.isin(rows, own)
        rows, scores = rows[others], scores[others]
        ids, labels = self.gallery["id"][rows], self.gallery["label"][rows]
        probabilities = None
        if self.probability and len(scores):
            (chances,) = match_probability(self.probability, scores[None], labels[None]).tolist()
            probabilities = [None if chance != chance else chance for chance in chances[:k]]  # nan: too far down
        likely = None if self.threshold is None else (scores[:k] >= self.threshold).tolist()
        unknown = None if self.unknown_below is None or not len(scores) else bool(scores[0] < self.unknown_below)
        return Answer(
            ids[:k].tolist(),
            labels[:k].tolist(),
            scores[:k].tolist(),
            likely,
            probabilities,
            unknown,
            None,
            self.gallery["id"][own].tolist(),
        )


def _doubts(calibration: Mapping[str, Any]) -> list[str]:
    if not calibration:
        return []
    if "check" not in calibration:
        reason = calibration.get(
            "reason", "this release is of an earlier format, which was not checked on test classes"
        )
        return [f"no percent and no unknown queries: {reason}"]
    told = {"probability": "no percent", "unknown": "no query is called unknown"}
    parts = {part: calibration["check"][part] for part in told}
    return [
        f"{told[part]}: {found.get('statement') or found['reason']}"
        for part, found in parts.items()
        if not found["holds"]
    ]
