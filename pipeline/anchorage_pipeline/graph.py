"""Build the TFX pipeline of an experiment."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from anchorage.data.remote import DataPlace
from anchorage.storage import is_remote
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.fingerprint import code_version
from anchorage_pipeline.identity import settings_version, training_code, training_settings
from anchorage_pipeline.places import Fingerprints, Places
from anchorage_pipeline.provenance import describe_run
from anchorage_pipeline.source import place_data
from anchorage_pipeline.trigger import find_limits
from anchorage_pipeline.values import search_space

if TYPE_CHECKING:
    from anchorage_pipeline.spread.record import Summary


def create_pipeline(
    experiment: Experiment,
    places: Places,
    fingerprints: Fingerprints | None,
    spread: "Summary | None" = None,
    trigger: Mapping[str, Any] | None = None,
):
    """Create the pipeline with all nodes.

    Args:
        experiment: the experiment to run.
        places: paths to read and write.
        fingerprints: digests for the cache keys and for the choice of the baseline; None lets a first node compute them
            at the start of each run, for a pipeline that runs later and elsewhere.
        spread: spread of the metrics over seeds, for the report; None if it was not measured.
        trigger: why a scheduled run started, for the report and the manifest; None for other runs. Without
            `fingerprints`, the first node finds this, too, if the experiment has limits.

    Returns:
        A `tfx.dsl.Pipeline`; it contains a Tuner only if the experiment has ranges.
    """
    from tfx.orchestration.pipeline import Pipeline

    from anchorage_components.beam.options import node_flags

    is_shared = not (is_remote(places.pipeline_root) or is_remote(experiment.data.path))
    nodes, source, why = {}, place_data(experiment), places.to_parameter(dict(trigger or {}))
    if fingerprints is None:
        nodes["identify"] = _identify_node(experiment, places)
        found = {name: channel.future()[0].value for name, channel in nodes["identify"].outputs.items()}
        fingerprints = Fingerprints(found["data_version"], found["run_key"], found["baseline"])
        source, why = DataPlace(found["root"], found["table"]), found["trigger"]
    nodes |= _data_nodes(experiment, places, fingerprints, source)
    nodes |= _training_nodes(experiment, places, nodes["pack"])
    nodes |= _judging_nodes(
        experiment,
        places,
        describe_run(experiment, place_data(experiment).root),
        fingerprints,
        why,
        spread,
        nodes,
    )
    return Pipeline(
        pipeline_name=experiment.name,
        pipeline_root=places.pipeline_root,
        components=list(nodes.values()),
        enable_cache=True,
        metadata_connection_config=places.metadata.config if places.metadata else None,
        beam_pipeline_args=node_flags(experiment.beam.flags, is_shared=is_shared),
    )


def _identify_node(experiment: Experiment, places: Places):
    from anchorage_components.identify_run import IdentifyRun

    data = experiment.data
    listing = {
        "splits": experiment.index.splits,
        "val_share": data.val_share,
        "test_share": data.test_share,
        "seed": experiment.seed,
        "own_labels": experiment.untrained,
    }
    return IdentifyRun(
        path=data.path,
        releases=places.releases,
        settings_version=settings_version(experiment),
        span="",
        is_vectors=int(data.input == "vectors"),
        columns_json=places.to_parameter(data.columns),
        follow_links=int(data.follow_links),
        limits_json=places.to_parameter(find_limits(experiment)),
        listing_json=places.to_parameter(listing),
        code_version=code_version("anchorage_components.identify_run"),
    )


def _data_nodes(experiment: Experiment, places: Places, fingerprints: Fingerprints, source: DataPlace) -> dict:
    """Ingest, statistics, schema, validation, audit and packing."""
    import tensorflow_data_validation as tfdv

    from anchorage_components.audit_examples import AuditExamples
    from anchorage_components.pack_examples import PackExamples
    from anchorage_components.stock import ExampleValidator, SchemaGen, StatisticsGen

    data = experiment.data
    ingest = _ingest_node(experiment, places, fingerprints, source)
    # Statistics of the encoded image bytes would be meaningless and slow: use the other features only.
    options = tfdv.StatsOptions(feature_allowlist=["image/id", "label", "role"])
    statistics = StatisticsGen(examples=ingest.outputs["examples"], stats_options=options)
    schema = SchemaGen(statistics=statistics.outputs["statistics"])
    validator = ExampleValidator(statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"])
    audit = AuditExamples(
        examples=ingest.outputs["examples"],
        block=int(data.block_on_leaks and not experiment.untrained),  # nothing is learned that could leak
        code_version=code_version("anchorage_components.audit_examples"),
    )
    pack = PackExamples(
        examples=ingest.outputs["examples"],
        image_size=data.image_size,
        fit=data.fit,
        code_version=code_version("anchorage_components.pack_examples"),
    )
    # The audit can stop a run, so it must pass before the expensive nodes start.
    pack.add_upstream_node(audit)
    return {
        "ingest": ingest,
        "statistics": statistics,
        "schema": schema,
        "validator": validator,
        "audit": audit,
        "pack": pack,
    }


def _ingest_node(experiment: Experiment, places: Places, fingerprints: Fingerprints, source: DataPlace):
    """The node that reads the data: images or vectors."""
    data = experiment.data
    shared = {
        "table": source.table,
        "columns_json": places.to_parameter(data.columns),
        "val_share": data.val_share,
        "test_share": data.test_share,
        "seed": experiment.seed,
        "own_labels": int(experiment.untrained),
        "max_reject_share": data.max_reject_share,
        "max_rejects": data.max_rejects,
        "attributes_json": places.to_parameter(experiment.attributes),
        "rejects_file": places.rejects,
        "data_version": fingerprints.data,
    }
    if data.input == "vectors":
        from anchorage_components.vector_example_gen import VectorExampleGen

        return VectorExampleGen(**shared, code_version=code_version("anchorage_components.vector_example_gen"))
    from anchorage_components.image_example_gen import ImageExampleGen

    return ImageExampleGen(
        **shared,
        root=source.root,
        max_pixels=data.max_pixels,
        follow_links=int(data.follow_links),
        code_version=code_version("anchorage_components.image_example_gen"),
    )


def _training_nodes(experiment: Experiment, places: Places, pack) -> dict:
    """The Trainer, preceded by the Tuner if the experiment has ranges."""
    from tfx.proto.trainer_pb2 import EvalArgs, TrainArgs

    from anchorage_components.stock import Trainer

    space = search_space(experiment)
    config = {
        "settings_json": places.to_parameter(training_settings(experiment)),
        "checkpoints": places.checkpoints,
        "features": places.features,
        "code_version": training_code(experiment, "anchorage_components.trainer"),
    }
    splits = {
        "train_args": TrainArgs(splits=["train"]),
        "eval_args": EvalArgs(splits=["val"]),
    }
    nodes = {}
    if space:
        from anchorage_components.tuner import Tuner

        tuning = experiment.tuning
        code = training_code(experiment, "anchorage_components.tuner", tuning.tuner_fn.rpartition(".")[0])
        nodes["tuner"] = Tuner(
            tuner_fn=tuning.tuner_fn,
            examples=pack.outputs["store"],
            custom_config={
                **config,
                "settings_json": places.to_parameter(training_settings(experiment), ordered=True),
                "checkpoints": places.searches,
                "tuning_json": places.to_parameter(asdict(tuning.settings)),
                "code_version": code,
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
    experiment: Experiment,
    places: Places,
    facts: dict,
    prints: Fingerprints,
    trigger: str,
    spread: "Summary | None",
    nodes: dict,
) -> dict:
    """Embedding, index, evaluation against the last release, and publication."""
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
        run_key=prints.run,
        expected=prints.baseline,
        code_version=code_version("anchorage_components.find_release"),
    )
    embed = EmbedExamples(
        examples=examples,
        model=model,
        splits_json=places.to_parameter(sorted({"val", "test", *index.splits})),
        attributes_json=places.to_parameter(experiment.attributes),
        code_version=embed_code,
    )
    embed_baseline = EmbedExamples(
        examples=examples,
        baseline=find.outputs["baseline"],
        splits_json=places.to_parameter(["test"]),
        code_version=embed_code,
    ).with_id("EmbedExamples.baseline")
    untrained = {}  # a candidate that was not trained is its own baseline without training
    if not experiment.untrained:
        untrained["embed_untrained"] = EmbedUntrained(
            store=store,
            model_run=nodes["trainer"].outputs["model_run"],
            code_version=code_version("anchorage_components.embed_untrained"),
        )
    build = BuildIndex(
        embeddings=embed.outputs["embeddings"],
        store=store,
        splits_json=places.to_parameter(index.splits),
        neighbors=index.neighbors,
        min_recall=index.min_recall,
        max_p99_ms=float(experiment.evaluation.index_p99_ms),
        max_memory_mib=float(experiment.evaluation.index_memory_mib),
        leaves=index.leaves,
        shard_rows=index.shard_rows,
        seed=experiment.seed,
        code_version=code_version("anchorage_components.build_index"),
    )
    evaluate = EvaluateRetrieval(
        embeddings=embed.outputs["embeddings"],
        baseline_embeddings=embed_baseline.outputs["embeddings"],
        baseline=find.outputs["baseline"],
        **({"untrained": untrained["embed_untrained"].outputs["embeddings"]} if untrained else {}),
        store=store,
        index=build.outputs["index"],
        audit=nodes["audit"].outputs["audit"],
        model=model,
        model_run=nodes["trainer"].outputs["model_run"],
        **({"tuner_results": nodes["tuner"].outputs["tuner_results"]} if "tuner" in nodes else {}),
        settings_json=places.to_parameter(experiment.judge_settings.to_dict()),
        facts_json=places.to_parameter(facts),
        data_version=prints.data,
        run_key=prints.run,
        trigger_json=trigger,
        spread_json=places.to_parameter(spread.model_dump() if spread else {}),
        code_version=code_version("anchorage_components.evaluate_retrieval"),
    )
    publish = PublishRelease(
        model=model,
        index=build.outputs["index"],
        report=evaluate.outputs["report"],
        blessing=evaluate.outputs["blessing"],
        releases=places.releases,
        facts_json=places.to_parameter(facts),
        data_version=prints.data,
        run_key=prints.run,
        trigger_json=trigger,
        code_version=code_version("anchorage_components.publish_release"),
    )
    return {
        "find": find,
        "embed": embed,
        "embed_baseline": embed_baseline,
        **untrained,
        "index": build,
        "evaluate": evaluate,
        "publish": publish,
    }
