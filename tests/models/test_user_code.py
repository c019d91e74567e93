import runpy

import pytest

from anchorage.errors import DataError, UsageError
from anchorage.registry import nearest
from anchorage.user_code import find_fault, user_code


@pytest.fixture
def own(tmp_path):
    """Runs a text as a module of the user's own."""
    (tmp_path / "own.py").write_text("")

    def run(text):
        (tmp_path / "own.py").write_text(text)
        return runpy.run_path(str(tmp_path / "own.py"))

    return run


def test_errors_of_ours_go_on_as_they_are():
    with pytest.raises(DataError), user_code("own:Loss"):
        raise DataError("E_IMAGE", "broken")
    with pytest.raises(ValueError, match="wrong"), user_code("contrastive"):
        raise ValueError("wrong")


def test_an_interruption_goes_on():
    with pytest.raises(KeyboardInterrupt), user_code("own:Loss"):
        raise KeyboardInterrupt


def test_what_a_dotted_name_raises_is_wrong_use(own, tmp_path):
    with pytest.raises(UsageError) as caught, user_code("own:Loss"):
        own("x = 1\nraise LookupError('lost')\n")
    assert caught.value.code == "E_USER_CODE"
    assert caught.value.message == f"lost (LookupError in {tmp_path / 'own.py'}, line 2, 'own:Loss')"


def test_a_fault_is_found_by_the_file_that_it_came_out_of(own, tmp_path):
    for text in ("1 / 0", "import json\njson.loads('[')", "from anchorage.registry import nearest\nnearest(1, 2)"):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - of any kind
            own(text)
        line = text.count("\n") + 1
        frames = caught.value.with_traceback(caught.tb.tb_next)  # without the frame of this test
        assert f"{tmp_path / 'own.py'}, line {line})" in find_fault(frames).message


def test_the_cause_of_an_error_of_a_library_is_found(own):
    with pytest.raises(ZeroDivisionError) as caught:
        own("1 / 0")
    wrapped = RuntimeError("node failed")
    wrapped.__cause__ = caught.value.with_traceback(caught.tb.tb_next)
    assert find_fault(wrapped).message.startswith("division by zero (ZeroDivisionError in ")


def test_an_error_of_the_project_is_not_blamed_on_the_user():
    with pytest.raises(TypeError) as caught:
        nearest(1, 2)
    assert find_fault(caught.value.with_traceback(caught.tb.tb_next)) is None
