"""Expected relevance along a ranking whose equal similarities stand in random order.

In a group of `g` tied items, `r` of them relevant, that starts after `a` items of which `n` are relevant, the item at
place `t` of the group (1..g), so at rank a + t, is relevant with probability r/g; the relevant items before it are then
expected to number n + (t - 1)(r - 1)/(g - 1); and if none was met so far, it is irrelevant with probability
(g - r - t + 1)/(g - t + 1). McSherry & Najork, "Computing Information Retrieval Performance Measures Efficiently in the
Presence of Tied Scores", ECIR 2008.
"""

from typing import NamedTuple

import numpy as np

from anchorage.retrieval.neighbors import Ranking, Space
from anchorage.retrieval.relevance import Relevance

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
        gains: `(B, K)` float64, expected `2^grade - 1` there.
        counts: `(B, top)` int64, gallery items of each grade from 1.
        relevant: `(B,)` int64, relevant items in the whole gallery: R.
        groups: where the relevant items stand in the whole gallery; None where no metric asks.
    """

    hits: np.ndarray
    precisions: np.ndarray
    missed: np.ndarray
    grades: np.ndarray
    gains: np.ndarray
    counts: np.ndarray
    relevant: np.ndarray
    groups: HitGroups | None


def rank_hits(ranking: Ranking, grade: np.ndarray, least: int, counts: np.ndarray) -> RankedHits:
    """Expected relevance along the ranks of one ranking.

    Args:
        ranking: neighbours of the block, every group of ties whole.
        grade: `(n,)` int64 grade of each entry of `ranking.rows`.
        least: grade from which on an item is relevant.
        counts: `(B, top)` gallery items of each grade.
    """
    starts, places = ranking.starts, ranking.places
    is_relevant = (grade >= least).astype(np.float64)
    index = np.arange(len(grade))
    group_starts, group = _groups(ranking)
    g = np.diff(np.append(group_starts, len(index))).astype(np.float64)
    r = np.add.reduceat(is_relevant, group_starts)
    relevant_so_far = np.append(0.0, np.cumsum(r))  # before each group, all queries together
    n = relevant_so_far[group] - relevant_so_far[group[starts[places]]]
    mean_grade, mean_gain = (
        (np.add.reduceat(values, group_starts) / g)[group] for values in (grade.astype(np.float64), 2.0**grade - 1.0)
    )
    g, r, t = g[group], r[group], index - group_starts[group] + 1.0

    hits = r / g
    precisions = hits / (index - starts[places] + 1) * (n + 1 + (t - 1) * (r - 1) / np.maximum(g - 1, 1))
    misses = np.maximum(g - r - t + 1, 0) / (g - t + 1)
    ranks = starts[:-1, None] + np.arange(ranking.depth)
    missed = np.cumprod(misses[ranks], axis=1)
    relevant = counts[:, least - 1 :].sum(axis=1)
    return RankedHits(
        hits[ranks], precisions[ranks], missed, mean_grade[ranks], mean_gain[ranks], counts, relevant, None
    )


def find_groups(
    ranking: Ranking, is_relevant: np.ndarray, relevance: Relevance, space: Space, similarities: np.ndarray
) -> HitGroups:
    """The groups in the ranking's lists, and those of the relevant items beyond them.

    Args:
        ranking: neighbours of the block.
        is_relevant: `(n,)` bool, one per entry of `ranking.rows`.
        relevance: of the queries, for the items that are not in the lists.
        space: where the ranking comes from.
        similarities: `(B, M)` products of the block's queries with the gallery.
    """
    queries, starts, listed = ranking.queries, ranking.starts, ranking.places
    group_starts, _ = _groups(ranking)
    tied, relevant = (
        np.diff(np.append(group_starts, len(listed))),
        np.add.reduceat(is_relevant.astype(int), group_starts),
    )
    kept = np.flatnonzero(relevant)
    first = group_starts[kept]
    near = listed[first], first - starts[listed[first]], tied[kept], relevant[kept]

    places, rows = relevance.items(queries)
    width = len(space.gallery)
    keys = listed[is_relevant] * width + ranking.rows[is_relevant]
    beyond = ~np.isin(places * width + rows, keys)
    exact = space.exact(queries[places[beyond]], rows[beyond])
    place, value, members = tie_groups(places[beyond], exact)
    far = place, *count_before(space, queries, similarities, place, value, members), members
    return in_order(*(np.concatenate(pair).astype(np.int64) for pair in zip(near, far, strict=True)))


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


def _groups(ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
    """Where each group of ties starts in the lists, and the group of each entry."""
    opens = np.append(True, ranking.similarities[1:] != ranking.similarities[:-1])
    opens[ranking.starts[:-1]] = True
    return np.flatnonzero(opens), np.cumsum(opens) - 1


def in_order(places: np.ndarray, before: np.ndarray, tied: np.ndarray, relevant: np.ndarray) -> HitGroups:
    """The groups by query, nearest first, with the relevant items found before each."""
    order = np.lexsort((before, places))
    places, before, tied, relevant = (part[order] for part in (places, before, tied, relevant))
    so_far = np.cumsum(relevant) - relevant
    return HitGroups(places, before, tied, relevant, so_far - so_far[np.searchsorted(places, places)])


def tie_groups(places: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place, similarity and number of members of each group of equal similarities, highest first."""
    order = np.lexsort((-values, places))
    places, values = places[order], values[order]
    opens = np.append(True, (places[1:] != places[:-1]) | (values[1:] != values[:-1]))[: len(places)]
    firsts = np.flatnonzero(opens)
    return places[firsts], values[firsts], np.diff(np.append(firsts, len(places)))


