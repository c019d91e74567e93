# /// script
# requires-python = ">=3.11"
# dependencies = ["ranx==0.3.21", "ir-measures==0.4.3", "numpy>=2"]
# ///
"""Writes what ranx and ir-measures (trec_eval) say of the spaces in `retrieval_cases.py`.

uv run tests/oracles/ranking_metrics.py > tests/data/oracles/ranking-metrics.json
"""

import json
import sys
from importlib.metadata import version

import ir_measures
import numpy as np
import ranx
from retrieval_cases import scores, space

# Our names against theirs. trec_eval's nDCG has the grade as its gain; ranx's hit rate is our recall.
RANX = {
    "recall@1": "hit_rate@1",
    "recall@5": "hit_rate@5",
    "precision@5": "precision@5",
    "r_precision": "r-precision",
    "map": "map",
    "mrr": "mrr",
    "ndcg@10": "ndcg@10",
}
TREC = {
    "recall@1": "Success@1",
    "recall@5": "Success@5",
    "precision@5": "P@5",
    "r_precision": "Rprec",
    "map": "AP",
    "mrr": "RR",
    "ndcg@10": "nDCG@10",
}


def as_runs(case: dict, graded: bool) -> tuple[dict, dict]:
    """Judgements and scores by the names of queries and items."""
    asked, products = scores(case)
    same = (case["labels"][:, None] == case["labels"]).astype(int)
    grades = same + (case["parents"][:, None] == case["parents"]) if graded else same
    judged, ranked = {}, {}
    for query in asked:
        found = np.flatnonzero(np.isfinite(products[query]))
        judged[f"q{query}"] = {f"d{row}": int(grades[query, row]) for row in found if grades[query, row]}
        ranked[f"q{query}"] = {f"d{row}": float(products[query, row]) for row in found}
    return judged, ranked


def main() -> None:
    answers: dict = {"versions": {name: version(name) for name in ("ranx", "ir-measures", "pytrec-eval-terrier")}}
    for kind in ("both", "roles"):
        case = space(kind)
        judged, ranked = as_runs(case, graded=False)
        found = ranx.evaluate(ranx.Qrels(judged), ranx.Run(ranked), list(RANX.values()))
        by_trec = ir_measures.calc_aggregate(list(map(ir_measures.parse_measure, TREC.values())), judged, ranked)
        graded = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], *as_runs(case, graded=True))
        answers[kind] = {
            "queries": len(judged),
            "ranx": {ours: float(found[theirs]) for ours, theirs in RANX.items()},
            "trec_eval": {ours: float(by_trec[ir_measures.parse_measure(name)]) for ours, name in TREC.items()}
            | {"linear_graded_ndcg@10": float(graded[ir_measures.nDCG @ 10])},
        }
    json.dump(answers, sys.stdout, indent=1)
    print()


main()
