"""`anchorage train`: the data, training and metrics of the pipeline, with plain Keras and without TFX."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anchorage.data.listing import SPLITS, Listing, Reject, Source, list_images
from anchorage.data.vectors import list_vectors, read_vectors
from anchorage.disk import check_free_space, disk_trouble
from anchorage.errors import DataError, UsageError
from anchorage.progress import track
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.fingerprint import code_version, digest
from anchorage_pipeline.identity import training_settings
from anchorage_pipeline.lock import hold_folder
from anchorage_pipeline.source import fingerprint_data, locate_data, open_vectors, record_spec
from anchorage_pipeline.upkeep import rename_damaged, with_advice
from anchorage_pipeline.values import search_space

if TYPE_CHECKING:
    from anchorage.data.examples import Example
    from anchorage.data.store import RecordStore
    from anchorage.learner import MetricLearner
    from anchorage.training.fit import FitResult


def train_plainly(experiment: Experiment, output: Path) -> dict:
    """Pack the images, train, and evaluate on the test split.

    An interrupted training resumes from its last checkpoint; packed images are kept for the next call.

    Args:
        experiment: an experiment without ranges, since this command does not tune.
        output: folder for `learner.keras`, `saved_model/`, `history.json` and `metrics.json`.

    Returns:
        The content of `metrics.json`: metrics in [0, 1], those of the untrained baselines, and the evaluation set.

    Raises:
        UsageError: E_RANGES_NOT_SEARCHED, if the experiment has ranges.
        DataError: E_TOO_MANY_REJECTS, E_SPLIT_EMPTY.
        ResourceError: E_RUN_LOCKED, if another command uses `output`.
    """
    ranges = search_space(experiment)
    if ranges:
        raise UsageError(
            "E_RANGES_NOT_SEARCHED",
            f"`anchorage train` takes fixed values. Received ranges for {', '.join(item.path for item in ranges)}: "
            "find values with `anchorage tune`, or use `anchorage run`",
        )
    with hold_folder(output, experiment.name):
        return _train(experiment, output)


def _train(experiment: Experiment, output: Path) -> dict:
    from anchorage.inference import embed_store
    from anchorage.retrieval.metrics import evaluate_retrieval
    from anchorage.serving.export import export_encoder
    from anchorage.untrained import NAMES, embed_raw, untrained_encoders

    learner, result, train, test, checkpoints = train_splits(
        experiment, output, experiment.seed, log_folder=output / "logs"
    )
    evaluate = partial(evaluate_retrieval, labels=test.labels, roles=test.roles, metrics=experiment.evaluation.metrics)
    judged = evaluate(embed_store(learner, test))
    untrained = dict([embed_raw(test)])
    pretrained = bool(experiment.encoder.weights)
    if not experiment.untrained:
        with untrained_encoders(learner.encoder, result.start_weights, pretrained=pretrained) as encoders:
            untrained |= {name: embed_store(encoder, test) for name, encoder in encoders.items()}
    metrics = {
        "values": judged.values,
        "untrained": {NAMES[name]: evaluate(vectors).values for name, vectors in untrained.items()},
        "data": experiment.data.path,
        "split": "test",
        "queries": judged.num_queries,
        "classes": len(test.class_names),
        "seed": experiment.seed,
        "best_epoch": result.best_epoch,
    }
    shutil.rmtree(output / "saved_model", ignore_errors=True)
    export_encoder(learner.encoder, output / "saved_model", train.spec)
    learner.save(output / "learner.keras")
    (output / "history.json").write_text(json.dumps(result.history, indent=1), encoding="utf-8")
    (output / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    shutil.rmtree(checkpoints, ignore_errors=True)
    return metrics


class Trained(NamedTuple):
    """The learner with its best weights, the training result, two record stores, and the checkpoints to remove."""

    learner: "MetricLearner"
    result: "FitResult"
    train: "RecordStore"
    test: "RecordStore"
    checkpoints: Path


def train_splits(experiment: Experiment, folder: Path, seed: int, **options: Any) -> Trained:
    """Train on the training split of the experiment.

    Args:
        experiment: an experiment without ranges.
        folder: folder for the packed images, which the next call reuses, and the checkpoints.
        seed: seed of the training; the split depends on the experiment's own seed.
        **options: further arguments of `run_training`.
    """
    from anchorage.procedures import run_training

    settings = {**training_settings(experiment), "seed": seed}
    data, [train, val, test] = open_splits(experiment, folder / "stores")
    key = digest([settings, data, code_version("anchorage.procedures")])
    checkpoints = folder / "checkpoints" / key
    options |= {"checkpoint_folder": checkpoints, "cache_folder": folder / "features", "run_key": key}
    learner, result = run_training(train, val, **settings, **options)
    return Trained(learner, result, train, test, checkpoints)


def open_splits(experiment: Experiment, folder: Path) -> tuple[str, list["RecordStore"]]:
    """Open the record stores of the splits, packed below `folder` unless an earlier call packed the same data there.

    Returns:
        A digest of the data, and the stores of training, validation and test.
    """
    data = digest([fingerprint_data(experiment), experiment.data.model_dump(mode="json"), experiment.seed])
    stores = folder / data
    if not stores.is_dir():
        listing = list_sources(experiment, val_share=experiment.data.val_share)
        parts = {split: [source for source in listing.sources if source.split == split] for split in SPLITS}
        pack_parts(experiment, parts, listing.rejects, stores)
    return data, open_packed(stores, SPLITS)


def open_packed(folder: Path, parts: Sequence[str]) -> list["RecordStore"]:
    """Open the record stores written by `pack_parts`; a damaged folder is renamed, so that the next call packs again.

    Raises:
        DataError: E_STORE_DAMAGED, E_STORE_MISSING.
    """
    from anchorage.data.store import RecordStore

    try:
        return [RecordStore(folder / part) for part in parts]
    except DataError as fault:
        rename_damaged(folder)
        raise with_advice(fault) from fault


def list_sources(experiment: Experiment, *, val_share: float, attributes: Sequence[str] = ()) -> Listing:
    """List all images of the experiment's data, each with its split.

    Args:
        experiment: the experiment whose data to list.
        val_share: share of the classes outside the test split that become the validation split, in [0, 1); ignored if
            the data defines the split.
        attributes: further columns of the table to keep with each image.
    """
    root, table = locate_data(experiment)
    if experiment.data.input == "vectors":
        data = experiment.data
        return list_vectors(
            open_vectors(experiment),
            val_share=val_share,
            test_share=data.test_share,
            seed=experiment.seed,
            own_labels=experiment.untrained,
        )
    columns = {str(name): column for name, column in experiment.data.columns.items()}
    return list_images(
        root,
        table or "",
        columns,
        val_share=val_share,
        test_share=experiment.data.test_share,
        seed=experiment.seed,
        follow_links=experiment.data.follow_links,
        own_labels=experiment.untrained,
        attributes=attributes,
    )


def pack_parts(
    experiment: Experiment, parts: Mapping[str, Sequence[Source]], rejects: Sequence[Reject], folder: Path
) -> None:
    """Write one record store per part below `folder`, which appears only once all of them are complete.

    Raises:
        DataError: E_SPLIT_EMPTY, E_TOO_MANY_REJECTS.
        ResourceError: E_DISK_FULL, E_NOT_WRITABLE.
    """
    from anchorage.data.intake import check_rejects, format_reject
    from anchorage.data.packing import decode_records
    from anchorage.data.store import write_store

    data = experiment.data
    root, _ = locate_data(experiment)
    rejects, total = list(rejects), sum(map(len, parts.values())) + len(rejects)
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    spec = record_spec(experiment)
    needed = sum(map(len, parts.values())) * spec.bytes
    check_free_space(folder, needed)
    for part, sources in parts.items():
        if not sources:
            raise DataError("E_SPLIT_EMPTY", f"Expected images in the split {part}. Found none in {root}")
        with disk_trouble(folder, needed):
            if spec.dimension:
                examples = _read_vectors(experiment, sources, rejects)
            else:
                examples = _read(root, sources, data.max_pixels, rejects)
            write_store(temporary / part, decode_records(examples, spec), spec)
    for reject in rejects[:20]:
        print(f"rejected  {reject.code}  {format_reject(reject)}")
    file = str(folder.parent / "rejects.jsonl")
    check_rejects(rejects, total, max_rejects=data.max_rejects, max_share=data.max_reject_share, file=file)
    temporary.rename(folder)


def _read(root: Path, sources: Sequence[Source], max_pixels: int, rejects: list[Reject]) -> Iterator["Example"]:
    """Yield the usable images, and append the others to `rejects`."""
    from anchorage.data.examples import Example
    from anchorage.data.intake import read_image

    for source in track(sources, "packing"):
        image, fault = read_image(root / source.path, max_pixels)
        if fault:
            rejects.append(Reject(source.path, source.id, *fault, source.split))
            continue
        yield Example(source.id, source.label, source.role, image)


def _read_vectors(experiment: Experiment, sources: Sequence[Source], rejects: list[Reject]) -> Iterator["Example"]:
    """Yield the usable rows of a table of vectors, and append the others to `rejects`."""
    from anchorage.data.examples import Example

    for row in read_vectors(open_vectors(experiment), sources):
        if isinstance(row, Reject):
            rejects.append(row)
        else:
            yield Example(row.source.id, row.source.label, row.source.role, row.values)
