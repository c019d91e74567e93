"""The conditions of a training other than its seed: digests of settings, data and code, and the machine."""

import hashlib
import os
import platform
import socket
from pathlib import Path

from anchorage.errors import UsageError
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.fingerprint import code_version, digest, training_modules
from anchorage_pipeline.identity import training_settings
from anchorage_pipeline.source import locate_data
from anchorage_pipeline.spread.record import FILE, Machine, Summary, read_spread

_CORE = ("anchorage.procedures", "anchorage.inference", "anchorage.retrieval.metrics", "anchorage.data.store")


def spread_file(experiment: Experiment) -> Path:
    """File for the spread of an experiment."""
    return experiment.run_folder / FILE


def measured_spread(experiment: Experiment, fingerprint: str) -> Summary | None:
    """The spread measured for these settings and this data; None for fewer than two seeds.

    Args:
        experiment: the experiment.
        fingerprint: fingerprint of its data, from `anchorage_pipeline.source.fingerprint_data`.

    Raises:
        DataError: E_SPREAD_DAMAGED.
    """
    spread = read_spread(spread_file(experiment))
    if not spread.rows:
        return None
    version = data_version(experiment, fingerprint)
    return spread.summarize(settings_digest(experiment), version, code_digest(experiment))


def settings_digest(experiment: Experiment) -> str:
    """Digest of the settings of training and evaluation, without the seed and settings that only change the data."""
    settings = training_settings(experiment)
    del settings["seed"]
    data = experiment.data.model_dump(mode="json", include={"image_size", "fit", "max_pixels"})
    protocol = experiment.evaluation.model_dump(mode="json", include={"leave_out", "parents"})
    return digest([settings, data, protocol, sorted(experiment.evaluation.metrics)])


def code_digest(experiment: Experiment) -> str:
    """Digest of the code of training and evaluation."""
    modules, tables = training_modules(training_settings(experiment), *_CORE)
    return code_version(*modules, tables=tables)


def data_version(experiment: Experiment, fingerprint: str) -> str:
    """Digest of the data and its split that is fast to compute, but valid on this machine only."""
    return digest([fingerprint, experiment.data.model_dump(mode="json"), experiment.seed])


def content_digest(experiment: Experiment) -> str:
    """Digest of every image with its label and split, equal on all machines with the same data."""
    from anchorage_pipeline.plain import list_sources

    root, _ = locate_data(experiment)
    rows = []
    listing = list_sources(experiment, val_share=experiment.data.val_share, attributes=query_columns(experiment))
    for source in listing.sources:
        try:
            content = hashlib.sha256((root / source.path).read_bytes()).hexdigest()
        except OSError as error:
            content = f"unreadable: {error.errno}"
        rows.append([*source, content])
    return digest(rows)


def query_columns(experiment: Experiment) -> list[str]:
    """Columns of the data's table for the queries of the evaluation."""
    return sorted({experiment.evaluation.leave_out, experiment.evaluation.parents} - {""})


def describe_machine(name: str | None) -> Machine:
    """Describe this machine, with the given name or its host name.

    Raises:
        UsageError: E_MACHINE for a name that is empty or longer than 100 characters.
    """
    import tensorflow as tf
    from tensorflow.python.util import _pywrap_util_port  # TensorFlow has no public way to query oneDNN

    name = socket.gethostname() if name is None else name
    if not 1 <= len(name) <= 100:
        raise UsageError("E_MACHINE", f"Expected a name of 1 to 100 characters in `--machine`. Received: {name!r:.120}")
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    return Machine(
        name=name,
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        gpu=", ".join(details),
        onednn=bool(_pywrap_util_port.IsMklEnabled()),
        tensorflow=tf.__version__,
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
