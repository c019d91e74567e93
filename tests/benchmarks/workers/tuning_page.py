"""The page and the picture of `../tuning.py`."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NEAR = 0.01  # of MAP@R below the best value
_RESAMPLES = 10_000
DEFAULTS_FIRST, RANDOM_START = "random, defaults first", "coordinate, random start"


class Course(NamedTuple):
    """The scores of a search in the order of its trials, and the samples that each trial saw."""

    scores: np.ndarray
    samples: np.ndarray

    def trials_to(self, target: float) -> int:
        """Trials until one reaches the target; one more than there are if none does."""
        reached = np.flatnonzero(self.scores >= target)
        return int(reached[0]) + 1 if len(reached) else len(self.scores) + 1

    def samples_to(self, target: float) -> int:
        """Samples seen until then, or all of them."""
        return int(self.samples[: self.trials_to(target)].sum())

    def best_after(self, trials: int) -> float:
        return float(self.scores[:trials].max())


def write_page(searches: Mapping[tuple[str, str, int], Any], folder: Path) -> None:
    """Write `tuning.md` and `tuning.png`."""
    courses: dict[str, dict[str, dict[int, Course]]] = {}
    for (loss, oracle, seed), search in searches.items():
        samples = [trial.samples_seen for trial in search.trials]
        course = Course(np.array([trial.score or 0.0 for trial in search.trials]), np.array(samples))
        courses.setdefault(loss, {}).setdefault(oracle, {})[seed] = course
    for oracles in courses.values():
        oracles[DEFAULTS_FIRST] = {
            seed: _defaults_first(oracles["coordinate"][seed], course)
            for seed, course in oracles["random"].items()
            if seed in oracles["coordinate"]
        }
    lines = [(Path(__file__).parent / "tuning_head.md").read_text(encoding="utf-8").rstrip()]
    for loss, oracles in courses.items():
        lines += ["", f"## {loss}", "", *_table(oracles), "", *_differences(oracles)]
    (folder / "tuning.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _draw(courses, folder / "tuning.png")


def _defaults_first(coordinate: Course, random: Course) -> Course:
    """The random search, had it begun with the loss's defaults as the coordinate search does."""
    both = zip(coordinate, random, strict=True)
    return Course(*(np.concatenate([first[:1], others[:-1]]) for first, others in both))


class Targets(NamedTuple):
    """What is near enough: to the best value of the four oracles in any seed, and in each seed."""

    any_seed: float
    by_seed: Mapping[int, float]


def _targets(oracles: Mapping[str, Mapping[int, Course]]) -> Targets:
    compared = [runs for name, runs in oracles.items() if name not in (DEFAULTS_FIRST, RANDOM_START)]
    by_seed = {seed: max(runs[seed].scores.max() for runs in compared) - NEAR for seed in compared[0]}
    return Targets(max(by_seed.values()), by_seed)


