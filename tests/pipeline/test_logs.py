"""Logs as one JSON object per line, with run, node and release."""

import json
import logging

import pytest
import tfx.orchestration.local.local_dag_runner as runner

from anchorage_pipeline import logs
from anchorage_pipeline.progress import log_to


@pytest.fixture(autouse=True)
def _reset():
    yield
    logs.choose_format("text")
    logs.set_context(run=None, node=None, release=None)


def test_each_line_names_run_node_and_release(tmp_path, capsys):
    logs.choose_format("json")
    logs.set_context(run="abc", release=3)
    with log_to(tmp_path / "run.log"):
        logging.info(logs._STARTS, "Trainer")
        logging.warning("läuft: %d %%", 50)
        logging.info(logs._ENDS, "Trainer")
        logging.info("published release %d in %s", 4, "releases")
        try:
            raise ValueError("bad")
        except ValueError:
            logging.exception("failed")
    lines = [json.loads(line) for line in (tmp_path / "run.log").read_text("utf-8").splitlines()]
    assert [(line["node"], line["release"]) for line in lines] == [
        ("Trainer", 3), ("Trainer", 3), ("Trainer", 3), (None, 4), (None, 4),
    ]  # fmt: skip
    assert {line["run"] for line in lines} == {"abc"}
    assert (lines[1]["level"], lines[1]["message"], lines[1]["logger"]) == ("warning", "läuft: 50 %", "root")
    assert "ValueError: bad" in lines[4]["exception"]
    assert lines[0]["time"].endswith("+00:00")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == [
        line["message"] for line in lines
    ]


def test_text_is_the_default(tmp_path, capsys):
    with log_to(tmp_path / "run.log"):
        logging.info("hello")
    assert (tmp_path / "run.log").read_text().endswith("INFO root hello\n")
    assert not capsys.readouterr().err


def test_the_messages_of_the_runner_are_those_that_name_the_node():
    import inspect

    source = inspect.getsource(runner)
    assert repr(logs._STARTS) in source
    assert repr(logs._ENDS) in source
