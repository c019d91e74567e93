"""The images of a comparison, packed once and shared by all runs, and its folds of classes."""

from dataclasses import dataclass
from pathlib import Path

from anchorage.data.store import RecordStore
from anchorage.data.subset import ClassSubset, assign_folds
from anchorage_pipeline.comparison.plan import CHOICE, Block
from anchorage_pipeline.comparison.settings import Comparison
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.fingerprint import digest
from anchorage_pipeline.graph import fingerprint_data


@dataclass(frozen=True)
class Images:
    """Packed images.

    Args:
        half: store of all classes outside the test half.
        test: store of the test half; None unless it judges.
        folds: class names of each fold of `half`.
        digest: of the content of the stores.
    """

    half: Path
    test: Path | None
    folds: list[list[str]]
    digest: str

    def sides(self, block: Block, validation: bool) -> dict[str, list[str] | None]:
        """Class names of a run to train on, to choose the epoch by, and to judge by; None for all of the test half."""
        chooses = block == CHOICE
        held_out = {CHOICE.fold, block.fold}
        return {
            "train": sorted(name for fold, names in enumerate(self.folds) if fold not in held_out for name in names),
            "validation": self.folds[0] if validation else None,
            "judge": self.folds[0] if chooses else None if block.fold is None else self.folds[block.fold],
        }

    def training_labels(self) -> list[int]:
        """Labels of the training set on which values are chosen."""
        return ClassSubset(RecordStore(self.half), self.sides(CHOICE, False)["train"] or []).labels.tolist()


def prepare_images(comparison: Comparison, experiment: Experiment) -> Images:
    """Pack what is not packed yet; the test half is not opened unless it judges."""
    from anchorage_pipeline.plain import list_sources, open_packed, pack_parts

    data = digest([fingerprint_data(experiment), experiment.data.model_dump(mode="json"), experiment.seed])
    stores = comparison.folder / "stores" / data
    wanted = {"half": False, **({"test": True} if comparison.judge == "test" else {})}
    for part, is_test in wanted.items():
        if not (stores / part).is_dir():
            listing = list_sources(experiment, val_share=0.0)
            sources = [source for source in listing.sources if (source.split == "test") is is_test]
            rejects = [reject for reject in listing.rejects if (reject.split == "test") is is_test]
            stores.mkdir(parents=True, exist_ok=True)
            pack_parts(experiment, {part: sources}, rejects, stores / f"{part}.packed")
            (stores / f"{part}.packed" / part).rename(stores / part)
            (stores / f"{part}.packed").rmdir()
    packed = open_packed(stores, list(wanted))
    half = packed[0]
    return Images(
        half=stores / "half",
        test=stores / "test" if comparison.judge == "test" else None,
        folds=assign_folds(half.class_names, comparison.folds, comparison.fold_seed),
        digest=digest([store.digest for store in packed]),
    )
