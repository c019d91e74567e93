"""AuditExamples: reports problems of the data, and stops the run if a class or an image is in several splits."""

import functools
import json
import posixpath
from collections import Counter, defaultdict
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
from absl import logging
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.types.standard_artifacts import Examples

from anchorage.data.examples import ExampleShard, list_shards, read_counts, read_examples, read_rejects
from anchorage.data.images import decode_checked, hash_pixels
from anchorage.data.store import content_digest
from anchorage.errors import DataError
from anchorage_components.artifacts import AUDIT, DataAudit
from anchorage_components.beam.jobs import run_jobs
from anchorage_components.nodes import node

_MAX_LISTED = 20  # names listed per kind of problem; the counts cover all


class _Image(NamedTuple):
    """Hash of the pixels, id, label and split of an image."""

    digest: str
    id: str
    label: str
    split: str


@node(use_beam=True)
def AuditExamples(
    examples: InputArtifact[Examples],
    audit: OutputArtifact[DataAudit],
    block: Parameter[int] = 1,
    code_version: Parameter[str] = "",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
):
    """Counts images and classes per split, and finds leaks between splits, identical images and rejected records.

    Args:
        examples: output of ImageExampleGen.
        audit: output folder for `audit.json` and the readable `audit.md`; both are written before the run is stopped.
        block: 1 stops the run if a class or an identical image, whatever its label, is in several splits; 0 only
            reports it.
        code_version: digest of the code; part of the cache key, otherwise unused.
        beam_pipeline: provided by TFX.

    Raises:
        DataError: `E_SPLIT_LEAK` with the classes and images, or the error of a damaged shard.
    """
    jobs = [(split, tuple(shard)) for split in examples.splits for shard in list_shards(examples.uri, split)]
    run_jobs(
        beam_pipeline,
        jobs,
        functools.partial(_count_shard, examples.uri),
        functools.partial(_write_audit, examples.uri, audit.uri, examples.splits),
        audit.uri,
    )
    with tf.io.gfile.GFile(posixpath.join(audit.uri, AUDIT)) as file:
        report = json.loads(file.read())
    logging.info("audit: %s", report)
    if block:
        _check_leaks(report)


def _check_leaks(report: dict) -> None:
    classes, images = report["leaks"], report["identical"]["across_splits"]
    leaks = []
    if classes["count"]:
        examples = ", ".join(f"{leak['label']!r} ({_in_splits(leak)})" for leak in classes["first"][:10])
        leaks.append(f"{classes['count']} classes in several splits: {examples}")
    if images["count"]:
        examples = ", ".join(_format_copies(copies) for copies in images["first"][:5])
        leaks.append(f"{images['count']} images with copies in several splits: {examples}")
    if leaks:
        raise DataError(
            "E_SPLIT_LEAK",
            f"Expected every class and every image in one split. Received: {'; '.join(leaks)}. Assign each class to "
            "one split and remove the copies of images, or set `data.block_on_leaks` to false.",
        )


def _count_shard(uri: str, job: tuple[str, tuple]) -> tuple[str, dict[tuple[str, str], int], list[_Image]]:
    """Number of images of a shard by label and role, and the images with the hash of their pixels."""
    split, facts = job
    counts: Counter[tuple[str, str]] = Counter()
    images = []
    for example in read_examples(uri, ExampleShard(*facts)):
        counts[example.label, example.role] += 1
        if digest := example.pixels or _hash_content(example.content):
            images.append(_Image(digest, example.id, example.label, split))
    return split, dict(counts), images


def _hash_content(content: bytes | np.ndarray) -> str:
    """Hash of a vector or of the pixels of an image; "" if it cannot be decoded, which packing will report."""
    if not isinstance(content, bytes):
        return content_digest(content)
    pixels, _ = decode_checked(content)
    return "" if pixels is None else hash_pixels(pixels)


