"""Fingerprints of code, data and experiments: what a cached result depends on beside its inputs.

TFX's cache sees the name of a function, never its body, and a folder's path,
never what lies in it. So every node gets a digest of the code it can reach,
and the first one a digest of the data, as ordinary parameters.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from anchorage.files import digest, hash_file

_ROOTS = ("anchorage", "anchorage_components", "anchorage_pipeline")
_TABLES = ("anchorage.losses", "anchorage.methods")  # packages of which a training uses what it names


def code_version(*modules: str, tables: Collection[str] = ()) -> str:
    """Digest of the source of `modules` and of all modules of this project that they import, however deep.

    Files beside the code that are no Python (templates, tables) count with the
    package that holds them. Modules from elsewhere, such as a user's own loss,
    count themselves, but not what they import.

    Args:
        modules: dotted names, such as `"anchorage_components.trainer"`.
        tables: packages that list what there is to choose from, such as `"anchorage.losses"`. Of these only the
            functions and classes count, not the list, nor what they import unless something else reaches it: name what
            is chosen among `modules`.
    """
    files = sorted({file for module in reached_modules(*modules, tables=tables) for file in _sources(module)})
    hashes = [[name, hashlib.sha256(path.read_bytes()).hexdigest()] for name, path in files]
    return digest(hashes + [[table, _definitions(table)] for table in sorted(tables)])


def reached_modules(*modules: str, tables: Collection[str] = ()) -> set[str]:
    """The modules that `code_version` counts in full."""
    reached: set[str] = set(tables)
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += _imports(module)
    return reached - set(tables)


def training_modules(settings: Mapping[str, Any], *core: str) -> tuple[list[str], list[str]]:
    """Modules and tables for `code_version` that a training with these settings depends on.

    A change in a loss or a method that it does not use leaves its result valid. Where the recipe is to choose, all that
    it may choose count; where the settings do not name them, all of them count.

    Args:
        settings: what `anchorage.training.run.train_run` takes; None for what it chooses by itself.
        *core: modules that count for every training.
    """
    from anchorage.training.recipes import LOSSES, METHODS

    core = (*core, "anchorage.methods.method")  # the base class, which the table hands on
    own = {name.partition(":")[0] for name in _names(settings) if ":" in name and not name.startswith("hub:")}
    methods = settings["training"].get("methods", [])
    names = _names([settings["loss"], methods])
    names += [*(LOSSES if settings["loss"] is None else ()), *(METHODS if methods is None else ())]
    places = [[f"{table}.{name}" for table in _TABLES] for name in names]
    found = [[place for place in of_name if _has_module(place)] for of_name in places]
    modules = {*core, *own, *(place for of_name in found for place in of_name)}
    if all(found):  # an alias has no module of its own name
        return sorted(modules), list(_TABLES)
    return sorted({*modules, *_TABLES}), []


def _names(value: Any) -> list[str]:
    """Names of all building blocks, those inside others too."""
    if isinstance(value, Mapping):
        own = [value["name"]] if isinstance(value.get("name"), str) else []
        return own + _names(list(value.values()))
    return [name for item in value for name in _names(item)] if isinstance(value, list) else []


def _has_module(name: str) -> bool:
    return _is_ours(name) and _file(name) is not None


def preset_version(folder: str | Path) -> str:
    """Digest of the files of a preset; empty where there is no such folder, as on a machine that only compiles."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest([[path.relative_to(folder).as_posix(), hash_file(path)] for path in files]) if files else ""


def _sources(module: str) -> list[tuple[str, Path]]:
    """The module's file and, for a package of ours, the files beside it that are not Python."""
    path = _file(module)
    if path is None:
        return []
    found = [(module, path)]
    if path.name == "__init__.py" and _is_ours(module):
        beside = (file for file in path.parent.iterdir() if file.is_file() and file.suffix not in {".py", ".pyc"})
        found += [(f"{module}/{file.name}", file) for file in beside]
    return found


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of this project that `module` imports anywhere in its text, their packages included."""
    path = _file(module)
    if path is None or not _is_ours(module):
        return ()
    names = {module}
    for node in _executed(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name for name in names if _is_ours(name) and _file(name)}
    return tuple(sorted(ours | {name.rpartition(".")[0] for name in ours} - {""}))


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, but for what only type checkers read."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
            yield from _executed(child)


@cache
def _definitions(module: str) -> str:
    """The functions and classes of a module as text without comments."""
    path = _file(module)
    body = ast.parse(path.read_text(encoding="utf-8")).body if path else []
    return "\n".join(ast.unparse(node) for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef))


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in _ROOTS


def _package(root: str) -> Path:
    """The folder of one of our packages."""
    spec = importlib.util.find_spec(root)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No package named {root!r}")
    return Path(spec.submodule_search_locations[0])


@cache
def _file(module: str) -> Path | None:
    """Path of the source of a module; our own modules are found without importing their packages."""
    if not _is_ours(module):
        spec = importlib.util.find_spec(module)
        return Path(spec.origin) if spec and spec.origin else None
    root, *rest = module.split(".")
    stem = _package(root).joinpath(*rest)
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)
