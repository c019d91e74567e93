"""`anchorage data` without the packages that draw the sample data."""

import sys

from anchorage_pipeline.cli import main


def test_without_its_extra_the_missing_package_and_the_way_out_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    assert main(["data", "icons", "--output", str(tmp_path / "icons")]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("anchorage: E_EXTRA_MISSING: The data set 'icons' needs packages")
    assert "resvg_py" in stderr
    assert "--extra icons" in stderr
