"""Image search in a release: image bytes in, ids of the nearest gallery images out."""

import html
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anchorage.data.images import ImageFault, decode_checked, resize_image
from anchorage.data.store import content_digest
from anchorage.errors import DataError, UsageError
from anchorage.release import Release, open_release
from anchorage.release.manifest import TEXT
from anchorage.retrieval.calibration import match_probability
from anchorage.retrieval.index import load_index, search
from anchorage.retrieval.table import read_ids
from anchorage.serving.embedders import LocalEmbedder
from anchorage.serving.queries import Query, encode_query


class Answer(NamedTuple):
    """Search results of one image, nearest first.

    Attributes:
        ids: ids of the gallery images; empty if the image has a fault.
        labels: classes of the gallery images.
        scores: cosine similarities, in [-1, 1].
        likely: whether each score is at or above the release's threshold for
            a likely match; None if the release has no threshold.
        probabilities: probability of each to be a match, for images of
            classes that the encoder was not trained on; None for ranks beyond
            those used for the fit. None if the release has no match
            probability that holds on the test classes.
        unknown: whether the nearest score is below the threshold for
            "unknown", so that the gallery probably does not contain the class
            of the image; None if the release has no threshold that holds on
            the test classes.
        fault: why the image could not be used, or None.
        left_out: ids of gallery images with the same pixels as the query,
            which are excluded from the results.
    """

    ids: list[str]
    labels: list[str]
    scores: list[float]
    likely: list[bool] | None
    probabilities: list[float | None] | None
    unknown: bool | None
    fault: ImageFault | None
    left_out: Sequence[str] = ()


class Answers(list[Answer]):
    """The answers to several queries, shown as a table."""

    def __repr__(self) -> str:
        lines = []
        for number, answer in enumerate(self):
            lines.append(f"query {number}: {_remark(answer)}".rstrip(": "))
            lines += [f"  {rank:>3}  {score:.4f}  {label:<24} {id_}" for rank, id_, label, score in _rows(answer)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        cells = [
            [str(number), str(rank), f"{score:.4f}", label, id_]
            for number, answer in enumerate(self)
            for rank, id_, label, score in _rows(answer)
        ]
        head = "".join(f"<th>{name}</th>" for name in ("query", "rank", "score", "label", "id"))
        rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in cells]
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _rows(answer: Answer) -> list[tuple[int, str, str, float]]:
    found = zip(answer.ids, answer.labels, answer.scores, strict=True)
    return [(rank, id_, label, score) for rank, (id_, label, score) in enumerate(found, 1)]


def _remark(answer: Answer) -> str:
    if answer.fault:
        return f"{answer.fault.code}: {answer.fault.message}"
    return "unknown: its class is probably not in the gallery" if answer.unknown else ""


