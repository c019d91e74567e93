"""Expected relevance along a ranking with ties, over random orders of the tied items.

Consider a group of `g` tied items, `r` of them relevant, after `a` items, `n` of them relevant. The item at position
`t` of the group (1..g), which is rank a + t, is relevant with probability r/g. Given that it is relevant, the expected
number of relevant items before it is n + (t - 1)(r - 1)/(g - 1). Given that there is no relevant item before it, it is
irrelevant with probability (g - r - t + 1)/(g - t + 1). McSherry & Najork, "Computing Information Retrieval Performance
Measures Efficiently in the Presence of Tied Scores", ECIR 2008.
"""

from typing import NamedTuple

import numpy as np

from anchorage.retrieval.neighbors import Ranking, Space
from anchorage.retrieval.relevance import Relevance

_SORT_FROM = 64  # similarities per query from which one sort is faster than a pass over the row for each


class HitGroups(NamedTuple):
    """All groups of tied items in the whole gallery that contain a relevant item; by query, nearest first.

    Args:
        places: `(n,)` int64 position of the query in the block.
        before: `(n,)` int64 items nearer than the group: a.
        tied: `(n,)` int64 items of the group: g.
        relevant: `(n,)` int64 relevant items of the group: r.
        found: `(n,)` int64 relevant items nearer than the group: n.
    """

    places: np.ndarray
    before: np.ndarray
    tied: np.ndarray
    relevant: np.ndarray
    found: np.ndarray


class RankedHits(NamedTuple):
    """Expected relevance along the rankings of a block of queries; without ties, `hits` and `missed` are 0 or 1.

    Args:
        hits: `(B, K)` float64, expected relevance of the item at each rank.
        precisions: `(B, K)` float64, expected product of the relevance at a rank and the precision up to it.
        missed: `(B, K)` float64, probability that no item up to this rank is relevant.
        grades: `(B, K)` float64, expected grade of the item at each rank.
        gains: `(B, K)` float64, expected `2^grade - 1` at each rank.
        counts: `(B, top)` int64, number of gallery items of each grade from 1.
        relevant: `(B,)` int64, number of relevant items in the whole gallery: R.
        groups: ranks of the relevant items in the whole gallery; None if no metric needs them.
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
    """Compute the expected relevance along the ranks of a ranking.

    Args:
        ranking: neighbors of the block; lists do not end within a group of ties.
        grade: `(n,)` int64 grade of each entry of `ranking.rows`.
        least: lowest grade of a relevant item.
        counts: `(B, top)` number of gallery items of each grade.
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
    """Find the groups of tied items with a relevant item, within the ranking's lists and beyond them.

    Args:
        ranking: neighbors of the block.
        is_relevant: `(n,)` bool, one per entry of `ranking.rows`.
        relevance: relevance to the queries, for the items beyond the lists.
        space: queries and gallery of the ranking.
        similarities: `(B, M)` similarities of the block's queries to the gallery.
    """
    queries, starts, listed = ranking.queries, ranking.starts, ranking.places
    group_starts, _ = _groups(ranking)
    tied, relevant = (
        np.diff(np.append(group_starts, len(listed))),
        np.add.reduceat(is_relevant.astype(int), group_starts),
    )
    with_hits = np.flatnonzero(relevant)
    first = group_starts[with_hits]
    near = listed[first], first - starts[listed[first]], tied[with_hits], relevant[with_hits]

    places, rows = relevance.items(queries)
    width = len(space.gallery)
    keys = listed[is_relevant] * width + ranking.rows[is_relevant]
    beyond = ~np.isin(places * width + rows, keys)
    exact = space.exact(queries[places[beyond]], rows[beyond])
    place, value, members = tie_groups(places[beyond], exact)
    far = place, *count_before(space, queries, similarities, place, value, members), members
    return sort_groups(*(np.concatenate(pair).astype(np.int64) for pair in zip(near, far, strict=True)))


def average_precision(groups: HitGroups, relevant: np.ndarray) -> np.ndarray:
    """Compute the expected average precision `(B,)`: the mean, over the R relevant items, of the precision at them."""
    a, g, r, n = (np.asarray(part, np.float64) for part in groups[1:])
    share = (r - 1) / np.maximum(g - 1, 1)
    sums = np.where(g == 1, 1 / (a + 1), _harmonic(groups.before, groups.tied))
    parts = r / g * ((n + 1 - share * (a + 1)) * sums + share * g)
    return np.bincount(groups.places, parts, minlength=len(relevant)) / relevant


def reciprocal_rank(groups: HitGroups, queries: int) -> np.ndarray:
    """Compute the expected reciprocal rank `(B,)` of the first relevant item."""
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
    """Compute 1/(a + 1) + ... + 1/(a + g)."""
    table = np.append(0.0, np.cumsum(1 / np.arange(1, int((before + tied).max(initial=0)) + 1)))
    return table[before + tied] - table[before]


def _groups(ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
    """Return the start of each group of ties in the lists, and the group of each entry."""
    opens = np.append(True, ranking.similarities[1:] != ranking.similarities[:-1])
    opens[ranking.starts[:-1]] = True
    return np.flatnonzero(opens), np.cumsum(opens) - 1


def sort_groups(places: np.ndarray, before: np.ndarray, tied: np.ndarray, relevant: np.ndarray) -> HitGroups:
    """Sort groups by query, nearest first, and count the relevant items before each."""
    order = np.lexsort((before, places))
    places, before, tied, relevant = (part[order] for part in (places, before, tied, relevant))
    so_far = np.cumsum(relevant) - relevant
    return HitGroups(places, before, tied, relevant, so_far - so_far[np.searchsorted(places, places)])


def tie_groups(places: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group equal similarities, highest first: query, similarity and number of members of each group."""
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
    """Count the items of the whole gallery that are nearer than given similarities, and those that tie with them.

    Args:
        space: queries and gallery.
        queries: `(B,)` numbers of the block's queries.
        similarities: `(B, M)` similarities of these queries to the gallery.
        places: `(n,)` positions in the block.
        values: `(n,)` float32 exact similarities.
        members: `(n,)` number of items known to have exactly this similarity; None for 0.
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
            if reached[at] - before[at] > known[at]:  # within the rounding error, so compare exactly
                doubtful.append((at, np.flatnonzero(np.not_equal(above, reaching, out=above))))
    for query in np.flatnonzero(per_query >= _SORT_FROM).tolist():
        order = np.argsort(similarities[query])
        ordered, entries = similarities[query][order], np.flatnonzero(place == query)
        ends = np.searchsorted(ordered, high[entries], side="right")
        starts = np.searchsorted(ordered, low[entries], side="left")
        before[entries], reached[entries] = len(ordered) - ends, len(ordered) - starts
        ranges = zip(entries.tolist(), starts, ends, strict=True)
        doubtful += [(at, order[start:end]) for at, start, end in ranges if end - start > known[at]]
    tied = reached - before
    if doubtful:
        entries = np.array([at for at, _ in doubtful])
        owner = np.repeat(entries, [len(near) for _, near in doubtful])
        products = space.exact(queries[place[owner]], np.concatenate([near for _, near in doubtful]))
        before += np.bincount(owner[products > value[owner]], minlength=len(place))
        tied[entries] = np.bincount(owner[products == value[owner]], minlength=len(place))[entries]
    return before, tied
