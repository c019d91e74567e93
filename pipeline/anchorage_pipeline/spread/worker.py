"""Child process for one training of a spread: `python -m anchorage_pipeline.spread.worker < job.json`."""

import ctypes
import json
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from anchorage.disk import disk_fault
from anchorage.errors import AnchorageError, ResourceError
from anchorage.files import replace_file
from anchorage.user_code import find_fault
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.lock import hold_folder
from anchorage_pipeline.plain import Trained, list_sources, train_splits
from anchorage_pipeline.progress import silence_tensorflow
from anchorage_pipeline.spread.conditions import code_digest, query_columns
from anchorage_pipeline.spread.record import Conditions, Machine, Row, read_spread, write_spread

ERROR = "error.json"
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the job from standard input, and add its result to the spread file or write its error to the work folder.

    A job contains `experiment`, `seed`, `machine` and `conditions` of the row, `spread` (the file), `work` (a folder
    for packed images and checkpoints), and `check` (whether to check the parts of the experiment first).
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # stop training if the parent process dies
    job = json.load(sys.stdin)
    sys.path.append(str(Path.cwd()))  # for user-defined losses in the current folder
    silence_tensorflow()
    work = Path(job["work"])
    try:
        with hold_folder(work, job["experiment"]["name"]):
            row = _train(job, work)
            file = Path(job["spread"])
            write_spread(file, read_spread(file).add(row))
    except Exception as error:
        traceback.print_exc()
        fault = error if isinstance(error, AnchorageError) else disk_fault(error, work) or find_fault(error)
        if fault is None:
            return 1
        facts = {"status": fault.exit_status, "code": fault.code, "message": fault.message}
        replace_file(work / ERROR, json.dumps(facts).encode())
        return fault.exit_status
    return 0


def _train(job: dict[str, Any], work: Path) -> Row:
    from anchorage_pipeline.preflight import check_parts

    experiment = Experiment.model_validate(job["experiment"])
    conditions = Conditions.model_validate(job["conditions"])
    if code_digest(experiment) != conditions.code:
        raise ResourceError("E_CODE_CHANGED", "the sources changed since the command started: run it again")
    if job["check"]:
        check_parts(experiment)
    started = time.monotonic()
    trained = train_splits(experiment, work, job["seed"], verbose=2)
    values = _evaluate(experiment, trained)
    shutil.rmtree(trained.checkpoints, ignore_errors=True)
    return Row(
        machine=Machine.model_validate(job["machine"]),
        seed=job["seed"],
        conditions=conditions,
        values=values,
        best_epoch=trained.result.best_epoch,
        seconds=time.monotonic() - started,
        measured=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _evaluate(experiment: Experiment, trained: Trained) -> dict[str, float]:
    """Compute the metrics on the test split as EvaluateRetrieval does, with `leave_out` and `parents`."""
    from anchorage.retrieval.metrics import evaluate_retrieval
    from anchorage.training.validation import embed_store

    evaluation, store = experiment.evaluation, trained.test
    columns = query_columns(experiment)
    listing = list_sources(experiment, val_share=experiment.data.val_share, attributes=columns)
    attributes = {source.id: dict(source.attributes) for source in listing.sources}
    values = {name: np.array([attributes[id_].get(name, "") for id_ in store.ids], object) for name in columns}
    return evaluate_retrieval(
        embed_store(trained.learner, store),
        store.labels,
        store.roles,
        metrics=evaluation.metrics,
        groups=values.get(evaluation.leave_out),
        parents=values.get(evaluation.parents),
    ).values


if __name__ == "__main__":
    sys.exit(main())
