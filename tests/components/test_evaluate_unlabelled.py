"""EvaluateRetrieval and PublishRelease on images without labels."""

import dataclasses
import json
from pathlib import Path

import pytest
from evaluation import assert_blessed, table_of

from anchorage.errors import DataError
from anchorage.release import open_release


def unlabelled(noise=0.1):
    """Embeddings of images that are each the only one of its class."""
    table = table_of("test", noise)
    return dataclasses.replace(table, labels=table.ids)


UNTRAINED = json.dumps({"experiment": {"name": "tiny", "training": {"epochs": 0}}, "run_key": "k"})


def test_images_without_labels_are_released_with_a_report_that_says_so(workshop):
    table = unlabelled()
    embeddings, index = workshop.embeddings("embeddings", table), workshop.index(table)
    outputs, report = workshop.evaluate(embeddings, index=index, facts_json=UNTRAINED)
    assert_blessed(outputs, "first_run", "FIRST: Nothing could be measured: no two images of split 'test'")
    assert (report["metrics"], report["headline"], report["counts"]["queries"]) == ({}, [], 0)
    page = (Path(outputs["report"].uri) / "report.html").read_text()
    assert "Nothing could be measured" in page
    assert "none: the encoder is used as it is" in page
    workshop.publish(index, outputs)
    assert open_release(workshop.folder / "releases").facts["metrics"] == {}


@pytest.mark.parametrize(
    ("metrics", "force", "case", "state"),
    [
        ({}, "", "unmeasured", "SHIP"),
        ({"map@r": 0.4}, "", "unmeasured", "HOLD"),
        ({"map@r": 0.4}, "more photos", "forced", "FORCED"),
    ],
)
def test_what_was_measured_is_not_replaced_by_what_cannot_be(workshop, metrics, force, case, state):
    outputs, _ = workshop.evaluate(
        workshop.embeddings("embeddings", unlabelled()),
        settings={"force": force},
        facts_json=UNTRAINED,
        baseline=workshop.baseline(metrics=metrics),
    )
    assert_blessed(outputs, case, state, blessed=state != "HOLD")


def test_a_trained_model_needs_something_to_measure(workshop):
    with pytest.raises(DataError) as raised:
        workshop.evaluate(workshop.embeddings("embeddings", unlabelled()))
    assert raised.value.code == "E_NO_RELEVANT"
