"""The pairs of a pair loss: of the batch with itself or with a memory, or those a miner keeps."""

from typing import Any, NamedTuple

from anchorage.geometry import unit_rows
from anchorage.pairs.masks import pair_masks


class References(NamedTuple):
    """Pairs that a wrapper such as `CrossBatchMemoryLoss` or `MinedLoss` passes to a pair loss.

    Attributes:
        positives: `(N, M)` bool, the positive pairs that count.
        negatives: `(N, M)` bool, the negative pairs that count.
        embeddings: `(M, D)` what the anchors are compared with; None for the batch itself.
        labels: `(M,)` integer classes of these rows; None for the batch itself.
        present: `(M,)` bool, which of these rows hold anything; None for all.
    """

    positives: Any
    negatives: Any
    embeddings: Any = None
    labels: Any = None
    present: Any = None


class Pairs(NamedTuple):
    """Anchors (rows), what they are compared with (columns), and which of the pairs count.

    Attributes:
        rows: `(N, D)`.
        columns: `(M, D)`; the same tensor as `rows` where the batch is compared with itself.
        positives: `(N, M)` bool, same class, never an item with itself.
        negatives: `(N, M)` bool, other class.
    """

    rows: Any
    columns: Any
    positives: Any
    negatives: Any


def compare(embeddings, labels, references: References | None = None, normalize: bool = True) -> Pairs:
    """Set up the pairs of a batch.

    Args:
        embeddings: `(N, D)` float tensor.
        labels: `(N,)` integer tensor of class ids.
        references: from a wrapper; None compares the batch with itself.
        normalize: bring the rows to unit length first.
    """
    rows = unit_rows(embeddings) if normalize else embeddings
    if references is None:
        return Pairs(rows, rows, *pair_masks(labels))
    if references.embeddings is None:
        return Pairs(rows, rows, references.positives, references.negatives)
    columns = unit_rows(references.embeddings) if normalize else references.embeddings
    return Pairs(rows, columns, references.positives, references.negatives)
