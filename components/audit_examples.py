"""AuditExamples: what is wrong with the data, by kind and with names; a class on two sides stops the run."""

import functools
import json
import posixpath
from collections import Counter, defaultdict

import apache_beam as beam
import tensorflow as tf
from absl import logging
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import Examples

from components.artifacts import AUDIT, DataAudit
from components.jobs import run_jobs
from models.data.examples import ExampleShard, list_shards, read_counts, read_examples, read_rejects
from models.errors import DataError

_SHOWN = 20  # names listed of each kind; the counts are of all


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
        block: 1 stops the run when a class is on two sides of the split, 0 only reports it.
        code_version: digest of the code; part of the cache key, not used otherwise.
        beam_pipeline: given by TFX.

    Raises:
        DataError: `E_SPLIT_LEAK` with the classes, or what reading a damaged shard raises.
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
    if found["leaks"]["count"] and block:
        shown = ", ".join(f"{leak['label']!r} ({_in_splits(leak)})" for leak in found["leaks"]["first"][:10])
        raise DataError(
            "E_SPLIT_LEAK",
            f"Expected every class in one split. Received: {found['leaks']['count']} classes in several: {shown}. "
            "Give each class one split, or set `data.block_on_leaks` to false.",
        )


def _count_shard(uri: str, job: tuple[str, tuple]) -> tuple[str, dict[tuple[str, str], int]]:
    """Images of one shard by label and role."""
    split, facts = job
    return split, dict(Counter((example.label, example.role) for example in read_examples(uri, ExampleShard(*facts))))


def _write_audit(uri: str, folder: str, splits: list[str], results: list[tuple[str, dict]]) -> None:
    images: dict[str, Counter] = {split: Counter() for split in splits}
    roles: dict[str, Counter] = {split: Counter() for split in splits}
    for split, counts in results:
        for (label, role), number in counts.items():
            images[split][label] += number
            roles[split][role] += number
    counts = read_counts(uri) or {}
    audit = {
        "splits": {split: _describe_split(images[split], roles[split]) for split in splits},
        "leaks": _find_leaks(images),
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
    lines += ["", f"Rejected records: {audit['rejects']['count']}; files that are no images: {audit['skipped']}"]
    lines += [f"- {reject['path']}: {reject['code']}: {reject['message']}" for reject in audit["rejects"]["first"]]
    if audit["notes"]:
        lines += ["", "Unusual images, brought to 8-bit RGB by the one decoding rule:"]
        lines += [f"- {name.replace('_', ' ')}: {number}" for name, number in audit["notes"].items()]
    return "\n".join(lines) + "\n"


def _in_splits(leak: dict) -> str:
    return ", ".join(f"{split} {number}" for split, number in leak["images"].items())
