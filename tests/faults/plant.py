"""Plants the faults of `catalogue.toml` one at a time and asks the tests for each.

    python tests/faults/plant.py --output tests/faults/before.md
    python tests/faults/plant.py --output tests/faults/after.md --against tests/faults/before.md

Everything happens in a copy of the tracked files, as they lie in the working tree. A fault is looked for by the tests
that the catalogue names for its place, and by the examples in its file, up to the first that fails; they must pass
without it. What was found out is kept beside the output, so that a run that was stopped goes on where it was.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = Path(__file__).with_name("catalogue.toml")
FOUND, MISSED, BROKEN, LATE = "found", "NOT FOUND", "fails without fault", "time limit"
_PASSED, _NOTHING_SELECTED = 0, 5  # what pytest ends with
_COLUMNS = ("fault", "file", "mistake", "result", "found by", "CPU s", "without it")


@dataclass(frozen=True)
class Fault:
    """A row of the catalogue, which describes the fields."""

    name: str
    file: str
    code: str
    planted: str
    what: str
    tests: Sequence[str]

    def plant(self, text: str) -> str:
        """The text of the file with the fault in it.

        Raises:
            ValueError: where it cannot be planted as it is described.
        """
        if (times := text.count(self.code)) != 1:
            raise ValueError(f"{self.name}: expected once in {self.file}: {self.code!r}. Found {times} times.")
        changed = text.replace(self.code, self.planted)
        if ast.dump(_parsed(self, changed)) == ast.dump(ast.parse(text)):
            raise ValueError(f"{self.name}: the planted code says the same as before: {self.planted!r}")
        return changed


def _parsed(fault: Fault, text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{fault.name}: {fault.planted!r} is no Python: {error}") from error


def read_catalogue() -> list[Fault]:
    rows = tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))["fault"]
    faults = [Fault(**{**row, "tests": tuple(row["tests"])}) for row in rows]
    names = [fault.name for fault in faults]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Expected each name once. Received several times: {twice}")
    return faults


def commands(fault: Fault, test_paths: Sequence[str]) -> list[list[str]]:
    """Arguments for pytest, one list for each of the fault's tests; the examples in the file come with the first."""
    lists = [shlex.split(tests) for tests in fault.tests]
    if fault.file.partition("/")[0] in test_paths:
        lists[0].insert(0, fault.file)
    return lists


class Outcome(NamedTuple):
    """How a run of tests ended: pytest's exit status, None beyond the time limit; the test that failed; CPU seconds."""

    status: int | None
    test: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.status in (_PASSED, _NOTHING_SELECTED)


class Copy:
    """The tracked files of the working tree in a folder of their own."""

    def __init__(self, folder: Path, pytest_args: Sequence[str], limit: float):
        self.folder, self._args, self._limit = folder, list(pytest_args), limit
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        digest = hashlib.sha256()
        for name in sorted(filter(None, names.split("\0"))):
            source, target = ROOT / name, folder / name
            if not source.is_file():
                continue  # tracked, and removed in the working tree
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
            if CATALOGUE.parent not in source.parents:  # else a table that is published would make itself out of date
                digest.update(f"{name}\0{hashlib.sha256(source.read_bytes()).hexdigest()}\n".encode())
        self.state = digest.hexdigest()

    @contextmanager
    def planted(self, fault: Fault) -> Iterator[None]:
        path = self.folder / fault.file
        before = path.read_text(encoding="utf-8")
        try:
            _write(path, fault.plant(before))
            yield
        finally:
            _write(path, before)

    def run(self, tests: Sequence[str]) -> Outcome:
        """Run the tests up to the first that fails."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--no-header", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "COLUMNS": "1000"}
        before = _cpu_seconds()
        process = subprocess.Popen(
            [*command, *self._args, *tests],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            told, _ = process.communicate(timeout=self._limit)
            status: int | None = process.returncode
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            told, _ = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            status = None
        if status is not None and status < 0:
            raise SystemExit(f"The tests were ended by signal {-status}: {shlex.join(tests)}\n{told[-2000:]}")
        return Outcome(status, first_failure(told), round(_cpu_seconds() - before, 1))


def first_failure(told: str) -> str:
    """The test that pytest's summary names first."""
    match = re.search(r"^(?:FAILED|ERROR) (\S+?(?:\[.*?\])?)(?= - |$)", told, re.MULTILINE)
    return match[1] if match else ""


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()  # its time of change may be that of the text before


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Results:
    """What was found out so far, in a JSON file; a key holds all that an answer hangs on."""

    def __init__(self, path: Path, *common: Any):
        self._path, self._common = path, common
        self._known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def get(self, key: Sequence[Any], find_out) -> Any:
        digest = hashlib.sha256(json.dumps([*self._common, *key]).encode()).hexdigest()
        if digest not in self._known:
            self._known[digest] = find_out()
            part = self._path.with_name(f"{self._path.name}.part")
            part.write_text(json.dumps(self._known, indent=1) + "\n", encoding="utf-8")
            part.replace(self._path)
        return self._known[digest]


