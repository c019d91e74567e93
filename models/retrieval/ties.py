"""Expected relevance along a ranking whose equal similarities stand in random order.

In a group of `g` tied items, `r` of them relevant, that starts after `a` items of which `n` are relevant, the item at
place `t` of the group (1..g), so at rank a + t, is relevant with probability r/g; the relevant items before it are then
expected to number n + (t - 1)(r - 1)/(g - 1); and if none was met so far, it is irrelevant with probability
(g - r - t + 1)/(g - t + 1). McSherry & Najork, "Computing Information Retrieval Performance Measures Efficiently in the
Presence of Tied Scores", ECIR 2008.
"""

from typing import NamedTuple

import numpy as np

from models.retrieval.neighbors import Ranking, Space
from models.retrieval.relevance import Relevance

_SORT_FROM = 64  # far relevant items of one query from which one sort beats one pass over the row each


class HitGroups(NamedTuple):
    """Every group of tied items that holds a relevant one, over the whole gallery; by query, nearest first.

    Args:
        places: `(n,)` int64 place of the query in the block.
        before: `(n,)` int64 items nearer than the group: a.
        tied: `(n,)` int64 items of the group: g.
        relevant: `(n,)` int64 relevant ones among them: r.
        found: `(n,)` int64 relevant items nearer than the group: n.
    """

    places: np.ndarray
    before: np.ndarray
    tied: np.ndarray
    relevant: np.ndarray
    found: np.ndarray


class RankedHits(NamedTuple):
    """Expected relevance of a block of queries; without ties all of it is plain 0 and 1.

    Args:
        hits: `(B, K)` float64, expected relevance of the item at each rank.
        precisions: `(B, K)` float64, expected product of the relevance at a rank and the precision up to it.
        missed: `(B, K)` float64, probability that no relevant item stands at this rank or before it.
        grades: `(B, K)` float64, expected grade of the item at each rank.
        counts: `(B, top)` int64, gallery items of each grade from 1.
        relevant: `(B,)` int64, relevant items in the whole gallery: R.
        groups: where the relevant items stand in the whole gallery; None where no metric asks.
    """

    hits: np.ndarray
    precisions: np.ndarray
    missed: np.ndarray
    grades: np.ndarray
    counts: np.ndarray
    relevant: np.ndarray
    groups: HitGroups | None


def rank_hits(
    ranking: Ranking,
    relevance: Relevance,
    counts: np.ndarray,
    space: Space | None = None,
    similarities: np.ndarray | None = None,
) -> RankedHits:
    """Expected relevance along the ranks of one ranking.

    Args:
        ranking: neighbours of the block, every group of ties whole.
        relevance: of the queries and gallery rows it names.
        counts: `(B, top)` gallery items of each grade.
        space: where the ranking comes from, if relevant items are to be found beyond its depth.
        similarities: `(B, M)` products of the block's queries with the gallery, likewise.
    """
    starts, places = ranking.starts, ranking.places
    grade = relevance.grades(ranking.queries[places], ranking.rows)
    is_relevant = (grade >= relevance.least).astype(np.float64)
    index = np.arange(len(grade))
    opens = np.append(True, ranking.similarities[1:] != ranking.similarities[:-1])
    opens[starts[:-1]] = True
    group_starts, group = np.flatnonzero(opens), np.cumsum(opens) - 1
    g = np.diff(np.append(group_starts, len(index))).astype(np.float64)
    r = np.add.reduceat(is_relevant, group_starts)
    relevant_so_far = np.append(0.0, np.cumsum(r))  # before each group, all queries together
    groups = None
    if space is not None and similarities is not None:
        kept = np.flatnonzero(r)
        near = places[group_starts[kept]], (group_starts - starts[places[group_starts]])[kept], g[kept], r[kept]
        groups = _hit_groups(ranking, relevance, space, similarities, near, is_relevant > 0)
    n = relevant_so_far[group] - relevant_so_far[group[starts[places]]]
    mean_grade = (np.add.reduceat(grade.astype(np.float64), group_starts) / g)[group]
    g, r, t = g[group], r[group], index - group_starts[group] + 1.0

    hits = r / g
    precisions = hits / (index - starts[places] + 1) * (n + 1 + (t - 1) * (r - 1) / np.maximum(g - 1, 1))
    misses = np.maximum(g - r - t + 1, 0) / (g - t + 1)
    ranks = starts[:-1, None] + np.arange(ranking.depth)
    missed = np.cumprod(misses[ranks], axis=1)
    relevant = counts[:, relevance.least - 1 :].sum(axis=1)
    return RankedHits(hits[ranks], precisions[ranks], missed, mean_grade[ranks], counts, relevant, groups)


