"""`anchorage losses`: the losses with their papers and parameters, or the documentation of one."""

import argparse
import inspect
import textwrap
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from anchorage_pipeline.console import answer

if TYPE_CHECKING:
    from anchorage.catalogue import LossDescription


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the loss to document."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="loss to document, such as contrastive (default: list)")


def run(options: argparse.Namespace) -> None:
    """Print all losses, or the full documentation of one."""
    show_losses(options.name)


def show_losses(name: str | None) -> None:
    """Print all losses, or the full documentation of one."""
    from anchorage.catalogue import describe_loss, describe_losses

    if name is not None:
        loss = describe_loss(name)
        answer(_document(loss))
        text = loss.text or "This loss has no docstring."
        aliases = f"Also known as: {loss.also_known_as()}" if loss.aliases else ""
        print("\n".join([f"{name}({', '.join(_parameters(loss))})", *filter(None, [loss.paper, aliases]), "", text]))
        return
    losses = describe_losses()
    answer([_document(loss) for loss in losses])
    wrapper = textwrap.TextWrapper(
        width=get_terminal_size().columns,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for loss in losses:
        # Keep a parameter and its default on one line.
        signature = ", ".join(parameter.replace(" ", "\N{NO-BREAK SPACE}") for parameter in _parameters(loss))
        alias_lines = [wrapper.fill(f"also known as: {loss.also_known_as()}")] if loss.aliases else []
        signature = wrapper.fill(signature).replace("\N{NO-BREAK SPACE}", " ")
        print(loss.name, *alias_lines, wrapper.fill(loss.paper), signature, sep="\n")


def _parameters(loss: "LossDescription") -> list[str]:
    required = inspect.Parameter.empty
    return [key if value is required else f"{key}={value!r}" for key, value in loss.parameters.items()]


def _document(loss: "LossDescription") -> dict[str, Any]:
    required = inspect.Parameter.empty
    defaults = {key: value for key, value in loss.parameters.items() if value is not required}
    needed = [key for key in loss.parameters if key not in defaults]
    return {**loss._asdict(), "parameters": defaults, "required": needed}
