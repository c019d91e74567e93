"""Compile an experiment for Kubeflow Pipelines v2; the same as `anchorage kubeflow compile`.

python kubeflow/compile_pipeline.py pipeline/experiments/icons.toml --output icons.yaml --image registry/anchorage:1
"""

import sys

from anchorage_pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["kubeflow", "compile", *sys.argv[1:]]))
