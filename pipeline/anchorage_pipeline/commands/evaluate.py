"""`anchorage evaluate`: the metrics of an embedding table of any size, computed with Beam."""

import argparse
from pathlib import Path

import numpy as np

from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import positive
from anchorage_pipeline.results import in_percent, shown

_SHOWN = 20  # rejected rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the table, the metrics and the sample of queries."""
    parser.add_argument("table", metavar="TABLE", help="labelled embeddings: a table of vectors, or a folder of tables")
    parser.add_argument(
        "--queries", metavar="TABLE", help="query embeddings (default: the rows of TABLE with role query or both)"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        metavar="METRIC",
        default=["recall@1", "map@r"],
        help="metrics to compute, such as recall@10 or ndcg@10 (default: recall@1 map@r)",
    )
    parser.add_argument(
        "--sample",
        type=positive,
        default=10_000,
        metavar="N",
        help="number of queries to sample, if there are more (default: %(default)s)",
    )
    parser.add_argument(
        "--neighbors", type=positive, default=10, metavar="K", help="neighbors to write per query (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the query sample (default: 0)")
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="folder for the metrics and the neighbors (required)"
    )


def embedding_table(path: Path, output: Path) -> Path:
    """The embedding table at a path; a table of vectors in another form is written as one below `output`.

    Such a table may lack ids, roles and splits: every row is then query and gallery item. Rows that cannot be used are
    left out, which is printed.
    """
    from anchorage.data.inputs import list_inputs
    from anchorage.data.vectors import is_vector_data
    from anchorage.retrieval.table import Embeddings, is_embedding_table, write_table
    from anchorage.vectors import unit_vectors

    if is_embedding_table(path) or not is_vector_data(path):
        return path
    inputs, rejects = list_inputs([path], vectors=True)
    for reject in rejects[:_SHOWN]:
        print(f"left out  {reject.path}: {reject.message}")
    if len(rejects) > _SHOWN:
        print(f"left out  {len(rejects) - _SHOWN:,} more")
    ids, labels, roles, splits = (
        np.array([getattr(row, name) for row in inputs], object) for name in ("id", "label", "role", "split")
    )
    vectors = np.stack([row.vector for row in inputs if row.vector is not None])
    output.mkdir(parents=True, exist_ok=True)
    table = output / f"{path.stem}-embeddings.parquet"
    write_table(table, Embeddings(ids, labels, roles, splits, unit_vectors(vectors)))
    return table


def run(options: argparse.Namespace) -> None:
    """Compute the metrics, then print them and the numbers of queries and gallery items."""
    from anchorage_components.beam.evaluation import NEIGHBORS, evaluate_at_scale

    output = Path(options.output)
    with progress():
        result = evaluate_at_scale(
            embedding_table(Path(options.table), output),
            output,
            queries=embedding_table(Path(options.queries), output) if options.queries else None,
            metrics=options.metrics,
            sample=options.sample,
            keep_neighbors=options.neighbors,
            seed=options.seed,
            beam_args=options.beam_arguments,
        )
    answer({**result, "neighbors": output / NEIGHBORS})
    print(f"result   {in_percent(result['values'])}  (percent)")
    print(
        f"         {options.table}: {result['queries']:,} of {result['all_queries']:,} queries, gallery "
        f"{result['gallery']:,}, {result['skipped']:,} skipped without a relevant item, seed {options.seed}"
    )
    print(f"nearest  {shown(output / NEIGHBORS)}")
