"""Identity of a run: the settings and the code of its training, and their digests."""

from anchorage.files import digest
from anchorage.release import find_baseline
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.fingerprint import code_version, preset_version, training_modules
from anchorage_pipeline.places import Fingerprints
from anchorage_pipeline.source import fingerprint_data

# Keys in the tables of the optimizer that the recipe chooses individually.
_RECIPE_KEYS = {"rate_factors": ("proxies", "trunk"), "frozen_steps": ("trunk",), "params": ("weight_decay",)}


def training_settings(experiment: Experiment) -> dict:
    """The keyword arguments of `anchorage.procedures.run_training` as plain values; None where the recipe chooses."""
    settings = experiment.model_dump(mode="json", include={"seed", "encoder", "loss", "training"})
    optimizer = settings["training"]["optimizer"]
    for table, keys in _RECIPE_KEYS.items():
        optimizer[table] = {**dict.fromkeys(keys), **optimizer[table]}
    if settings["loss"] is not None:
        for loss in settings["loss"].get("choices", [settings["loss"]]):
            loss["params"] = {"proxies_per_class": None, **loss["params"]}
    return settings


def fingerprint_run(experiment: Experiment) -> Fingerprints:
    """Digests of everything that a run on this machine depends on."""
    data = fingerprint_data(experiment)
    run = digest([settings_version(experiment), data])
    baseline = find_baseline(experiment.release_folder, run)
    return Fingerprints(data=data, run=run, baseline=f"{baseline['version']}:{baseline['bundle']}")


def settings_version(experiment: Experiment) -> str:
    """Digest of the settings that a result depends on, and of the code of the training and the pipeline."""
    settings = experiment.computed()
    return digest([settings, training_code(experiment, "anchorage_pipeline.graph")])


def training_code(experiment: Experiment, *core: str) -> str:
    """Digest of the code of modules and of the training code that this experiment uses, and of its preset."""
    modules, tables = training_modules(training_settings(experiment), *core)
    version, encoder = code_version(*modules, tables=tables), experiment.encoder
    return digest([version, preset_version(encoder.weights or "")]) if encoder.preset else version
