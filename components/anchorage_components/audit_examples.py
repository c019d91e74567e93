"""AuditExamples: what is wrong with the data, with names; a class or an image on two sides stops the run."""

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
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import Examples

from anchorage.data.examples import ExampleShard, list_shards, read_counts, read_examples, read_rejects
from anchorage.data.images import decode_checked, hash_pixels
from anchorage.data.store import content_digest
from anchorage.errors import DataError
from anchorage_components.artifacts import AUDIT, DataAudit
from anchorage_components.beam.jobs import run_jobs

_SHOWN = 20  # names listed of each kind; the counts are of all


class _Image(NamedTuple):
    """One image: the hash of its pixels, its id, label and split."""

    digest: str
    id: str
    label: str
    split: str


@component(use_beam=True)
def AuditExamples(
    examples: InputArtifact[Examples],
    audit: OutputArtifact[DataAudit],
    block: Parameter[int] = 1,
    code_version: Parameter[str] = "",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
):
    """Counts images and classes of every split, and looks for what retrieval results would suffer from.

    Args:
        examples: what ImageExampleGen wrote.
        audit: gets `audit.json` and, for people, `audit.md`; both are written before the run is stopped.
        block: 1 stops the run when a class, or an image whatever its label, is on two sides of the split; 0 only
            reports it.
        code_version: digest of the code; part of the cache key, not used otherwise.
        beam_pipeline: given by TFX.

    Raises:
        DataError: `E_SPLIT_LEAK` with the classes and images, or what reading a damaged shard raises.
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
        found = json.loads(file.read())
    logging.info("audit: %s", found)
    if block:
        _check_leaks(found)


def _check_leaks(found: dict) -> None:
    classes, images = found["leaks"], found["identical"]["across_splits"]
    told = []
    if classes["count"]:
        shown = ", ".join(f"{leak['label']!r} ({_in_splits(leak)})" for leak in classes["first"][:10])
        told.append(f"{classes['count']} classes in several: {shown}")
    if images["count"]:
        shown = ", ".join(_format_copies(copies) for copies in images["first"][:5])
        told.append(f"images with copies in several splits, {images['count']} of them: {shown}")
    if told:
        raise DataError(
            "E_SPLIT_LEAK",
            f"Expected every class and every image in one split. Received: {'; '.join(told)}. Give each class one "
            "split and remove the copies of images, or set `data.block_on_leaks` to false.",
        )


def _count_shard(uri: str, job: tuple[str, tuple]) -> tuple[str, dict[tuple[str, str], int], list[_Image]]:
    """Images of one shard by label and role, and each with the hash of its pixels."""
    split, facts = job
    counts: Counter[tuple[str, str]] = Counter()
    images = []
    for example in read_examples(uri, ExampleShard(*facts)):
        counts[example.label, example.role] += 1
        if digest := example.pixels or _hash_content(example.content):
            images.append(_Image(digest, example.id, example.label, split))
    return split, dict(counts), images


def _hash_content(content: bytes | np.ndarray) -> str:
    """Hash of a vector, or of an image's pixels; "" where there are none, which packing will report."""
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
        "identical": _find_copies([image for _, _, found in results for image in found]),
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
        "singletons": {"count": len(singletons), "first": singletons[:_SHOWN]},
    }


def _find_leaks(images: dict[str, Counter]) -> dict:
    """Classes that are in more than one split, with their number of images in each."""
    places: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for split, counts in images.items():
        for label, number in counts.items():
            places[label][split] = number
    leaks = [{"label": label, "images": found} for label, found in sorted(places.items()) if len(found) > 1]
    return {"count": len(leaks), "first": leaks[:_SHOWN]}


def _find_copies(images: list[_Image]) -> dict:
    """Images with the same pixels: in several splits, and in one split under several labels."""
    groups: defaultdict[str, list[_Image]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.id):
        groups[image.digest].append(image)
    copies = [group for group in groups.values() if len(group) > 1]
    leaks = [group for group in copies if len({image.split for image in group}) > 1]
    doubtful = [group for group in copies if len({image.split for image in group}) == 1 < len({i.label for i in group})]
    return {
        name: {"count": len(found), "first": [[image._asdict() for image in group] for group in found[:_SHOWN]]}
        for name, found in (("across_splits", leaks), ("across_labels", doubtful))
    }


def _describe_rejects(uri: str) -> dict:
    rejects = read_rejects(uri)
    return {
        "count": len(rejects),
        "by_code": dict(sorted(Counter(reject.code for reject in rejects).items())),
        "first": [{"path": reject.path, "code": reject.code, "message": reject.message} for reject in rejects[:_SHOWN]],
    }


def _to_text(audit: dict) -> str:
    lines = [
        "# Data audit",
        "",
        "| split | images | classes | images a class | single-image classes |",
        "|---|---|---|---|---|",
    ]
    for split, found in audit["splits"].items():
        sizes = " / ".join(str(value) for value in found["per_class"].values())
        lines.append(f"| {split} | {found['images']} | {found['classes']} | {sizes} | {found['singletons']['count']} |")
    lines += ["", f"Classes in several splits: {audit['leaks']['count']}"]
    lines += [f"- {leak['label']}: {_in_splits(leak)}" for leak in audit["leaks"]["first"]]
    for name, told in (("across_splits", "in several splits"), ("across_labels", "of one split under several labels")):
        found = audit["identical"][name]
        lines += ["", f"Identical images {told}: {found['count']}"]
        lines += [f"- {_format_copies(copies)}" for copies in found["first"]]
    lines += ["", f"Rejected records: {audit['rejects']['count']}; files that are no images: {audit['skipped']}"]
    lines += [f"- {reject['path']}: {reject['code']}: {reject['message']}" for reject in audit["rejects"]["first"]]
    if audit["notes"]:
        lines += ["", "Unusual images, brought to 8-bit RGB by the one decoding rule:"]
        lines += [f"- {name.replace('_', ' ')}: {number}" for name, number in audit["notes"].items()]
    return "\n".join(lines) + "\n"


def _format_copies(copies: list[dict]) -> str:
    """As in "a/1.png (train, apple) = d/1.png (test, date)"."""
    told = [f"{copy['id']} ({copy['split']}, {copy['label']})" for copy in copies[:3]]
    more = [f"{len(copies) - 3} more"] if len(copies) > 3 else []
    return " = ".join(told + more)


def _in_splits(leak: dict) -> str:
    return ", ".join(f"{split} {number}" for split, number in leak["images"].items())
