"""Deploy an experiment on Kubeflow Pipelines with its schedule; the same as `anchorage kubeflow deploy`.

python kubeflow/deploy.py pipeline/experiments/icons.toml --set cluster.host=http://localhost:8888
"""

import sys

from anchorage_pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["kubeflow", "deploy", *sys.argv[1:]]))
