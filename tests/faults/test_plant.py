"""Every fault of the catalogue can be planted, and the table tells which were found."""

import runpy
from pathlib import Path

import pytest

PLANT = runpy.run_path(str(Path(__file__).with_name("plant.py")))
FAULTS = PLANT["read_catalogue"]()
ROOT = PLANT["ROOT"]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_stands_once_in_its_file_and_changes_its_meaning(fault):
    fault.plant((ROOT / fault.file).read_text(encoding="utf-8"))
    for arguments in PLANT["commands"](fault, []):
        for path in (part for part in arguments if part.startswith("tests/")):
            assert (ROOT / path).exists(), f"{fault.name}: {path} is not there"


def test_there_are_forty():
    assert len(FAULTS) == 40


@pytest.mark.parametrize(
    ("text", "planted", "expected"),
    [
        ("a = 1", "d - e", "0 times"),
        ("a = b + c\nd = b + c", "d - e", "2 times"),
        ("a = b + c", "b  +  c", "is equal to the original"),
        ("a = b + c", "b +", "not valid Python"),
    ],
)
def test_rejects_a_fault_that_cannot_be_planted(text, planted, expected):
    fault = PLANT["Fault"]("name", "file.py", "b + c", planted, "what", ("tests",))
    with pytest.raises(ValueError, match=expected):
        fault.plant(text)


def test_table_is_read_back():
    values = {name: "x" for name in PLANT["_COLUMNS"]}
    rows = [{**values, "fault": "one", "mistake": "a | b", "result": PLANT["FOUND"]}]
    rows.append({**values, "fault": "other", "result": PLANT["MISSED"]})
    page = PLANT["render"](rows, "Summary.")
    assert "1 of 2 found." in page
    assert PLANT["found_in"](page) == {"one"}


def test_first_failure_is_named():
    output = "F\n=== summary ===\nFAILED tests/test_a.py::test_b[x - y] - assert [1] == 2\nERROR tests/test_c.py\n"
    assert PLANT["first_failure"](output) == "tests/test_a.py::test_b[x - y]"
    assert PLANT["first_failure"]("ERROR tests/test_c.py\n") == "tests/test_c.py"
    assert PLANT["first_failure"]("3 passed") == ""
