"""`anchorage compare`: many settings of one experiment, measured fairly and told honestly."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from anchorage.errors import UsageError
from anchorage_pipeline.comparison.data import prepare_images
from anchorage_pipeline.comparison.jobs import Job, Jobs
from anchorage_pipeline.comparison.plan import Block, Candidate, check_alike, expand, report_blocks, write_plan
from anchorage_pipeline.comparison.plot import draw_comparison
from anchorage_pipeline.comparison.pool import run_all
from anchorage_pipeline.comparison.results import Chosen, Outcome, Row, choose, summarize
from anchorage_pipeline.comparison.settings import Comparison, load_comparison
from anchorage_pipeline.comparison.table import write_table
from anchorage_pipeline.lock import hold_folder

__all__ = ["Comparison", "Outcome", "compare"]


def compare(path: str | Path, side_by_side: int = 1, only: Sequence[str] = ()) -> Outcome:
    """Run what has no record yet, then write table and pictures over all that has one.

    Args:
        path: the comparison file.
        side_by_side: processes at a time.
        only: names of entries to run now, with those they are compared with; all, if empty.

    Raises:
        UsageError: E_ENTRY_UNKNOWN, and what the file itself is refused for.
        ResourceError: E_RUN_LOCKED if the comparison is already running.
    """
    comparison, document = load_comparison(path)
    plan, wanted = expand(comparison, document), _wanted(comparison, only)
    with hold_folder(comparison.folder, comparison.name):
        return _compare(comparison, plan, wanted, side_by_side)


def _compare(
    comparison: Comparison, plan: dict[str, list[Candidate]], wanted: Sequence[str], side_by_side: int
) -> Outcome:
    images = prepare_images(comparison, next(iter(plan.values()))[0].experiment)
    labels = images.training_labels()
    plan = write_plan(plan, labels)  # folds differ in size: the recipe must not choose anew for each
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
    _run([job for name in wanted for job in trials[name]], side_by_side, comparison, "choosing")
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
    """Build what is about to run: a wrong name or value in the last entry should not cost the first ones' hours."""
    from anchorage_pipeline.preflight import check_parts

    for name in names:
        try:
            check_parts(plan[name][0].experiment)
        except UsageError as error:
            raise UsageError(error.code, f"The entry {name!r}: {error.message}") from None


def _runs(jobs: Jobs, candidate: Candidate | None, blocks: Sequence[Block], name: str) -> dict[Block, Job]:
    return {block: jobs.of(candidate, block, f"{name}, {block.told}") for block in blocks} if candidate else {}


def _run(jobs: Sequence[Job], side_by_side: int, comparison: Comparison, doing: str) -> None:
    from anchorage_pipeline.comparison.progress import Progress

    todo = list({job.key: job for job in jobs if not job.done}.values())
    if todo:
        with Progress(doing, len(todo), comparison.primary) as progress:
            run_all(todo, side_by_side, comparison.folder / "logs", progress.begun, progress.ended)
