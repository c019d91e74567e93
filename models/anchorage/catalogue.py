"""Descriptions of all losses, read from their source code, which is much faster than importing Keras."""

import ast
import inspect
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from anchorage.registry import constructor_parameters, find_class

_LOSSES = Path(__file__).parent / "losses"


class LossDescription(NamedTuple):
    """Description of one loss.

    Attributes:
        name: name in an experiment file.
        paper: first line of the module's docstring.
        summary: first line of the class's docstring.
        text: full docstring of the class.
        parameters: defaults by parameter name; `inspect.Parameter.empty` marks a required parameter.
        aliases: other names of the loss, with the parameters that each sets.
    """

    name: str
    paper: str
    summary: str
    text: str
    parameters: dict[str, Any]
    aliases: dict[str, dict[str, Any]] = {}  # noqa: RUF012 (a named tuple is never modified)

    def also_known_as(self) -> str:
        """Format the aliases, as in `proxy_anchor (proxies_per_class=1)`; empty if there are none."""
        described = (
            (name, ", ".join(f"{key}={value!r}" for key, value in params.items()))
            for name, params in self.aliases.items()
        )
        return ", ".join(f"{name} ({params})" if params else name for name, params in described)


def describe_losses(folder: Path = _LOSSES) -> list[LossDescription]:
    """Describe all losses of the table `LOSSES`, in alphabetical order.

    Args:
        folder: folder of the package whose `__init__.py` defines `LOSSES`.
    """
    modules, table, aliases = _read_table(folder)
    return [
        _read_loss(folder / f"{modules[cls]}.py", name, cls)._replace(aliases=_aliases_of(name, aliases))
        for name, cls in sorted(table.items())
    ]


def describe_loss(name: str) -> LossDescription:
    """Describe one loss by any name that `create_loss` takes; a user's own class is imported.

    Raises:
        UsageError: E_NAME_UNKNOWN, with the most similar known name.
    """
    check_name(name)
    modules, table, aliases = _read_table(_LOSSES)
    target, preset = aliases.get(name, (name, {}))
    if target in table:
        loss = _read_loss(_LOSSES / f"{modules[table[target]]}.py", name, table[target])
        return loss._replace(parameters=loss.parameters | preset, aliases=_aliases_of(name, aliases))
    from anchorage.losses import find_loss

    cls = find_loss(name)
    paper, text = _first_line(inspect.getmodule(cls).__doc__), inspect.cleandoc(cls.__doc__ or "")
    return LossDescription(name, paper, _first_line(text), text, constructor_parameters(cls))


def check_name(name: str) -> None:
    """Raise unless the name is in the table or has the form `"package.module:ClassName"`; nothing is imported.

    Raises:
        UsageError: E_NAME_UNKNOWN, with the most similar known name.
    """
    if ":" not in name:
        _, table, aliases = _read_table(_LOSSES)
        find_class(dict.fromkeys([*table, *aliases], object), name)


@cache
def _read_table(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, tuple[str, dict[str, Any]]]]:
    """Return the module of each class, the class of each loss, and the loss and parameters of each alias."""
    aliases: dict[str, tuple[str, dict[str, Any]]] = {}
    modules: dict[str, str] = {}
    table: dict[str, str] = {}
    for node in _parse(folder / "__init__.py").body:
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {alias.name: node.module.rpartition(".")[2] for alias in node.names}
        elif not (isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)):
            continue
        elif ast.unparse(node.target) == "ALIASES":
            aliases = ast.literal_eval(node.value)
        elif ast.unparse(node.target) == "LOSSES":
            pairs = zip(node.value.keys, node.value.values, strict=True)
            table = {ast.literal_eval(key): ast.unparse(cls) for key, cls in pairs if key}
    return modules, table, aliases


def _aliases_of(name: str, aliases: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return {alias: preset for alias, (target, preset) in sorted(aliases.items()) if target == name}


def _read_loss(path: Path, name: str, class_name: str) -> LossDescription:
    module = _parse(path)
    constants = {ast.unparse(node.targets[0]): node.value for node in module.body if isinstance(node, ast.Assign)}
    [cls] = [node for node in module.body if isinstance(node, ast.ClassDef) and node.name == class_name]
    [init] = [node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    text = ast.get_docstring(cls) or ""
    parameters = {
        parameter: default if default is inspect.Parameter.empty else _value(default, constants)
        for parameter, default in _defaults(init.args).items()
    }
    return LossDescription(name, _first_line(ast.get_docstring(module)), _first_line(text), text, parameters)


def _defaults(arguments: ast.arguments) -> dict[str, Any]:
    """Return the expression of each parameter's default, by name."""
    required: Any = inspect.Parameter.empty
    named = [argument.arg for argument in arguments.args[1:]]  # without `self`
    missing = len(named) - len(arguments.defaults)
    defaults = dict(zip(named, [*[required] * missing, *arguments.defaults], strict=True))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        defaults[argument.arg] = required if default is None else default
    return defaults


def _value(node: ast.expr, constants: dict[str, ast.expr]) -> Any:
    """Evaluate a default: a literal, or a constant of the module."""
    return ast.literal_eval(constants[node.id] if isinstance(node, ast.Name) else node)


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().split("\n", 1)[0]
