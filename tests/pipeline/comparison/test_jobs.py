import os
import signal
from pathlib import Path

import pytest

from anchorage.errors import ResourceError
from anchorage_pipeline.comparison.data import Images
from anchorage_pipeline.comparison.jobs import Jobs, format_values
from anchorage_pipeline.comparison.plan import CHOICE, Block, expand
from anchorage_pipeline.comparison.pool import run_all

FOLDS = [["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"]]


@pytest.fixture
def job_of(make, document, tmp_path, monkeypatch):
    """The job of an entry with these settings in this block."""
    monkeypatch.chdir(tmp_path)

    def job_of(block=CHOICE, data="1", **changed):
        comparison = make({"name": "a", "set": changed})
        images = Images(Path("half"), Path("test"), FOLDS, data)
        return Jobs(comparison, images).of(expand(comparison, document)["a"][0], block, "title")

    return job_of


def test_choices_are_made_on_classes_that_judge_nothing(job_of):
    choosing = job_of(CHOICE).document
    assert choosing["judge"] == choosing["validation"] == FOLDS[0]
    assert choosing["train"] == list("cdefgh")
    judged = job_of(Block(1, 2)).document
    assert (judged["validation"], judged["judge"], judged["train"]) == (FOLDS[0], FOLDS[2], list("cdgh"))
    assert judged["test"] is None
    final = job_of(Block(1, None)).document
    assert (final["validation"], final["judge"], final["train"]) == (FOLDS[0], None, list("cdefgh"))
    assert final["test"] == "test"


def test_a_key_stands_for_all_that_a_run_depends_on(job_of):
    keys = [
        job_of().key,
        job_of(Block(0, 1)).key,
        job_of(Block(1, 1)).key,
        job_of(data="2").key,
        job_of(loss={"params": {"neg_margin": 0.5}}).key,
        job_of(training={"optimizer": {"learning_rate": 0.5}}).key,
    ]
    assert len(set(keys)) == len(keys)
    assert job_of().key == keys[0]
    assert job_of().record.name == f"{keys[0]}.json"


def test_values_are_named_by_the_last_part_of_their_key():
    assert format_values({"training.optimizer.learning_rate": 3e-4, "loss.name": "a"}) == "learning_rate 0.0003, name a"


def test_a_child_that_is_killed_leaves_a_record_and_is_tried_again(job_of, tmp_path):
    job = job_of()
    ended = []

    def kill(_):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)

    run_all([job], 1, tmp_path / "logs", kill, ended.append)
    assert ended == [job]
    assert job.read()["error"] == "E_RUN_DIED: the process ended with signal 9"
    assert not job.done


def test_other_code_than_the_key_speaks_of_stops_everything(job_of, tmp_path):
    job = job_of()
    job.document["code"] = "of another day"
    with pytest.raises(ResourceError, match="E_CODE_CHANGED"):
        run_all([job, job], 1, tmp_path / "logs", lambda _: None, lambda _: None)
    assert not job.done
