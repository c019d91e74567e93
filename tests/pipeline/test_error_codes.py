"""The page of the error codes: it lists exactly the codes in the code."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "pipeline/reference/errors.md").read_text(encoding="utf-8")
FOLDERS = ("models/anchorage", "components/anchorage_components", "pipeline/anchorage_pipeline", "kubeflow")


def test_every_code_is_listed_once_and_no_other():
    sources = [path.read_text(encoding="utf-8") for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    code = re.compile(r'(?<!startswith\()"(?:anchorage: )?(E_[A-Z_]*[A-Z])[":]')
    used = {found for source in sources for found in code.findall(source)}
    # made of the kind of document that is read
    used |= {f"E_{kind}_{what}" for kind in ("EXPERIMENT", "COMPARISON") for what in ("MISSING", "SYNTAX")}
    listed = re.findall(r"^\| `(E_[A-Z_]+)` \|", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(used)


def test_every_code_has_a_meaning_and_an_advice():
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| `E_")]
    for code, meaning, advice in rows:
        assert meaning.endswith("."), code
        assert advice.endswith("."), code