def _table(oracles: Mapping[str, Mapping[int, Course]]) -> list[str]:
    targets = _targets(oracles)
    target = targets.any_seed
    lines = [
        f"Best value {100 * (target + NEAR):.1f}, so that {100 * target:.1f} is near enough.",
        "",
        "| oracle | reached | trials to reach it, mean (95 %) | by seed | to the best of the same seed, mean (95 %) "
        "| samples, thousands | MAP@R after 4 | after 8 | after 16 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in oracles.items():
        needed = [course.trials_to(target) for course in runs.values()]
        most = len(next(iter(runs.values())).scores)
        by_seed = " ".join(str(each) if each <= most else f">{most}" for each in needed)
        relative = [course.trials_to(targets.by_seed[seed]) for seed, course in runs.items()]
        samples = np.mean([course.samples_to(target) for course in runs.values()]) / 1000
        bests = [100 * np.mean([course.best_after(trials) for course in runs.values()]) for trials in (4, 8, 16)]
        lines.append(
            f"| {name} | {sum(each <= most for each in needed)} of {len(needed)} | {_interval(needed)} | {by_seed} | "
            f"{_interval(relative)} | {samples:.0f} | " + " | ".join(f"{best:.1f}" for best in bests) + " |"
        )
    return lines


def _differences(oracles: Mapping[str, Mapping[int, Course]]) -> list[str]:
    """What coordinate descent needs more than each of the others, and what it finds, seed by seed."""
    targets = _targets(oracles)
    lines = [
        "| by seed: difference (95 %), p | trials | trials to the best of the same seed | MAP@R after 16, points |",
        "|---|---|---|---|",
    ]
    ours = [name for name in oracles if name.startswith("coordinate")]
    for name, other in itertools.product(ours, [name for name in oracles if name not in ours]):
        pairs = {seed: (oracles[name][seed], oracles[other][seed]) for seed in oracles[name]}
        columns = [
            [a.trials_to(targets.any_seed) - b.trials_to(targets.any_seed) for a, b in pairs.values()],
            [a.trials_to(targets.by_seed[seed]) - b.trials_to(targets.by_seed[seed]) for seed, (a, b) in pairs.items()],
            [100 * (a.scores.max() - b.scores.max()) for a, b in pairs.values()],
        ]
        cells = [f"{_interval(values, sign='+')}, p {_sign_flips(values):.2f}" for values in columns]
        lines.append(f"| {name} against {other} | {' | '.join(cells)} |")
    return lines


def _interval(values: Sequence[float], sign: str = "") -> str:
    low, high = _bootstrap(values)
    return f"{np.mean(values):{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def _bootstrap(values: Sequence[float]) -> tuple[float, float]:
    draws = np.random.default_rng(0).choice(np.asarray(values, float), (_RESAMPLES, len(values)))
    low, high = np.percentile(draws.mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _sign_flips(differences: Sequence[float]) -> float:
    """Two-sided p of the mean difference when the sign of each is chance, over all signs."""
    values = np.asarray(differences, float)
    signs = np.array(list(itertools.product((-1, 1), repeat=len(values))))
    return float(np.mean(np.abs(signs @ values) >= abs(values.sum()) - 1e-9))


def _draw(courses: Mapping[str, Mapping[str, Mapping[int, Course]]], path: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from anchorage.reporting.figures.style import BLUE, GREEN, INK, MUTED, ORANGE, STYLE, VERMILION

    styles: dict[str, tuple[str, Any]] = {
        "coordinate": (VERMILION, "-"),
        "random": (MUTED, "--"),
        "hyperband": (GREEN, ":"),
        "bayesian": (BLUE, "-."),
        DEFAULTS_FIRST: (ORANGE, "--"),
        RANDOM_START: (INK, (0, (5, 1, 1, 1, 1, 1))),
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * len(courses), 4.2), layout="constrained")
        columns = figure.subplots(1, len(courses), squeeze=False)[0]
        for axes, (loss, oracles) in zip(columns, courses.items(), strict=True):
            for name, runs in oracles.items():
                bests = 100 * np.array([np.maximum.accumulate(course.scores) for course in runs.values()])
                color, line = styles[name]
                numbers = np.arange(1, bests.shape[1] + 1)
                axes.plot(numbers, bests.mean(axis=0), linestyle=line, color=color, linewidth=2, label=name)
                draws = np.random.default_rng(0).integers(0, len(bests), (2000, len(bests)))
                low, high = np.percentile(bests[draws].mean(axis=1), [2.5, 97.5], axis=0)
                axes.fill_between(numbers, low, high, color=color, alpha=0.08, linewidth=0)
            axes.axhline(100 * _targets(oracles).any_seed, color=INK, linewidth=1)
            axes.set_title(loss, fontsize=10.5)
            axes.set_xlabel("trials")
        figure.axes[0].set_ylabel("best MAP@R so far, %")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
        figure.savefig(path, dpi=130, metadata={"Software": None})
