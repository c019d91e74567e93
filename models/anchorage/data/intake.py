"""Validation of listed images, and limits on rejects, for ingestion and for checks before it."""

import logging
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from anchorage.data.examples import write_rejects
from anchorage.data.images import ImageFault, check_image
from anchorage.data.limits import MAX_BYTES, MAX_PIXELS
from anchorage.data.listing import SPLITS, Listing, Reject
from anchorage.errors import DataError


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[bytes, ImageFault | None]:
    """Read and decode an image file; return its bytes, and the fault or None."""
    data, fault = read_file(path)
    return data, fault or check_image(data, max_pixels=max_pixels)


def read_file(path: Path) -> tuple[bytes, ImageFault | None]:
    """Read a file, at most one byte more than the limit of an image; return its bytes, and the fault or None.

    Only regular files are opened: a pipe or a device could block or never end.
    """
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):
            return b"", ImageFault("E_IMAGE_NO_FILE", f"expected a regular file. Received: {_describe_kind(kind)}")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1), None
    except FileNotFoundError:
        link = f"the link points to {path.readlink()}, which does not exist" if path.is_symlink() else ""
        return b"", ImageFault("E_IMAGE_MISSING", link or "there is no such file")
    except OSError as error:
        return b"", ImageFault("E_IMAGE_UNREADABLE", f"the file cannot be read: {error.strerror}")


def check_rejects(rejects: Sequence[Reject], total: int, *, max_rejects: int, max_share: float, file: str = "") -> None:
    """Raise if too many records were rejected.

    Args:
        rejects: the rejected records.
        total: number of all records.
        max_rejects: accepted number of rejects, ...
        max_share: ... or accepted share of all records, in [0, 1), whichever is greater.
        file: file for all rejects if there are too many, one JSON object per line; "" for none.

    Raises:
        DataError: `E_TOO_MANY_REJECTS`, with the first three rejects.
    """
    limit = reject_limit(total, max_rejects=max_rejects, max_share=max_share)
    if len(rejects) > limit:
        if file:
            write_rejects(file, rejects)
        shown = "; ".join(format_reject(reject) for reject in rejects[:3])
        unlabeled = any(reject.code == "E_LABEL_MISSING" for reject in rejects)
        raise DataError(
            "E_TOO_MANY_REJECTS",
            f"Expected at most {limit} bad records of {total}. Received: {count_by_code(rejects)}. First: {shown}. "
            + (f"All are in {file}. " if file else "")
            + "Fix the data or raise `data.max_rejects`."
            + (" Without training (`training.epochs = 0`) images need no labels." if unlabeled else ""),
        )


def check_intake(
    listing: Listing,
    rejects: Sequence[Reject],
    kept: Mapping[str, int] | None = None,
    *,
    max_rejects: int,
    max_share: float,
    file: str = "",
) -> None:
    """Log the rejected records, and raise if there are too many of them or a split is empty.

    Args:
        listing: all records of the data.
        rejects: those rejected so far.
        kept: number of usable records of each split; None for all that are listed.
        max_rejects: as in `check_rejects`, like the arguments below.
        max_share: see there.
        file: see there.

    Raises:
        DataError: `E_TOO_MANY_REJECTS`, `E_SPLIT_EMPTY`.
    """
    log_rejects(rejects)
    total = len(listing.sources) + len(listing.rejects)
    check_rejects(rejects, total, max_rejects=max_rejects, max_share=max_share, file=file)
    listed = Counter(source.split for source in listing.sources)
    check_splits(listed if kept is None else kept, listed, rejects, listing.skipped, listing.unlisted)


def log_rejects(rejects: Sequence[Reject]) -> None:
    """Log the first of the records that were set aside."""
    for reject in rejects[:20]:
        logging.warning("rejected %s: %s: %s", reject.path, reject.code, reject.message)


def format_reject(reject: Reject) -> str:
    """Format a rejected record as one line; a row of a table can lack a path."""
    return f"{reject.path}: {reject.message}" if reject.path else reject.message


def reject_limit(total: int, *, max_rejects: int, max_share: float) -> int:
    """Return the accepted number of rejects."""
    return max(max_rejects, int(max_share * total))


def check_splits(
    kept: Mapping[str, int],
    listed: Mapping[str, int],
    rejects: Sequence[Reject],
    skipped: int,
    unlisted: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Raise if a split has no images, with the reason.

    Args:
        kept: number of valid images of each split.
        listed: number of listed images of each split.
        rejects: rejected records.
        skipped: number of files without an image suffix.
        unlisted: why no image was listed for a split, from the `Listing`.

    Raises:
        DataError: `E_SPLIT_EMPTY`.
    """
    empty = [split for split in SPLITS if not kept.get(split)]
    if not empty:
        return
    rejected = [reject for reject in rejects if reject.split in ("", empty[0])]
    if len(empty) == len(SPLITS) and not listed:
        reason = f"no image was found; {skipped} files had another suffix, {count_by_code(rejects)} were rejected"
    elif not listed.get(empty[0]):
        reason = unlisted.get(empty[0], f"no image was listed for it out of {dict(listed)}")
        if rejected:
            reason = f"no image was listed for it, {count_by_code(rejected)} were rejected; all others: {dict(listed)}"
    else:
        reason = f"all of its {listed[empty[0]]} images were rejected: {count_by_code(rejected)}"
    raise DataError("E_SPLIT_EMPTY", f"The split {empty[0]} has no images: {reason}.")


def count_by_code(rejects: Sequence[Reject]) -> str:
    """Count rejects by code, most frequent first, as in "3 E_IMAGE_FORMAT, 1 E_ID_DUPLICATE"."""
    counts = Counter(reject.code for reject in rejects)
    return ", ".join(f"{number} {code}" for code, number in counts.most_common()) or "none"


def _describe_kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