def _write_audit(uri: str, folder: str, splits: list[str], results: list[tuple[str, dict, list[_Image]]]) -> None:
    images: dict[str, Counter] = {split: Counter() for split in splits}
    roles: dict[str, Counter] = {split: Counter() for split in splits}
    for split, counts, _ in results:
        for (label, role), number in counts.items():
            images[split][label] += number
            roles[split][role] += number
    counts = read_counts(uri) or {}
    audit = {
        "splits": {split: _describe_split(images[split], roles[split]) for split in splits},
        "leaks": _find_leaks(images),
        "identical": _find_copies([image for _, _, part in results for image in part]),
        "rejects": _describe_rejects(uri),
        "notes": counts.get("notes", {}),
        "skipped": counts.get("skipped", 0),
    }
    for name, content in (
        (AUDIT, json.dumps(audit, indent=1, ensure_ascii=False) + "\n"),
        ("audit.md", _to_text(audit)),
    ):
        with tf.io.gfile.GFile(posixpath.join(folder, name), "w") as file:
            file.write(content)


def _describe_split(images: Counter, roles: Counter) -> dict:
    sizes = sorted(images.values())
    singletons = sorted(label for label, number in images.items() if number == 1)
    return {
        "images": sum(sizes),
        "classes": len(sizes),
        "per_class": {"least": sizes[0], "median": sizes[len(sizes) // 2], "most": sizes[-1]} if sizes else {},
        "roles": dict(sorted(roles.items())),
        "singletons": {"count": len(singletons), "first": singletons[:_MAX_LISTED]},
    }


def _find_leaks(images: dict[str, Counter]) -> dict:
    """Classes in more than one split, with their number of images in each."""
    by_label: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for split, counts in images.items():
        for label, number in counts.items():
            by_label[label][split] = number
    leaks = [{"label": label, "images": splits} for label, splits in sorted(by_label.items()) if len(splits) > 1]
    return {"count": len(leaks), "first": leaks[:_MAX_LISTED]}


def _find_copies(images: list[_Image]) -> dict:
    """Images with identical pixels: in several splits, and in one split with several labels."""
    groups: defaultdict[str, list[_Image]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.id):
        groups[image.digest].append(image)
    copies = [group for group in groups.values() if len(group) > 1]
    leaks = [group for group in copies if len({image.split for image in group}) > 1]
    conflicts = [g for g in copies if len({image.split for image in g}) == 1 < len({image.label for image in g})]
    return {
        name: {"count": len(groups), "first": [[image._asdict() for image in group] for group in groups[:_MAX_LISTED]]}
        for name, groups in (("across_splits", leaks), ("across_labels", conflicts))
    }


def _describe_rejects(uri: str) -> dict:
    rejects = read_rejects(uri)
    return {
        "count": len(rejects),
        "by_code": dict(sorted(Counter(reject.code for reject in rejects).items())),
        "first": [{"path": r.path, "code": r.code, "message": r.message} for r in rejects[:_MAX_LISTED]],
    }


def _to_text(audit: dict) -> str:
    lines = [
        "# Data audit",
        "",
        "| split | images | classes | images per class | single-image classes |",
        "|---|---|---|---|---|",
    ]
    for split, facts in audit["splits"].items():
        sizes = " / ".join(str(value) for value in facts["per_class"].values())
        lines.append(f"| {split} | {facts['images']} | {facts['classes']} | {sizes} | {facts['singletons']['count']} |")
    lines += ["", f"Classes in several splits: {audit['leaks']['count']}"]
    lines += [f"- {leak['label']}: {_in_splits(leak)}" for leak in audit["leaks"]["first"]]
    for name, title in (("across_splits", "in several splits"), ("across_labels", "in one split with several labels")):
        copies = audit["identical"][name]
        lines += ["", f"Identical images {title}: {copies['count']}"]
        lines += [f"- {_format_copies(group)}" for group in copies["first"]]
    lines += ["", f"Rejected records: {audit['rejects']['count']}; files that are not images: {audit['skipped']}"]
    lines += [f"- {reject['path']}: {reject['code']}: {reject['message']}" for reject in audit["rejects"]["first"]]
    if audit["notes"]:
        lines += ["", "Unusual images, converted to 8-bit RGB:"]
        lines += [f"- {name.replace('_', ' ')}: {number}" for name, number in audit["notes"].items()]
    return "\n".join(lines) + "\n"


def _format_copies(copies: list[dict]) -> str:
    """For example "a/1.png (train, apple) = d/1.png (test, date)"."""
    names = [f"{copy['id']} ({copy['split']}, {copy['label']})" for copy in copies[:3]]
    more = [f"{len(copies) - 3} more"] if len(copies) > 3 else []
    return " = ".join(names + more)


def _in_splits(leak: dict) -> str:
    return ", ".join(f"{split} {number}" for split, number in leak["images"].items())
