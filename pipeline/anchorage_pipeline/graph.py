"""The pipeline as a graph of TFX nodes: one experiment in, one TFX pipeline out."""

import json
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anchorage.errors import UsageError
from anchorage.release import find_baseline
from anchorage_pipeline.config import Experiment, search_space
from anchorage_pipeline.fingerprint import code_version, data_version, digest, training_modules

if TYPE_CHECKING:
    from anchorage_pipeline.spread.record import Summary

_TABLES = {".csv", ".tsv", ".parquet"}
# Keys in tables of the optimizer that the recipe chooses one by one.
_OPEN = {"rate_factors": ("proxies", "trunk"), "frozen_steps": ("trunk",), "params": ("weight_decay",)}


@dataclass(frozen=True)
class Places:
    """Where a run reads and writes; local paths, or paths as the containers of a cluster see them.

    Args:
        pipeline_root: artifacts of all runs of this experiment.
        releases: base path of the published versions.
        checkpoints: where a training that was cut off finds itself again.
        metadata: SQLite file of ML Metadata, or None where the platform brings its own.
    """

    pipeline_root: str
    releases: str
    checkpoints: str
    metadata: str | None = None

    @property
    def rejects(self) -> str:
        """Where the bad records of data are listed that a run stopped at."""
        return posixpath.join(self.pipeline_root, "rejects.jsonl")


@dataclass(frozen=True)
class Fingerprints:
    """What tells this run from another, worked out before it starts.

    Args:
        data: digest of the images and the table.
        run: digest of experiment, data and code together; a release made under the
            same one is this very run and never its own baseline.
        baseline: identity of the release that the candidate is compared with, so that one that was damaged or rolled
            back since is not taken from the cache.
    """

    data: str
    run: str
    baseline: str = ""


def local_places(experiment: Experiment) -> Places:
    """Everything below the experiment's run and release folders."""
    base = experiment.run_folder
    return Places(
        pipeline_root=str(base / "artifacts"),
        releases=str(experiment.release_folder),
        checkpoints=str(base / "checkpoints"),
        metadata=str(base / "metadata.sqlite"),
    )


def place_data(experiment: Experiment) -> tuple[Path, Path | None]:
    """The folder the image paths are relative to, and the table when the path ends like one; looks at no disk."""
    path = Path(experiment.data.path).absolute()
    return (path.parent, path) if path.suffix.lower() in _TABLES else (path, None)


def locate_data(experiment: Experiment) -> tuple[Path, Path | None]:
    """The same for data that must lie on this machine.

    Raises:
        UsageError: E_DATA_MISSING, if nothing is there.
    """
    root, table = place_data(experiment)
    path = table or root
    if path.is_file() if table else path.is_dir():
        return root, table
    raise UsageError(
        "E_DATA_MISSING",
        f"`data.path` must be a folder of images or a table ({', '.join(sorted(_TABLES))}). Received: {path}, "
        + ("which is neither." if path.exists() else "where nothing is. Paths are taken from the current folder."),
    )


def fingerprint_data(experiment: Experiment) -> str:
    """Digest of the experiment's images and table."""
    columns = {str(name): column for name, column in experiment.data.columns.items()}
    return data_version(*locate_data(experiment), columns, follow_links=experiment.data.follow_links)


def fingerprint_run(experiment: Experiment) -> Fingerprints:
    """Digest what a run on this machine depends on."""
    settings = experiment.model_dump(mode="json", exclude={"runs", "release"})
    data = fingerprint_data(experiment)
    run = digest([settings, data, _training_code(experiment, "anchorage_pipeline.graph")])
    baseline = find_baseline(experiment.release_folder, run)
    return Fingerprints(data=data, run=run, baseline=f"{baseline['version']}:{baseline['bundle']}")


def training_settings(experiment: Experiment) -> dict:
    """What `anchorage.training.run.train_run` takes, as plain values; None where the recipe chooses."""
    settings = experiment.model_dump(mode="json", include={"seed", "encoder", "loss", "training"})
    optimizer = settings["training"]["optimizer"]
    for table, open_keys in _OPEN.items():
        optimizer[table] = {**dict.fromkeys(open_keys), **optimizer[table]}
    if settings["loss"] is not None:
        settings["loss"]["params"] = {"proxies_per_class": None, **settings["loss"]["params"]}
    return settings


