"""`anchorage evaluate`: the metrics of an embedding table of any size, computed with Beam."""

import argparse
from pathlib import Path

from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import positive
from anchorage_pipeline.results import in_percent, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the table, the metrics and the sample of queries."""
    parser.add_argument("table", metavar="TABLE", help="embeddings with labels: a Parquet file, or a folder of them")
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


def run(options: argparse.Namespace) -> None:
    """Compute the metrics, then print them and the numbers of queries and gallery items."""
    from anchorage_components.beam.evaluation import NEIGHBORS, evaluate_at_scale

    output = Path(options.output)
    with progress():
        result = evaluate_at_scale(
            Path(options.table),
            output,
            queries=options.queries,
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
