"""`anchorage data` without the packages that draw the sample data."""

from anchorage_pipeline.cli import main
from anchorage_pipeline.commands import data


def test_without_its_extra_the_missing_packages_and_the_way_out_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "find_spec", lambda module: None if module == "resvg_py" else object())
    assert main(["data", "icons", "--output", str(tmp_path / "icons")]) == 4
    told = capsys.readouterr().err
    assert told.startswith("anchorage: E_EXTRA_MISSING: ")
    assert "Missing: resvg_py." in told
    assert "--extra icons" in told
