"""Mutation tests: plant the faults of `catalogue.toml` one at a time, and check that the tests detect them.

    python tests/faults/plant.py --output tests/faults/before.md
    python tests/faults/plant.py --output tests/faults/after.md --against tests/faults/before.md

The tests run in a copy of the tracked files of the working tree. For each fault, the tests listed in the catalogue and
the doctests of its file run until the first failure; they must pass without the fault. Results are stored next to the
output, so that an interrupted run resumes.
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
_PASSED, _NOTHING_SELECTED = 0, 5  # exit statuses of pytest
_COLUMNS = ("fault", "file", "mistake", "result", "found by", "CPU s", "without it")


@dataclass(frozen=True)
class Fault:
    """A row of the catalogue, whose header describes the fields."""

    name: str
    file: str
    code: str
    planted: str
    what: str
    tests: Sequence[str]

    def plant(self, text: str) -> str:
        """Return the text of the file with the fault.

        Raises:
            ValueError: if the code does not occur exactly once, or the fault does not change the program.
        """
        if (times := text.count(self.code)) != 1:
            raise ValueError(f"{self.name}: expected once in {self.file}: {self.code!r}. Found {times} times.")
        changed = text.replace(self.code, self.planted)
        if ast.dump(_parsed(self, changed)) == ast.dump(ast.parse(text)):
            raise ValueError(f"{self.name}: the planted code is equal to the original: {self.planted!r}")
        return changed


def _parsed(fault: Fault, text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{fault.name}: {fault.planted!r} is not valid Python: {error}") from error


def read_catalogue() -> list[Fault]:
    rows = tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))["fault"]
    faults = [Fault(**{**row, "tests": tuple(row["tests"])}) for row in rows]
    names = [fault.name for fault in faults]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Expected unique names. Received repeatedly: {repeated}")
    return faults


def commands(fault: Fault, test_paths: Sequence[str]) -> list[list[str]]:
    """Arguments for pytest, one list for each entry of `tests`; the first one includes the doctests of the file."""
    lists = [shlex.split(tests) for tests in fault.tests]
    if fault.file.partition("/")[0] in test_paths:
        lists[0].insert(0, fault.file)
    return lists


class Outcome(NamedTuple):
    """Outcome of a test run: pytest's exit status (None for a timeout), the test that failed, and CPU seconds."""

    status: int | None
    test: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.status in (_PASSED, _NOTHING_SELECTED)


class Copy:
    """A copy of the tracked files of the working tree."""

    def __init__(self, folder: Path, pytest_args: Sequence[str], limit: float):
        self.folder, self._args, self._limit = folder, list(pytest_args), limit
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        digest = hashlib.sha256()
        for name in sorted(filter(None, names.split("\0"))):
            source, target = ROOT / name, folder / name
            if not source.is_file():
                continue  # tracked, but removed in the working tree
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
            if CATALOGUE.parent not in source.parents:  # else writing the table would invalidate its own results
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
        """Run the tests until the first failure."""
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
            output, _ = process.communicate(timeout=self._limit)
            status: int | None = process.returncode
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            status = None
        if status is not None and status < 0:
            raise SystemExit(f"The tests were ended by signal {-status}: {shlex.join(tests)}\n{output[-2000:]}")
        return Outcome(status, first_failure(output), round(_cpu_seconds() - before, 1))


def first_failure(output: str) -> str:
    """The first test in pytest's summary of failures."""
    match = re.search(r"^(?:FAILED|ERROR) (\S+?(?:\[.*?\])?)(?= - |$)", output, re.MULTILINE)
    return match[1] if match else ""


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()  # its modification time may equal that of the original text


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Results:
    """A cache of results in a JSON file; a key contains everything that a result depends on."""

    def __init__(self, path: Path, *common: Any):
        self._path, self._common = path, common
        self._results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def get(self, key: Sequence[Any], compute) -> Any:
        digest = hashlib.sha256(json.dumps([*self._common, *key]).encode()).hexdigest()
        if digest not in self._results:
            self._results[digest] = compute()
            part = self._path.with_name(f"{self._path.name}.part")
            part.write_text(json.dumps(self._results, indent=1) + "\n", encoding="utf-8")
            part.replace(self._path)
        return self._results[digest]


def examine(fault: Fault, copy: Copy, results: Results, lists: Sequence[Sequence[str]]) -> dict[str, str]:
    """Run the tests with and without a fault; return its row of the table."""
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
        outcome = Outcome(*results.get(key, lambda tests=tests: with_fault(tests)))
        seconds += outcome.seconds
        if not outcome.passed:
            result, found_by = FOUND if outcome.status is not None else LATE, outcome.test
            break
    cells = (fault.name, f"`{fault.file}`", fault.what, result, f"`{found_by}`" if found_by else "")
    return dict(zip(_COLUMNS, (*cells, f"{seconds:.0f}", f"{without:.0f}"), strict=True))


def render(rows: Sequence[Mapping[str, str]], note: str) -> str:
    found = sum(row["result"] == FOUND for row in rows)
    lines = [_line(_COLUMNS), _line("---" for _ in _COLUMNS), *(_line(row[name] for name in _COLUMNS) for row in rows)]
    head = f"# Planted faults\n\n{found} of {len(rows)} found. {note}\n\n"
    return head + "\n".join(lines) + "\n"


def _line(cells) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def found_in(page: str) -> set[str]:
    """Names of the faults that were found according to a table."""
    cells = (re.split(r"(?<!\\)\|", line) for line in page.splitlines() if line.startswith("| "))
    column = 1 + _COLUMNS.index("result")
    return {row[1].strip() for row in cells if row[column].strip() == FOUND}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plant faults one at a time, and check that the tests detect them.")
    parser.add_argument("--output", type=Path, required=True, help="Markdown table to write, with results in .json")
    parser.add_argument("--only", action="append", metavar="NAME", help="plant only this fault; may be repeated")
    parser.add_argument("--pytest-args", default="", help="further arguments for pytest, such as \"-m 'not slow'\"")
    parser.add_argument("--against", type=Path, help="earlier table, whose found faults must be found again")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds per test run (default: %(default)g)")
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
    note = "The tests of each fault run until the first failure"
    note += f", with `{options.pytest_args}`." if pytest_args else "."
    note += " CPU s: until the fault is found; without it: of the same tests without the fault."

    rows: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        copy = Copy(Path(folder), pytest_args, options.limit)
        results = Results(options.output.with_suffix(".json"), copy.state, pytest_args)
        for fault in faults:
            rows.append(examine(fault, copy, results, commands(fault, test_paths)))
            print(_line(rows[-1][name] for name in ("fault", "result", "found by", "CPU s", "without it")), flush=True)
    options.output.write_text(render(rows, note), encoding="utf-8")
    if options.against is None:
        return 0
    wanted = found_in(options.against.read_text(encoding="utf-8")) & {fault.name for fault in faults}
    lost = sorted(wanted - {row["fault"] for row in rows if row["result"] == FOUND})
    print(f"No longer found: {', '.join(lost)}" if lost else "All faults found earlier are found.")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
