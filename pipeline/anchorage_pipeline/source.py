"""The data of an experiment: where they are, what one record is, and their digest."""

from pathlib import Path

from anchorage.data.remote import DataPlace, copy_data, list_data
from anchorage.data.spans import TABLES, split_path, version_of
from anchorage.data.store import RecordSpec
from anchorage.data.vectors import VectorTable
from anchorage.errors import UsageError
from anchorage.storage import is_remote
from anchorage_pipeline.config import Experiment


def place_data(experiment: Experiment) -> DataPlace:
    """Split `data.path` by its suffix into the image folder and the table, if any, without looking at either."""
    return split_path(experiment.data.path, is_vectors=experiment.data.input == "vectors")


def locate_data(experiment: Experiment, *, again: bool = False) -> tuple[Path, Path | None]:
    """Like `place_data`, for data that must exist: on this machine, or in an object store, which is copied.

    Args:
        experiment: the experiment.
        again: whether a copy that this process uses is brought up to date.

    Raises:
        UsageError: E_DATA_MISSING, if it does not exist; of an object store E_OBJECT_CREDENTIALS, E_OBJECT_DENIED,
            E_BUCKET_MISSING.
        ResourceError: E_OBJECT_STORE.
    """
    is_vectors = experiment.data.input == "vectors"
    place = copy_data(place_data(experiment), _columns(experiment), is_vectors=is_vectors, again=again)
    root, table = Path(place.root), Path(place.table) if place.table else None
    path = table or root
    if path.exists() if is_vectors else path.is_file() if table else path.is_dir():
        return root, table
    raise UsageError(
        "E_DATA_MISSING",
        f"`data.path` must be a folder of images or a table ({', '.join(sorted(TABLES))}). Received: {path}, "
        + ("which is neither." if path.exists() else "which does not exist. Paths are relative to the current folder."),
    )


def fingerprint_data(experiment: Experiment) -> str:
    """Digest of the experiment's images and table; of an object store it comes from the listing."""
    place, data = place_data(experiment), experiment.data
    if not is_remote(place.root):
        locate_data(experiment)
    return version_of(place, _columns(experiment), is_vectors=data.input == "vectors", follow_links=data.follow_links)


def indexed_ids(experiment: Experiment) -> set[str]:
    """Ids of the data that belong into the index; of images in an object store at most the table is copied.

    Raises:
        DataError: what listing the data raises.
    """
    data = experiment.data
    listing = list_data(
        place_data(experiment),
        _columns(experiment),
        is_vectors=data.input == "vectors",
        follow_links=data.follow_links,
        val_share=data.val_share,
        test_share=data.test_share,
        seed=experiment.seed,
        own_labels=experiment.untrained,
    )
    return {source.id for source in listing.sources if source.split in experiment.index.splits}


def open_vectors(experiment: Experiment) -> VectorTable:
    """The table of an experiment whose data are vectors."""
    root, table = locate_data(experiment)
    return VectorTable(table or root, _columns(experiment), experiment.attributes)


def record_spec(experiment: Experiment) -> RecordSpec:
    """Shape and type of the records of the data; reads the first vector of a table."""
    if experiment.data.input == "vectors":
        return RecordSpec(dimension=open_vectors(experiment).dimension)
    return RecordSpec(experiment.data.image_size, experiment.data.fit)


def _columns(experiment: Experiment) -> dict[str, str]:
    return {str(name): column for name, column in experiment.data.columns.items()}
