"""Writes models/anchorage/losses/README.md: every loss, its source, the source of its defaults, its measured accuracy.

`make conformance` runs it after the tests of the losses have written their figures to `.conformance`. With `--text` it
keeps the figures of the existing page and only updates papers, parameters, defaults and formulas.
"""

import inspect
import json
import re
import sys
from pathlib import Path

from anchorage.catalogue import describe_losses
from anchorage.losses import LOSSES

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "models" / "anchorage" / "losses" / "README.md"
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}

_HEAD = """\
# Losses

Create a loss with `create_loss(name, params)`, or with `[loss] name = "..."` in an experiment file; `anchorage losses
NAME` prints its documentation. Every loss is called as `loss(embeddings, labels)` and returns a scalar.

On a CPU, Keras trains without XLA. From 512 rows on, XLA makes losses over triplets and ranks three to six times as
fast: use `learner.compile(optimizer, jit_compile=True)` if the encoder is small compared to the loss, as XLA does not
speed up convolutions there. [The benchmark of all losses](../../../tests/benchmarks/losses.md) lists times with and
without XLA.

Losses over classes that would need more than 381 MiB (2,048 rows and 10,000 classes with two proxies each) process the
classes in chunks, which takes a third longer.

Written by `make conformance`; do not edit. It runs the tests of the losses on all three backends of Keras:
{tests}. Versions: {versions}.

The last three columns give the largest error of a loss against its oracle, over the value and all gradients: first in
float64, then in float32 as in training. The oracle is a set of cases (column "cases"), either published float64 values
or plain loops, whose finite-difference gradients are accurate to about 1e-9. Errors are relative to the largest number
of the case if that exceeds 1, and absolute otherwise. On JAX and PyTorch, Keras casts float64 to float32 by default;
this was disabled here, except for the bins of histograms on PyTorch.

Each default cites its source. If we could not consult the text of a paper, that is the source that quotes its values.

## Table

| loss | also known as | paper | parameters and their defaults | defaults from | cases | {backends} |
|---|---|---|---|---|---|{lines}|
"""


def parts_of(name):
    """Split the docstring of a loss: purpose, text up to the arguments, and the source of the defaults."""
    purpose, rest = inspect.getdoc(LOSSES[name]).split("\n\n", 1)
    text = rest.split("\nArgs:\n", 1)[0].rstrip()
    defaults = re.search(r"(?:^|\n\n)Defaults: (.*?)(?=\n\n|$)", text, re.DOTALL)
    if defaults is None:
        raise SystemExit(f"The docstring of {name!r} does not cite the source of its defaults (`Defaults: ...`).")
    text = (text[: defaults.start()] + text[defaults.end() :]).strip()
    return " ".join(purpose.split()), text, " ".join(defaults[1].split())


def parameters_of(loss):
    """Parameters and their defaults as a cell of the table."""
    required = inspect.Parameter.empty
    cells = (key if value is required else f"{key}={value!r}" for key, value in loss.parameters.items())
    return ", ".join(f"`{cell}`" for cell in cells).replace("|", "\\|")


def front_of(loss):
    """The cells of a row that depend on the code alone."""
    return (
        f"| [`{loss.name}`](#{loss.name}) | {loss.also_known_as()} | {loss.paper.rstrip('.')} | {parameters_of(loss)} |"
    )


def figure(found, dtype):
    """A measured error, such as `3e-16`, or a dash if it was not measured."""
    return f"{found[dtype]:.0e}" if dtype in found else "-"


def render(measured):
    """Render the page from the results of each backend."""
    versions = {name: value for facts in measured.values() for name, value in facts["versions"].items()}
    figures = {}
    for name in LOSSES:
        results = [facts["losses"].get(name, {}) for facts in measured.values()]
        errors = [f"{figure(result, 'float64')}, {figure(result, 'float32')}" for result in results]
        figures[name] = " | ".join([str(max(result.get("cases", 0) for result in results)), *errors])
    return lay_out(
        figures,
        tests=", ".join(f"{BACKENDS[name]} {facts['tests']:,} tests" for name, facts in measured.items()),
        versions=", ".join(f"{name} {value}" for name, value in versions.items()),
        backends=[BACKENDS[name] for name in measured],
    )


def refresh(page):
    """Update a page to the current docstrings, keeping its figures."""
    tests, versions = re.search(r"^(.* tests)\. Versions: (.*)\.$", page, re.MULTILINE).groups()
    backends = re.search(r"\| cases \| (.*) \|$", page, re.MULTILINE)[1].split(" | ")
    rows = [row.removesuffix(" |").rsplit(" | ", 1 + len(backends)) for row in page.splitlines() if row[:4] == "| [`"]
    figures = {front.split("`")[1]: " | ".join(last) for front, *last in rows}
    missing = sorted(set(LOSSES) - set(figures))
    if missing:
        raise SystemExit(f"The page has no figures of {missing}. Run `make conformance`.")
    return lay_out(figures, tests, versions, backends)


def lay_out(figures, tests, versions, backends):
    """Assemble the page; `figures` holds the last cells of the row of each loss."""
    page = _HEAD.format(
        tests=tests, versions=versions, backends=" | ".join(backends), lines="|".join("---" for _ in backends)
    )
    sections = []
    for loss in describe_losses():
        purpose, text, origin = parts_of(loss.name)
        page += f"{front_of(loss)} {origin} | {figures[loss.name]} |\n"
        sections.append(f"### {loss.name}\n\n{purpose}\n\n{text}\n")
    return page + "\n## Formulas\n\n" + "\n".join(sections)


def main():
    """Read the figures, check that they are complete, write the page."""
    if sys.argv[1:] == ["--text"]:
        write(refresh(PAGE.read_text(encoding="utf-8")))
        return
    measured = {}
    for backend in BACKENDS:
        path = ROOT / ".conformance" / f"{backend}.json"
        if not path.exists():
            raise SystemExit(f"Expected the figures of {backend} in {path}. Run `make conformance`.")
        measured[backend] = json.loads(path.read_text(encoding="utf-8"))
        if not measured[backend]["passed"]:
            raise SystemExit(f"The tests failed on {backend}: the page is not written.")
        missing = sorted(set(LOSSES) - set(measured[backend]["losses"]))
        if missing:
            raise SystemExit(f"No case was measured on {backend} for {missing}: add one to test_oracles.py.")
    write(render(measured))


def write(page):
    """Write the page."""
    PAGE.write_text(page, encoding="utf-8")
    print(f"{len(LOSSES)} losses in {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
