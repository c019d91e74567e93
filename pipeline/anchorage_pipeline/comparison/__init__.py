"""`anchorage compare`: compare settings of one experiment with equal budgets and repeated runs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from anchorage.errors import UsageError
from anchorage.progress import task
from anchorage_pipeline.comparison.data import prepare_images
from anchorage_pipeline.comparison.jobs import Job, Jobs
from anchorage_pipeline.comparison.plan import Block, Candidate, check_alike, expand, report_blocks, write_plan
from anchorage_pipeline.comparison.plot import draw_comparison
from anchorage_pipeline.comparison.pool import run_all
from anchorage_pipeline.comparison.progress import Progress
from anchorage_pipeline.comparison.results import Chosen, Outcome, Row, choose, summarize
from anchorage_pipeline.comparison.settings import Comparison, load_comparison
from anchorage_pipeline.comparison.table import write_table
from anchorage_pipeline.lock import hold_folder

__all__ = ["Comparison", "Outcome", "compare"]


def compare(
    path: str | Path, side_by_side: int = 1, only: Sequence[str] = (), overrides: Sequence[str] = ()
) -> Outcome:
    """Run all jobs without a record, then write the table and the figures from all records.

    Args:
        path: the comparison file.
        side_by_side: number of parallel processes.
        only: names of the entries to run, together with those they are compared against; empty runs all.
        overrides: values that replace those of the file or of its experiment, see `load_comparison`.

    Raises:
        UsageError: E_ENTRY_UNKNOWN, and the errors of `load_comparison`, `expand` and `check_alike`.
        ResourceError: E_RUN_LOCKED, if the comparison is already running.
    """
    comparison, document = load_comparison(path, overrides)
    plan, wanted = expand(comparison, document), _wanted(comparison, only)
    with hold_folder(comparison.folder, comparison.name):
        return _compare(comparison, plan, wanted, side_by_side)


def _compare(
    comparison: Comparison, plan: dict[str, list[Candidate]], wanted: Sequence[str], side_by_side: int
) -> Outcome:
    images = prepare_images(comparison, next(iter(plan.values()))[0].experiment)
    labels = images.training_labels()
    plan = write_plan(plan, labels)  # resolve the recipe once: its choices would differ with the size of a fold
    unlike = check_alike(comparison, plan, labels)
    jobs, blocks = Jobs(comparison, images), report_blocks(comparison)
    trials = {name: jobs.trials(candidates, name) for name, candidates in plan.items()}

    def chosen(name: str) -> Chosen:
        return choose(plan[name], [job.read() for job in trials[name]], comparison.primary)

    def runs(name: str) -> dict[Block, Job]:
        return _runs(jobs, chosen(name).candidate, blocks, name)

    def complete(name: str) -> bool:
        return all(job.done for job in trials[name]) and all(job.done for job in runs(name).values())

    _check_parts(plan, [name for name in wanted if not complete(name)])
    _run([job for name in wanted for job in trials[name]], side_by_side, comparison, "tuning")
    planned = {name: runs(name) for name in plan}
    by_block = [planned[name][block] for block in blocks for name in wanted if block in planned[name]]
    _run(by_block, side_by_side, comparison, "measuring")
    rows = []
    for entry in comparison.entries:
        records = {block: record for block, job in planned[entry.name].items() if (record := job.read()) is not None}
        rows.append(Row(entry, chosen(entry.name), records, unlike.get(entry.name, [])))
    outcome = summarize(comparison, blocks, rows)
    write_table(outcome, images, comparison.folder / "table.md")
    return replace(outcome, pictures=draw_comparison(outcome, comparison.folder))


def _wanted(comparison: Comparison, only: Sequence[str]) -> list[str]:
    names = [entry.name for entry in comparison.entries]
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise UsageError("E_ENTRY_UNKNOWN", f"Expected entries among {', '.join(names)}. Received: {unknown}")
    against = {entry.against for entry in comparison.entries if entry.name in only}
    return [name for name in names if not only or name in only or name in against]


def _check_parts(plan: dict[str, list[Candidate]], names: Sequence[str]) -> None:
    """Build the parts of all entries first, so that an error in the last one is reported before hours of training."""
    from anchorage_pipeline.preflight import check_parts

    for name in names:
        try:
            check_parts(plan[name][0].experiment)
        except UsageError as error:
            raise UsageError(error.code, f"The entry {name!r}: {error.message}") from None


def _runs(jobs: Jobs, candidate: Candidate | None, blocks: Sequence[Block], name: str) -> dict[Block, Job]:
    return {block: jobs.of(candidate, block, f"{name}, {block.title}") for block in blocks} if candidate else {}


def _run(jobs: Sequence[Job], side_by_side: int, comparison: Comparison, phase: str) -> None:
    pending = list({job.key: job for job in jobs if not job.done}.values())
    if pending:
        progress = Progress(phase, len(pending), comparison.primary)
        with task(phase, len(pending)):
            run_all(pending, side_by_side, comparison.folder / "logs", progress.start, progress.finish)
