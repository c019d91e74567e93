"""Searches in processes of their own: killed and resumed, and shared by several workers."""

import json
import multiprocessing
import os
import signal
import socket
import time
from types import SimpleNamespace

import pytest

from anchorage.tuning.oracles import ORACLES
from anchorage.tuning.ranges import Condition, Range
from anchorage.tuning.record import read_search
from anchorage.tuning.search import run_search
from anchorage.tuning.settings import TuningSettings

SPACE = [
    Range("margin", low=0.0, high=1.0),
    Range("classes", choices=(16, 32)),
    Range("images", choices=(2, 4), condition=Condition("classes", 16)),
]
PATIENCE = 120  # seconds for another process


def wait_until(condition):
    for _ in range(100 * PATIENCE):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


def start(function, *arguments):
    # A fork has Keras Tuner loaded already.
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Training:
    """Writes down what it is asked, and blocks in one trial."""

    def __init__(self, log, blocks_in=None):
        self.log, self.blocks_in = log, blocks_in

    def __call__(self, values, report):
        with self.log.open("a") as file:
            file.write(json.dumps(values) + "\n")
        if len(lines(self.log)) == self.blocks_in:
            time.sleep(10 * PATIENCE)
        return {"map@r": 1 - abs(values["margin"] - 0.4)}


@pytest.mark.parametrize("oracle", ORACLES)
def test_after_a_kill_no_finished_trial_is_repeated(tmp_path, oracle):
    settings = TuningSettings(oracle=oracle, trials=6, repeats=0)
    whole = run_search(Training(tmp_path / "whole"), SPACE, settings, seed=1, folder=tmp_path / "undisturbed")
    log, folder = tmp_path / "log", tmp_path / "search"
    child = start(
        lambda: run_search(Training(log, blocks_in=4), SPACE, settings, seed=1, folder=folder),
    )
    wait_until(lambda: len(lines(log)) == 4)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    resumed = run_search(Training(log), SPACE, settings, seed=1, folder=folder)
    asked = lines(log)
    assert asked[3] == asked[4]  # the one that was killed
    assert [*asked[:4], *asked[5:]] == lines(tmp_path / "whole")
    assert [trial.values for trial in resumed.trials] == [trial.values for trial in whole.trials]


def run_as(name, port, folder, settings, train):
    os.environ |= {
        "KERASTUNER_TUNER_ID": name,
        "KERASTUNER_ORACLE_IP": "127.0.0.1",
        "KERASTUNER_ORACLE_PORT": str(port),
    }
    if name == "chief":
        from keras_tuner.src.distribute import oracle_chief

        oracle_chief.time = SimpleNamespace(sleep=lambda seconds: time.sleep(0.1))  # it looks every 20 seconds
    found = run_search(train, SPACE, settings, seed=1, folder=folder)
    assert (found is None) == (name != "chief")


@pytest.mark.parametrize("oracle", ["random", "coordinate"])
def test_two_workers_share_the_trials_that_a_chief_proposes(tmp_path, oracle):
    settings = TuningSettings(oracle=oracle, trials=8, repeats=2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def train(values, report):
        name = os.environ["KERASTUNER_TUNER_ID"]
        first = oracle == "coordinate" and not list(tmp_path.glob("seen-*"))  # it runs alone
        (tmp_path / f"seen-{name}").touch()
        if name != "chief" and not first:
            wait_until(lambda: len(list(tmp_path.glob("seen-worker-*"))) == 2)
        if values["classes"] == 16 and values["margin"] > 0.9:
            raise ValueError("too few classes")
        time.sleep(0.05)
        report(100, values["margin"])
        return {"map@r": 1 - abs(values["margin"] - 0.4)}

    processes = [
        start(run_as, name, port, tmp_path / "search", settings, train) for name in ("chief", "worker-a", "worker-b")
    ]
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    found = read_search(tmp_path / "search" / "search.json")
    alone = run_search(train_alone, SPACE, settings, seed=1, folder=tmp_path / "alone")
    assert [trial.number for trial in found.trials] == list(range(8))
    assert {trial.worker for trial in found.trials} == {"worker-a", "worker-b"}
    assert key(found.trials) == key(alone.trials)
    assert found.best_trial.score == max(trial.score for trial in found.trials if trial.score is not None)
    assert all(trial.state == "failed" or trial.curve == (trial.values["margin"],) for trial in found.trials)
    assert all(("images" in trial.values) == (trial.values["classes"] == 16) for trial in found.trials)
    assert [repeat.seed for repeat in found.repeats] == [2, 3]
    assert (tmp_path / "seen-chief").exists()  # which runs the repeats


def train_alone(values, report):
    return {"map@r": 1 - abs(values["margin"] - 0.4)}


def key(trials):
    return sorted((trial.values["margin"], trial.values["classes"]) for trial in trials)
