import subprocess
import sys


def test_nothing_is_logged_to_the_terminal_after_a_run(tmp_path):
    script = (
        "import logging, sys\nfrom pathlib import Path\nfrom absl import logging as absl_logging\n"
        "from anchorage_pipeline.progress import log_to\n"
        "with log_to(Path(sys.argv[1])):\n    absl_logging.info('inside')\n    logging.info('inside, too')\n"
        "absl_logging.info('after')\nlogging.info('after, too')\nabsl_logging.info('after')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run.log")], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""
    assert (tmp_path / "run.log").read_text().count("inside") == 2