def average_precision(groups: HitGroups, relevant: np.ndarray) -> np.ndarray:
    """`(B,)` expected mean, over the R relevant items of each query, of the precision at their ranks."""
    a, g, r, n = (np.asarray(part, np.float64) for part in groups[1:])
    share = (r - 1) / np.maximum(g - 1, 1)
    sums = np.where(g == 1, 1 / (a + 1), _harmonic(groups.before, groups.tied))
    parts = r / g * ((n + 1 - share * (a + 1)) * sums + share * g)
    return np.bincount(groups.places, parts, minlength=len(relevant)) / relevant


def reciprocal_rank(groups: HitGroups, queries: int) -> np.ndarray:
    """`(B,)` expected 1 / rank of the first relevant item."""
    first = groups.found == 0
    a, g, r = groups.before[first], groups.tied[first], groups.relevant[first]
    values = np.where(g == 1, 1 / (a + 1), _harmonic(a, g) / g)
    several = np.flatnonzero(r > 1)
    kinds, which = np.unique(np.stack([a, g, r], axis=1)[several], axis=0, return_inverse=True)
    values[several] = np.array([_first_of_several(*kind) for kind in kinds.tolist()])[which.reshape(-1)]
    return np.bincount(groups.places[first], values, minlength=queries)


def _first_of_several(a: int, g: int, r: int) -> float:
    t = np.arange(1, g - r + 2)
    missed = np.append(1.0, np.cumprod((g - r - t[:-1] + 1) / (g - t[:-1] + 1)))
    return float((missed * r / (g - t + 1) / (a + t)).sum())


def _harmonic(before: np.ndarray, tied: np.ndarray) -> np.ndarray:
    """1/(a + 1) + ... + 1/(a + g)."""
    table = np.append(0.0, np.cumsum(1 / np.arange(1, int((before + tied).max(initial=0)) + 1)))
    return table[before + tied] - table[before]


def _hit_groups(
    ranking: Ranking,
    relevance: Relevance,
    space: Space,
    similarities: np.ndarray,
    near: tuple[np.ndarray, ...],
    is_relevant: np.ndarray,
) -> HitGroups:
    """The groups in the ranking's lists, and those of the relevant items beyond them."""
    queries, listed = ranking.queries, is_relevant.nonzero()[0]
    places, rows = relevance.items(queries)
    keys, width = places * len(space.gallery) + rows, len(space.gallery)
    beyond = ~np.isin(keys, ranking.places[listed] * width + ranking.rows[listed])
    far = count_before(space, queries, similarities, places[beyond], rows[beyond])
    joined = [np.concatenate(pair).astype(np.int64) for pair in zip(near, far, strict=True)]
    place, before, tied, relevant = (part[np.lexsort((joined[1], joined[0]))] for part in joined)
    so_far = np.cumsum(relevant) - relevant
    return HitGroups(place, before, tied, relevant, so_far - so_far[np.searchsorted(place, place)])


def count_before(
    space: Space, queries: np.ndarray, similarities: np.ndarray, places: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Groups of ties around some pairs, counted over the whole gallery: place, items before, items tied, pairs in it.

    Args:
        space: queries and gallery.
        queries: `(B,)` positions of the block's queries.
        similarities: `(B, M)` their products.
        places: `(n,)` places in the block, rising.
        rows: `(n,)` gallery rows.
    """
    exact = space.exact(queries[places], rows)
    order = np.lexsort((-exact, places))
    places, exact = places[order], exact[order]
    opens = np.append(True, (places[1:] != places[:-1]) | (exact[1:] != exact[:-1]))[: len(places)]
    firsts = np.flatnonzero(opens)
    members = np.diff(np.append(firsts, len(places)))
    place, value = places[firsts], exact[firsts]
    low, high = value - np.float32(space.tolerance), value + np.float32(space.tolerance)
    before, reached = np.empty(len(place), np.int64), np.empty(len(place), np.int64)
    per_query = np.bincount(place, minlength=len(queries))
    for at, query in enumerate(place.tolist()):
        if per_query[query] < _SORT_FROM:
            before[at] = np.count_nonzero(similarities[query] > high[at])
            reached[at] = np.count_nonzero(similarities[query] >= low[at])
    for query in np.flatnonzero(per_query >= _SORT_FROM).tolist():
        ordered, mine = np.sort(similarities[query]), place == query
        before[mine] = len(ordered) - np.searchsorted(ordered, high[mine], side="right")
        reached[mine] = len(ordered) - np.searchsorted(ordered, low[mine], side="left")
    tied = reached - before
    for at in np.flatnonzero(tied > members).tolist():  # rounding leaves open on which side of the group these stand
        row = similarities[place[at]]
        near = np.flatnonzero((row >= low[at]) & (row <= high[at]))
        products = space.exact(np.full(len(near), queries[place[at]]), near)
        before[at] += np.count_nonzero(products > value[at])
        tied[at] = np.count_nonzero(products == value[at])
    return place, before, tied, members
