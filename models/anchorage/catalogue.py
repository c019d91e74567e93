"""The table of losses as its source says it: to list them takes no second, where importing them waits for Keras."""

import ast
import inspect
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from anchorage.registry import constructor_parameters, find_class

_LOSSES = Path(__file__).parent / "losses"


class LossDescription(NamedTuple):
    """What there is to say of one loss.

    Attributes:
        name: as an experiment file has it.
        paper: first line of its module's docstring.
        summary: first line of its class's docstring.
        text: that docstring in full.
        parameters: defaults by name; `inspect.Parameter.empty` marks a required one.
        aliases: other names of it, with the parameters that each sets.
    """

    name: str
    paper: str
    summary: str
    text: str
    parameters: dict[str, Any]
    aliases: dict[str, dict[str, Any]] = {}  # noqa: RUF012 (of a named tuple, never changed)

    def also_known_as(self) -> str:
        """The other names, as in `proxy_anchor (proxies_per_class=1)`; empty if there are none."""
        told = (
            (name, ", ".join(f"{key}={value!r}" for key, value in own.items())) for name, own in self.aliases.items()
        )
        return ", ".join(f"{name} ({own})" if own else name for name, own in told)


def describe_losses(folder: Path = _LOSSES) -> list[LossDescription]:
    """Every loss of the table, in alphabetical order.

    Args:
        folder: the package, whose `__init__.py` holds the table `LOSSES`.
    """
    homes, table, aliases = _read_table(folder)
    return [
        _read_loss(folder / f"{homes[cls]}.py", name, cls)._replace(aliases=_aliases_of(name, aliases))
        for name, cls in sorted(table.items())
    ]


def describe_loss(name: str) -> LossDescription:
    """One loss by any name that `create_loss` takes; a class from outside is imported.

    Raises:
        UsageError: E_NAME_UNKNOWN, with the name that may have been meant.
    """
    check_name(name)
    homes, table, aliases = _read_table(_LOSSES)
    known, own = aliases.get(name, (name, {}))
    if known in table:
        loss = _read_loss(_LOSSES / f"{homes[table[known]]}.py", name, table[known])
        return loss._replace(parameters=loss.parameters | own, aliases=_aliases_of(name, aliases))
    from anchorage.losses import find_loss

    cls = find_loss(name)
    paper, text = _first_line(inspect.getmodule(cls).__doc__), inspect.cleandoc(cls.__doc__ or "")
    return LossDescription(name, paper, _first_line(text), text, constructor_parameters(cls))


def check_name(name: str) -> None:
    """Raise if a loss is not in the table and its name leads to no class outside either, as far as one can read.

    Raises:
        UsageError: E_NAME_UNKNOWN, with the name that may have been meant.
    """
    if ":" not in name:
        _, table, aliases = _read_table(_LOSSES)
        find_class(dict.fromkeys([*table, *aliases], object), name)


@cache
def _read_table(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, tuple[str, dict[str, Any]]]]:
    """Module of each class, and class of each loss, by name; what each alias stands for."""
    aliases: dict[str, tuple[str, dict[str, Any]]] = {}
    homes: dict[str, str] = {}
    table: dict[str, str] = {}
    for node in _parse(folder / "__init__.py").body:
        if isinstance(node, ast.ImportFrom) and node.module:
            homes |= {alias.name: node.module.rpartition(".")[2] for alias in node.names}
        elif not (isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)):
            continue
        elif ast.unparse(node.target) == "ALIASES":
            aliases = ast.literal_eval(node.value)
        elif ast.unparse(node.target) == "LOSSES":
            pairs = zip(node.value.keys, node.value.values, strict=True)
            table = {ast.literal_eval(key): ast.unparse(cls) for key, cls in pairs if key}
    return homes, table, aliases


def _aliases_of(name: str, aliases: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return {alias: own for alias, (known, own) in sorted(aliases.items()) if known == name}


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
    """The expression of each parameter's default, by its name."""
    required: Any = inspect.Parameter.empty
    named = [argument.arg for argument in arguments.args[1:]]  # without `self`
    missing = len(named) - len(arguments.defaults)
    found = dict(zip(named, [*[required] * missing, *arguments.defaults], strict=True))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found[argument.arg] = required if default is None else default
    return found


def _value(node: ast.expr, constants: dict[str, ast.expr]) -> Any:
    """What a default evaluates to: a literal, or a constant of the module."""
    return ast.literal_eval(constants[node.id] if isinstance(node, ast.Name) else node)


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().split("\n", 1)[0]
