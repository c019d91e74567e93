"""The packed images of a comparison, shared by all runs, and its class folds."""

from dataclasses import dataclass
from pathlib import Path

from anchorage.data.store import RecordStore
from anchorage.data.subset import ClassSubset, assign_folds
from anchorage_pipeline.comparison.plan import CHOICE, Block
from anchorage_pipeline.comparison.settings import Comparison
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.fingerprint import digest
from anchorage_pipeline.source import fingerprint_data


@dataclass(frozen=True)
class Images:
    """Packed images of a comparison.

    Args:
        half: record store of all classes outside the test half.
        test: record store of the test half; None unless the runs are evaluated on it.
        folds: class names of each fold of `half`.
        digest: digest of the content of the stores.
    """

    half: Path
    test: Path | None
    folds: list[list[str]]
    digest: str

    def sides(self, block: Block, validation: bool) -> dict[str, list[str] | None]:
        """Class names for training, epoch selection and evaluation of a run; None as "judge" is the whole test half."""
        is_trial = block == CHOICE
        held_out = {CHOICE.fold, block.fold}
        return {
            "train": sorted(name for fold, names in enumerate(self.folds) if fold not in held_out for name in names),
            "validation": self.folds[0] if validation else None,
            "judge": self.folds[0] if is_trial else None if block.fold is None else self.folds[block.fold],
        }

    def training_labels(self) -> list[int]:
        """Labels of the training set of the trials."""
        return ClassSubset(RecordStore(self.half), self.sides(CHOICE, False)["train"] or []).labels.tolist()


def prepare_images(comparison: Comparison, experiment: Experiment) -> Images:
    """Pack the images unless they are packed; the test half is read only if the runs are evaluated on it."""
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