def count_before(
    space: Space,
    queries: np.ndarray,
    similarities: np.ndarray,
    places: np.ndarray,
    values: np.ndarray,
    members: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """How many gallery items stand before some similarities, and how many tie with them, counted in the whole gallery.

    Args:
        space: queries and gallery.
        queries: `(B,)` positions of the block's queries.
        similarities: `(B, M)` their products.
        places: `(n,)` places in the block.
        values: `(n,)` float32 exact similarities.
        members: `(n,)` items known to have exactly this similarity; None: 0.
    """
    place, value, known = places, values, np.zeros(len(places), np.int64) if members is None else members
    low, high = value - np.float32(space.tolerance), value + np.float32(space.tolerance)
    before, reached = np.empty(len(place), np.int64), np.empty(len(place), np.int64)
    per_query = np.bincount(place, minlength=len(queries))
    doubtful: list[tuple[int, np.ndarray]] = []
    above, reaching = (np.empty(similarities.shape[1], np.bool_) for _ in range(2))
    for at, query in enumerate(place.tolist()):
        if per_query[query] < _SORT_FROM:
            row = similarities[query]
            before[at] = np.count_nonzero(np.greater(row, high[at], out=above))
            reached[at] = np.count_nonzero(np.greater_equal(row, low[at], out=reaching))
            if reached[at] - before[at] > known[at]:  # rounding leaves open on which side of the group some stand
                doubtful.append((at, np.flatnonzero(np.not_equal(above, reaching, out=above))))
    for query in np.flatnonzero(per_query >= _SORT_FROM).tolist():
        order = np.argsort(similarities[query])
        ordered, mine = similarities[query][order], np.flatnonzero(place == query)
        ends = np.searchsorted(ordered, high[mine], side="right")
        starts = np.searchsorted(ordered, low[mine], side="left")
        before[mine], reached[mine] = len(ordered) - ends, len(ordered) - starts
        cut = zip(mine.tolist(), starts, ends, strict=True)
        doubtful += [(at, order[start:end]) for at, start, end in cut if end - start > known[at]]
    tied = reached - before
    if doubtful:
        which = np.array([at for at, _ in doubtful])
        owner = np.repeat(which, [len(near) for _, near in doubtful])
        products = space.exact(queries[place[owner]], np.concatenate([near for _, near in doubtful]))
        before += np.bincount(owner[products > value[owner]], minlength=len(place))
        tied[which] = np.bincount(owner[products == value[owner]], minlength=len(place))[which]
    return before, tied