def create_pipeline(
    experiment: Experiment, places: Places, fingerprints: Fingerprints, spread: "Summary | None" = None
):
    """Chain all nodes.

    Args:
        experiment: what to run.
        places: where to.
        fingerprints: what the cache and the choice of the baseline go by.
        spread: over seeds, for the report; None if it was not measured.

    Returns:
        A `tfx.dsl.Pipeline`; the Tuner is in it only if the experiment holds ranges.
    """
    from tfx.orchestration.metadata import sqlite_metadata_connection_config
    from tfx.orchestration.pipeline import Pipeline

    nodes = _data_nodes(experiment, places, fingerprints)
    nodes |= _training_nodes(experiment, places, nodes["pack"])
    nodes |= _judging_nodes(experiment, places, fingerprints, spread, nodes)
    connection = places.metadata and sqlite_metadata_connection_config(places.metadata)
    return Pipeline(
        pipeline_name=experiment.name,
        pipeline_root=places.pipeline_root,
        components=list(nodes.values()),
        enable_cache=True,
        metadata_connection_config=connection or None,
        # Beam's defaults: one worker in this process. Given any argument, TFX first builds a source distribution of
        # itself for every Beam node, for workers elsewhere.
        beam_pipeline_args=[],
    )


def _data_nodes(experiment: Experiment, places: Places, fingerprints: Fingerprints) -> dict:
    """Ingest, statistics, schema, validation, audit and packing."""
    import tensorflow_data_validation as tfdv
    from tfx.components import ExampleValidator, SchemaGen, StatisticsGen

    from anchorage_components.audit_examples import AuditExamples
    from anchorage_components.image_example_gen import ImageExampleGen
    from anchorage_components.pack_examples import PackExamples

    data = experiment.data
    root, table = place_data(experiment)
    ingest = ImageExampleGen(
        root=str(root),
        table=str(table or ""),
        columns_json=_json(data.columns),
        val_share=data.val_share,
        test_share=data.test_share,
        seed=experiment.seed,
        max_reject_share=data.max_reject_share,
        max_rejects=data.max_rejects,
        max_pixels=data.max_pixels,
        attributes_json=_json(experiment.evaluation.attributes),
        follow_links=int(data.follow_links),
        rejects_file=places.rejects,
        data_version=fingerprints.data,
        code_version=code_version("anchorage_components.image_example_gen"),
    )
    # Statistics over compressed image bytes say nothing and cost much: the other features are looked at.
    options = tfdv.StatsOptions(feature_allowlist=["image/id", "label", "role"])
    statistics = StatisticsGen(examples=ingest.outputs["examples"], stats_options=options)
    schema = SchemaGen(statistics=statistics.outputs["statistics"])
    validator = ExampleValidator(statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"])
    audit = AuditExamples(
        examples=ingest.outputs["examples"],
        block=int(data.block_on_leaks),
        code_version=code_version("anchorage_components.audit_examples"),
    )
    pack = PackExamples(
        examples=ingest.outputs["examples"],
        image_size=data.image_size,
        fit=data.fit,
        code_version=code_version("anchorage_components.pack_examples"),
    )
    # The audit can stop a run: nothing costly starts before it has passed.
    pack.add_upstream_node(audit)
    return {
        "ingest": ingest,
        "statistics": statistics,
        "schema": schema,
        "validator": validator,
        "audit": audit,
        "pack": pack,
    }


def _training_nodes(experiment: Experiment, places: Places, pack) -> dict:
    """The Trainer, and before it the Tuner when there is something to search."""
    from tfx.components import Trainer, Tuner
    from tfx.proto.trainer_pb2 import EvalArgs, TrainArgs

    space = search_space(experiment)
    config = {
        "settings": training_settings(experiment),
        "checkpoints": places.checkpoints,
        "code_version": _training_code(experiment, "anchorage_components.trainer"),
    }
    splits = {
        "train_args": TrainArgs(splits=["train"]),
        "eval_args": EvalArgs(splits=["val"]),
    }
    nodes = {}
    if space:
        search = {"space": space, **experiment.tuning.model_dump(mode="json")}
        nodes["tuner"] = Tuner(
            tuner_fn="anchorage_components.tuner.tuner_fn",
            examples=pack.outputs["store"],
            custom_config={
                **config,
                "tuning": search,
                "code_version": _training_code(experiment, "anchorage_components.tuner"),
            },
            **splits,
        )
    nodes["trainer"] = Trainer(
        run_fn="anchorage_components.trainer.run_fn",
        examples=pack.outputs["store"],
        hyperparameters=nodes["tuner"].outputs["best_hyperparameters"] if space else None,
        custom_config=config,
        **splits,
    )
    return nodes


def _judging_nodes(
    experiment: Experiment, places: Places, fingerprints: Fingerprints, spread: "Summary | None", nodes: dict
) -> dict:
    """Embedding, index, evaluation against the last release, and publishing."""
    from anchorage_components.build_index import BuildIndex
    from anchorage_components.embed_examples import EmbedExamples
    from anchorage_components.embed_untrained import EmbedUntrained
    from anchorage_components.evaluate_retrieval import EvaluateRetrieval
    from anchorage_components.find_release import FindRelease
    from anchorage_components.publish_release import PublishRelease

    examples, store = nodes["ingest"].outputs["examples"], nodes["pack"].outputs["store"]
    model = nodes["trainer"].outputs["model"]
    index = experiment.index
    embed_code = code_version("anchorage_components.embed_examples")
    find = FindRelease(
        releases=places.releases,
        run_key=fingerprints.run,
        expected=fingerprints.baseline,
        code_version=code_version("anchorage_components.find_release"),
    )
    embed = EmbedExamples(
        examples=examples,
        model=model,
        splits_json=_json(sorted({"val", "test", *index.splits})),
        attributes_json=_json(experiment.evaluation.attributes),
        code_version=embed_code,
    )
    embed_baseline = EmbedExamples(
        examples=examples,
        baseline=find.outputs["baseline"],
        splits_json=_json(["test"]),
        code_version=embed_code,
    ).with_id("EmbedExamples.baseline")
    embed_untrained = EmbedUntrained(
        store=store,
        model_run=nodes["trainer"].outputs["model_run"],
        code_version=code_version("anchorage_components.embed_untrained"),
    )
    build = BuildIndex(
        embeddings=embed.outputs["embeddings"],
        store=store,
        splits_json=_json(index.splits),
        neighbors=index.neighbors,
        min_recall=index.min_recall,
        leaves=index.leaves,
        seed=experiment.seed,
        code_version=code_version("anchorage_components.build_index"),
    )
    evaluate = EvaluateRetrieval(
        embeddings=embed.outputs["embeddings"],
        baseline_embeddings=embed_baseline.outputs["embeddings"],
        baseline=find.outputs["baseline"],
        untrained=embed_untrained.outputs["embeddings"],
        store=store,
        index=build.outputs["index"],
        audit=nodes["audit"].outputs["audit"],
        model=model,
        model_run=nodes["trainer"].outputs["model_run"],
        **({"tuner_results": nodes["tuner"].outputs["tuner_results"]} if "tuner" in nodes else {}),
        settings_json=_json(experiment.judge_settings.to_dict()),
        facts_json=_json(_facts(experiment, fingerprints)),
        spread_json=_json(spread.model_dump() if spread else {}),
        code_version=code_version("anchorage_components.evaluate_retrieval"),
    )
    publish = PublishRelease(
        model=model,
        index=build.outputs["index"],
        report=evaluate.outputs["report"],
        blessing=evaluate.outputs["blessing"],
        releases=places.releases,
        facts_json=_json({**_facts(experiment, fingerprints), "data_root": str(place_data(experiment)[0])}),
        code_version=code_version("anchorage_components.publish_release"),
    )
    return {
        "find": find,
        "embed": embed,
        "embed_baseline": embed_baseline,
        "embed_untrained": embed_untrained,
        "index": build,
        "evaluate": evaluate,
        "publish": publish,
    }


def _facts(experiment: Experiment, fingerprints: Fingerprints) -> dict:
    """What report and manifest say about how the candidate came to be."""
    return {
        "experiment": experiment.model_dump(mode="json", exclude={"runs", "release"}),
        "data_version": fingerprints.data,
        "run_key": fingerprints.run,
    }


def _training_code(experiment: Experiment, module: str) -> str:
    """Digest of the code of a module and of the training that this experiment asks for."""
    modules, tables = training_modules(training_settings(experiment), module)
    return code_version(*modules, tables=tables)


def _json(value) -> str:
    return json.dumps(value, sort_keys=True)
