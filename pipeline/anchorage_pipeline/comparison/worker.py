"""Child process for one run of a comparison: `python -m anchorage_pipeline.comparison.worker < job.json`."""

import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from anchorage.errors import AnchorageError, DataError, UsageError
from anchorage.files import replace_file


def main() -> int:
    """Run the job from standard input and write its result or error to its record."""
    job = json.load(sys.stdin)
    sys.path.append(str(Path.cwd()))  # for user-defined losses in the current folder
    try:
        outcome = train_and_judge(job)
    except AnchorageError as error:
        # Retry errors of the machine or the code, but not those of the data, which would recur.
        outcome = {"error": str(error), "again": not isinstance(error, DataError)}
    except Exception as error:
        traceback.print_exc()
        outcome = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}", "again": True}
    write_record(job, outcome)
    return 0 if "error" not in outcome else 1


def write_record(job: dict[str, Any], outcome: dict[str, Any]) -> None:
    """Write the record of a job atomically."""
    inputs = ("key", "settings", "train", "validation", "judge", "metrics", "data", "code")
    record = (
        {key: job[key] for key in inputs} | {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())} | outcome
    )
    path = Path(job["record"])
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(record, indent=1).encode())


def train_and_judge(job: dict[str, Any]) -> dict[str, Any]:
    """Train on the training classes of a job, evaluate on the held-out classes, and measure the cost.

    Raises:
        UsageError: E_CODE_CHANGED if the sources have changed since the key of the record was computed.
    """
    from anchorage_pipeline.fingerprint import code_version

    if code_version(*job["modules"], tables=job["tables"]) != job["code"]:
        raise UsageError("E_CODE_CHANGED", "The sources changed since the comparison began: run the command again")
    import numpy as np

    from anchorage.data.store import RecordStore
    from anchorage.data.subset import ClassSubset
    from anchorage.inference import embed_store
    from anchorage.procedures import run_training
    from anchorage.retrieval.metrics import evaluate_retrieval

    half = RecordStore(job["half"])
    choice = ClassSubset(half, job["validation"]) if job["validation"] else None
    judge = ClassSubset(half, job["judge"]) if job["judge"] else RecordStore(job["test"])
    train = ClassSubset(half, job["train"])
    memory_before, wall, cpu = _memory("VmRSS"), time.monotonic(), time.process_time()
    learner, result = run_training(train, choice, **job["settings"], verbose=0)
    cost = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.monotonic() - wall}
    memory = {"memory_before": memory_before, "memory_peak": _memory("VmHWM")}
    embeddings = embed_store(learner, judge)
    metrics = evaluate_retrieval(embeddings, judge.labels, judge.roles, metrics=job["metrics"])
    per_class = metrics.per_class
    names = np.array(judge.class_names, object)[per_class["label"]]
    return {
        "values": metrics.values,
        "queries": metrics.num_queries,
        "gallery": metrics.num_gallery,
        "per_class": {
            name: [int(per_class["queries"][row]), *(float(per_class[m][row]) for m in job["metrics"])]
            for row, name in enumerate(names)
        },
        **cost,
        **memory,
        "dimension": int(embeddings.shape[1]),
        "encoder_weights": int(learner.encoder.count_params()),
        "training_images": len(train),
        "best_epoch": result.best_epoch,
        "history": result.history,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": _versions(),
    }


def _memory(field: str) -> int:
    """Resident memory of this process in bytes: `VmRSS` is the current, `VmHWM` the peak value."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _versions() -> dict[str, str]:
    import keras
    import numpy as np
    import tensorflow as tf

    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