def examine(fault: Fault, copy: Copy, results: Results, lists: Sequence[Sequence[str]]) -> dict[str, str]:
    """The fault's line of the table."""
    seconds, without = 0.0, 0.0
    result, found_by = MISSED, ""

    def with_fault(tests: Sequence[str]) -> Outcome:
        with copy.planted(fault):
            return copy.run(tests)

    for tests in lists:
        base = Outcome(*results.get(["without", tests], lambda tests=tests: copy.run(tests)))
        without += base.seconds
        if not base.passed:
            result, found_by = BROKEN if base.status is not None else LATE, base.test
            break
        if base.status == _NOTHING_SELECTED:
            continue
        key = [fault.file, fault.code, fault.planted, tests]
        found = Outcome(*results.get(key, lambda tests=tests: with_fault(tests)))
        seconds += found.seconds
        if not found.passed:
            result, found_by = FOUND if found.status is not None else LATE, found.test
            break
    cells = (fault.name, f"`{fault.file}`", fault.what, result, f"`{found_by}`" if found_by else "")
    return dict(zip(_COLUMNS, (*cells, f"{seconds:.0f}", f"{without:.0f}"), strict=True))


def render(rows: Sequence[Mapping[str, str]], told: str) -> str:
    found = sum(row["result"] == FOUND for row in rows)
    lines = [_line(_COLUMNS), _line("---" for _ in _COLUMNS), *(_line(row[name] for name in _COLUMNS) for row in rows)]
    head = f"# Planted faults\n\n{found} of {len(rows)} found. {told}\n\n"
    return head + "\n".join(lines) + "\n"


def _line(cells) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def found_in(page: str) -> set[str]:
    """Names of the faults that a table says were found."""
    cells = (re.split(r"(?<!\\)\|", line) for line in page.splitlines() if line.startswith("| "))
    place = 1 + _COLUMNS.index("result")
    return {row[1].strip() for row in cells if row[place].strip() == FOUND}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plants faults one at a time and asks the tests for each.")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file for the table; .json beside it")
    parser.add_argument("--only", action="append", metavar="NAME", help="try this fault alone; may be given again")
    parser.add_argument("--pytest-args", default="", help="more for pytest, such as \"-m 'not slow'\"")
    parser.add_argument("--against", type=Path, help="earlier table: what it found must be found")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that a run of tests may take")
    options = parser.parse_args(arguments)
    faults = read_catalogue()
    if unknown := sorted(set(options.only or ()) - {fault.name for fault in faults}):
        parser.error(f"no such fault: {', '.join(unknown)}")
    for fault in faults:
        fault.plant((ROOT / fault.file).read_text(encoding="utf-8"))
    faults = [fault for fault in faults if not options.only or fault.name in options.only]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    test_paths = settings["tool"]["pytest"]["ini_options"]["testpaths"]
    pytest_args = shlex.split(options.pytest_args)
    told = "The tests of each place run up to the first that fails"
    told += f", with `{options.pytest_args}`." if pytest_args else "."
    told += " CPU s: until it was found; without it: of the same tests where all pass."

    rows: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        copy = Copy(Path(folder), pytest_args, options.limit)
        results = Results(options.output.with_suffix(".json"), copy.state, pytest_args)
        for fault in faults:
            rows.append(examine(fault, copy, results, commands(fault, test_paths)))
            print(_line(rows[-1][name] for name in ("fault", "result", "found by", "CPU s", "without it")), flush=True)
    options.output.write_text(render(rows, told), encoding="utf-8")
    if options.against is None:
        return 0
    wanted = found_in(options.against.read_text(encoding="utf-8")) & {fault.name for fault in faults}
    lost = sorted(wanted - {row["fault"] for row in rows if row["result"] == FOUND})
    print(f"No longer found: {', '.join(lost)}" if lost else "All that was found before is found.")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