class Searcher:
    """Loads model, index and gallery of a release, and searches them.

    Args:
        release: a release from `open_release`, which verifies all files, or
            the path of a release or of a folder of releases.

    Attributes:
        probability: parameters of the match probability; None if the release
            has none that holds on its test classes.
        unknown_below: cosine below which a query counts as unknown, or None.
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
        self._text: tuple[Any, Any] | None = None  # tokenizer and encoder, once a text was searched with
        self.threshold: float | None = release.thresholds.get("likely_match", {}).get("threshold")
        self.calibration = release.calibration
        self.probability: dict | None = self.calibration.get("probability") if self._holds("probability") else None
        self.unknown_below: float | None = self.calibration["unknown"]["threshold"] if self._holds("unknown") else None
        self.doubts = _doubts(self.calibration)
        self._rows_of: dict[str, list[int]] = {}  # by pixel digest; empty for releases of earlier formats
        for row, digest in enumerate(self.gallery.get("pixels", ())):
            self._rows_of.setdefault(digest, []).append(row)
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
        faults = [fault for _, fault in checked]
        own = [rows for rows, fault in checked if not fault]
        vectors = self.embedder.embed([image for image, fault in zip(images, faults, strict=True) if not fault])
        voters = self.probability["neighbors"] if self.probability else 0
        rows, scores = search(self.index, vectors, max(k, voters if k > 0 else 0) + max(map(len, own), default=0))
        results = iter(zip(rows, scores, own, strict=True))
        return [
            Answer([], [], [], None, None, None, fault) if fault else self._answer(*next(results), k)
            for fault in faults
        ]

    def search_text(self, texts: Sequence[str], k: int = 10) -> Answers:
        """The `k` gallery images nearest to each description.

        What the release knows of matches and unknown queries was measured between images: these answers have none.

        Raises:
            UsageError: E_NO_TEXT if the release has no encoder for texts; if `k < 1`.
            ResourceError: E_EXTRA_MISSING if KerasHub, which has the tokenizer, is not installed.
        """
        rows, scores = search(self.index, self._embed_text(texts), k)
        ids, labels = self.gallery["id"][rows].tolist(), self.gallery["label"][rows].tolist()
        found = zip(ids, labels, scores.tolist(), strict=True)
        answers = [Answer(*answer, likely=None, probabilities=None, unknown=None, fault=None) for answer in found]
        return Answers(answers)

    def _embed_text(self, texts: Sequence[str]) -> np.ndarray:
        import tensorflow as tf

        folder = self.release.path / TEXT
        if not (folder / "saved_model.pb").is_file():
            encoder = self.release.facts.get("experiment", {}).get("encoder", {})
            raise UsageError(
                "E_NO_TEXT",
                "Expected a release with an encoder for texts: one of an image-text preset such as "
                "'hub:siglip2_base_patch16_224' with its own pooling ('token') and no training (`epochs = 0`), as "
                "training moves images away from their descriptions. Received: release "
                f"{self.release.version} with the encoder {encoder.get('name')!r}.",
            )
        from anchorage.encoders.text import load_tokenizer

        if self._text is None:
            self._text = load_tokenizer(folder), tf.saved_model.load(str(folder))
        tokenize, model = self._text
        tokens = tf.cast(tokenize(texts), tf.int32)
        return model.signatures["serving_default"](token_ids=tokens)["embeddings"].numpy()

    def _check(self, image: bytes | np.ndarray) -> tuple[list[int], ImageFault | None]:
        """Return the gallery rows with the same pixels or numbers, or why the query is invalid."""
        if self.takes_vectors:
            return self._check_vector(np.asarray(image))
        pixels, fault = decode_checked(bytes(image))
        if pixels is None or not self._rows_of:
            return [], fault
        resized = resize_image(pixels, self.index.facts["image_size"], self.index.facts["fit"])
        return self._rows_of.get(content_digest(resized.numpy()), []), None

    def _check_vector(self, vector: np.ndarray) -> tuple[list[int], ImageFault | None]:
        dimension = self.embedder.input_dimension
        if vector.shape != (dimension,):
            return [], ImageFault("E_QUERY_SHAPE", f"Expected {dimension} numbers. Received: shape {vector.shape}")
        if not np.isfinite(vector).all() or not vector.any():
            return [], ImageFault("E_VECTOR_UNUSABLE", "Expected finite numbers that are not all zero")
        return self._rows_of.get(content_digest(vector.astype(np.float32)), []), None

    def _holds(self, part: str) -> bool:
        """Return whether a part of the calibration holds on the test classes; earlier formats have no check."""
        return self.calibration.get("check", {}).get(part, {}).get("holds", False)

    def _answer(self, rows: np.ndarray, scores: np.ndarray, own: list[int], k: int) -> Answer:
        others = ~np.isin(rows, own)
        rows, scores = rows[others], scores[others]
        ids, labels = self.gallery["id"][rows], self.gallery["label"][rows]
        probabilities = None
        if self.probability and len(scores):
            (values,) = match_probability(self.probability, scores[None], labels[None]).tolist()
            probabilities = [None if math.isnan(value) else value for value in values[:k]]
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
            "reason", "this release has an earlier format, which was not validated on test classes"
        )
        return [f"no match probability and no unknown queries: {reason}"]
    missing = {"probability": "no match probability", "unknown": "no query is marked as unknown"}
    checks = {part: calibration["check"][part] for part in missing}
    return [
        f"{missing[part]}: {check.get('statement') or check['reason']}"
        for part, check in checks.items()
        if not check["holds"]
    ]
