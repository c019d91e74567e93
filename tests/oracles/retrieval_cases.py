"""Spaces on which other libraries and ours must agree: made anew from whole numbers, so that they need no file."""

import numpy as np

RECALL_AT = (1, 5, 20)


def space(kind: str) -> dict[str, np.ndarray]:
    """Unit vectors `(M, 8)`, labels, parents and roles; no two similarities of a query are equal.

    Args:
        kind: "both" (every item asks and is found) or "roles" (some ask, others are found).
    """
    rng = np.random.default_rng({"both": 11, "roles": 12}[kind])
    labels = rng.integers(0, 14, 120)
    labels[0] = 99  # a class of one image
    vectors = rng.normal(size=(100, 8))[labels] + 1.1 * rng.normal(size=(120, 8))
    roles = np.full(120, "both") if kind == "both" else rng.choice(["query", "gallery"], 120)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")
    return {"vectors": vectors, "labels": labels, "parents": labels % 4, "roles": roles}


def scores(case: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows that ask and have a relevant item, and `(M, M)` float64 similarities; -inf for what is not found."""
    vectors, labels, roles = case["vectors"].astype("float64"), case["labels"], case["roles"]
    products = vectors @ vectors.T
    products[:, roles == "query"] = -np.inf
    np.fill_diagonal(products, -np.inf)
    relevant = ((labels[:, None] == labels) & np.isfinite(products)).sum(axis=1)
    return np.flatnonzero((roles != "gallery") & (relevant > 0)), products
