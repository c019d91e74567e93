"""Writes models/anchorage/losses/README.md: every loss, its source, the source of its defaults, its measured accuracy.

Run by `make conformance`, after the tests of the losses have left their figures under `.conformance`. With `--text` it
takes the figures from the page that is there: papers, parameters, defaults and formulas are brought up to date at once.
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
# The losses

`create_loss(name, params)` or `[loss] name = "..."` in an experiment file; `anchorage losses NAME` tells all about one.
Every loss is called `loss(embeddings, labels)` and gives one number.

On a CPU Keras trains without XLA. Losses over triplets and ranks are three to six times as fast with it from 512 rows
on: `learner.compile(optimizer, jit_compile=True)`, where the encoder is small beside the loss; convolutions are not
quicker there. [The steps of all losses](../../tests/benchmarks/losses.md) are timed both ways.

Losses over classes that would hold more than 381 MiB at once (2,048 rows, 10,000 classes with two proxies each) take
the classes in parts, which costs a third more time.

Written by `make conformance`; do not edit. It runs the tests of the losses on all three backends of Keras:
{tests}. Versions: {versions}.

The last three columns say how far a loss was, at most, from its oracle, in value and every gradient: first computed in
float64, then, as in training, in float32. The oracle is a number of cases (column "cases"), published ones in float64
or plain loops, whose slopes by differences are themselves right to about 1e-9. A difference is divided by the largest
number of the case, or by 1 where that is less. Keras itself turns float64 into float32 on JAX and PyTorch; for these
figures it was kept from that, but for the bins of histograms on PyTorch.

Of defaults it is said where they come from. Where the text of a paper was not at hand, that is the source that states
its values.

## Table

| loss | also known as | paper | parameters and their defaults | defaults from | cases | {backends} |
|---|---|---|---|---|---|{lines}|
"""


def parts_of(name):
    """Of a loss's docstring: purpose, what stands before its arguments, and where the defaults come from."""
    purpose, rest = inspect.getdoc(LOSSES[name]).split("\n\n", 1)
    text = rest.split("\nArgs:\n", 1)[0].rstrip()
    said = re.search(r"(?:^|\n\n)Defaults: (.*?)(?=\n\n|$)", text, re.DOTALL)
    if said is None:
        raise SystemExit(f"The docstring of {name!r} does not say where its defaults come from (`Defaults: ...`).")
    return " ".join(purpose.split()), (text[: said.start()] + text[said.end() :]).strip(), " ".join(said[1].split())


def parameters_of(loss):
    """Parameters and their defaults as a cell of the table."""
    required = inspect.Parameter.empty
    cells = (key if value is required else f"{key}={value!r}" for key, value in loss.parameters.items())
    return ", ".join(f"`{cell}`" for cell in cells).replace("|", "\\|")


def front_of(loss):
    """The part of a row that follows from the code alone."""
    return (
        f"| [`{loss.name}`](#{loss.name}) | {loss.also_known_as()} | {loss.paper.rstrip('.')} | {parameters_of(loss)} |"
    )


def figure(found, dtype):
    """A measured difference: `3e-16`, or a dash where it was not measured."""
    return f"{found[dtype]:.0e}" if dtype in found else "-"


def render(measured):
    """The whole page out of what each backend's run left behind."""
    kinds = {name: value for facts in measured.values() for name, value in facts["versions"].items()}
    figures = {}
    for name in LOSSES:
        found = [facts["losses"].get(name, {}) for facts in measured.values()]
        largest = [f"{figure(one, 'float64')}, {figure(one, 'float32')}" for one in found]
        figures[name] = " | ".join([str(max(one.get("cases", 0) for one in found)), *largest])
    return lay_out(
        figures,
        tests=", ".join(f"{BACKENDS[name]} {facts['tests']:,} tests" for name, facts in measured.items()),
        versions=", ".join(f"{name} {value}" for name, value in kinds.items()),
        backends=[BACKENDS[name] for name in measured],
    )


def refresh(page):
    """The page with what the code says today, and the figures that stand in it."""
    tests, versions = re.search(r"^(.* tests)\. Versions: (.*)\.$", page, re.MULTILINE).groups()
    backends = re.search(r"\| cases \| (.*) \|$", page, re.MULTILINE)[1].split(" | ")
    rows = [row.removesuffix(" |").rsplit(" | ", 1 + len(backends)) for row in page.splitlines() if row[:4] == "| [`"]
    figures = {front.split("`")[1]: " | ".join(last) for front, *last in rows}
    missing = sorted(set(LOSSES) - set(figures))
    if missing:
        raise SystemExit(f"The page has no figures of {missing}. Run `make conformance`.")
    return lay_out(figures, tests, versions, backends)


def lay_out(figures, tests, versions, backends):
    """The page; `figures` holds the last cells of each loss's row."""
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
    """Read the figures, check that they are whole, write the page."""
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
            raise SystemExit(f"The tests failed on {backend}: no table is written.")
        missing = sorted(set(LOSSES) - set(measured[backend]["losses"]))
        if missing:
            raise SystemExit(f"No case was measured on {backend} for {missing}: add one to test_oracles.py.")
    write(render(measured))


def write(page):
    """Put the page in its place."""
    PAGE.write_text(page, encoding="utf-8")
    print(f"{len(LOSSES)} losses in {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
