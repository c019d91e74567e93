from pathlib import Path

import pytest

from anchorage.errors import DataError, ResourceError
from anchorage_pipeline.run import RunSummary, check_finished, find_cause


def test_our_own_error_is_found_below_what_wraps_it():
    own = DataError("E_SPLIT_LEAK", "two classes")
    wrapped = RuntimeError("Beam says")
    wrapped.__cause__ = own
    outer = RuntimeError("TFX says")
    outer.__context__ = wrapped
    assert find_cause(outer, Path("runs")) is own


def test_a_foreign_error_stays_what_it_is():
    error = KeyError("x")
    assert find_cause(error, Path("runs")) is error


@pytest.mark.parametrize(
    ("states", "told_of"),
    [
        ({"Trainer": "COMPLETE", "Pack": "CACHED"}, "BuildIndex (not run)"),
        ({"Trainer": "FAILED", "Pack": "CACHED", "BuildIndex": "COMPLETE"}, "Trainer (FAILED)"),
        ({"Trainer": "RUNNING", "Pack": "CACHED", "BuildIndex": "COMPLETE"}, "Trainer (RUNNING)"),
    ],
)
def test_a_node_that_did_not_finish_fails_the_run(states, told_of):
    with pytest.raises(ResourceError) as caught:
        check_finished(RunSummary(states=states), ["Pack", "Trainer", "BuildIndex"], Path("run.log"))
    assert told_of in str(caught.value)
    assert "Pack" not in str(caught.value)


def test_a_run_is_whole_when_all_are_complete_or_cached():
    check_finished(RunSummary(states={"Trainer": "COMPLETE", "Pack": "CACHED"}), ["Pack", "Trainer"], Path("run.log"))
