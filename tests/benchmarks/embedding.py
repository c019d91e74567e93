"""Time `anchorage embed`: `python tests/benchmarks/embedding.py`.

The targets: one worker embeds at least 90 % of the images per second of a loop that reads files with `tf.data` and
calls the same exported model; two workers on two cores embed at least 1.7 times as many as one. Loop and worker take
turns in one process. Workers in processes of their own are timed from their first finished shard to their last, since
the start of TensorFlow (5 to 10 s) does not grow with the work. Each has a core, which the threads that read its files
share with the model. How much two cores of the machine compute at once is printed, too: it bounds what two workers can
do. On a busy machine only the CPU times count.
"""

import argparse
import io
import os
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from anchorage.data.store import RecordSpec
from anchorage.encoders import create_encoder
from anchorage.serving.export import export_encoder
from anchorage_components.beam import bulk

SIDE, SIZE, BATCH = 96, 256, 128  # of the model's input, of the files, images per call
THREADS = "TF_NUM_INTRAOP_THREADS"


def draw(folder: Path, count: int) -> None:
    """JPEG files with structure, so that they decode as photographs do."""
    random = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8))
        buffer = io.BytesIO()
        small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        (folder / f"{number:06}.jpg").write_bytes(buffer.getvalue())


def by_loop(folder: Path, model) -> int:
    """The plain loop; returns the number of embeddings."""
    files = tf.data.Dataset.list_files(f"{folder}/*.jpg", shuffle=False)
    batches = files.map(tf.io.read_file, tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)
    return len(np.concatenate([model.signatures["serving_default"](images=b)["embeddings"].numpy() for b in batches]))


def timed(work) -> tuple[float, float]:
    """Seconds on the clock and of CPU."""
    start, before = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - start, cpu() - before


def cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def one_against_loop(photos: Path, model: str, count: int, rounds: int) -> None:
    """Print the ratio of a worker in this process and the loop: whole runs, and all images beyond the first quarter.

    A run starts Beam and loads the model, which does not grow with the work; the loop has its model before.
    """
    loaded = tf.saved_model.load(model)
    by_loop(photos, loaded)  # traces and warms the cache of files
    quarter = photos.with_name("quarter")
    quarter.mkdir()
    for file in sorted(photos.iterdir())[: count // 4]:
        (quarter / file.name).hardlink_to(file)
    whole, beyond = [], []
    for _ in range(rounds):
        loop, few = (timed(lambda place=place: by_loop(place, loaded)) for place in (photos, quarter))
        with tempfile.TemporaryDirectory() as folder:
            ours, start = (
                timed(lambda place=place: bulk.embed_files([place], model, f"{folder}/{place.name}"))
                for place in (photos, quarter)
            )
        whole.append((loop[0] / ours[0], loop[1] / ours[1]))
        beyond.append(((loop[0] - few[0]) / (ours[0] - start[0]), (loop[1] - few[1]) / (ours[1] - start[1])))
        line = f"loop {count / loop[0]:.1f} images/s, {1e3 * loop[1] / count:.1f} CPU ms each; "
        print(line + f"embed {count / ours[0]:.1f} images/s, {1e3 * ours[1] / count:.1f} CPU ms each", flush=True)
    for name, ratios in ((f"a run of {count:,} images", whole), ("beyond its first quarter", beyond)):
        clock, used = (statistics.median(column) for column in zip(*ratios, strict=True))
        print(f"one worker, {name}: {clock:.2f} x the rate of the loop, {used:.2f} x by CPU time (target: 0.90)")


def multiply(core: int, seconds: float = 4) -> int:
    """Number of products of two matrices on one core, as many as there is time for."""
    os.sched_setaffinity(0, {core})
    matrix, end, count = np.ones((512, 512), np.float32), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        matrix @ matrix
        count += 1
    return count


def cores_together() -> float:
    """How many times the products of one core two cores compute at once."""
    with ThreadPoolExecutor(2) as threads:
        alone = threads.submit(multiply, 0).result()
        return sum(threads.map(multiply, (0, 1))) / alone


def by_workers(photos: Path, model: str, workers: int) -> tuple[float, float, int]:
    """Images per second between the first shard and the last, CPU seconds of all processes, and number of shards."""
    os.sched_setaffinity(0, range(workers))  # what Beam starts inherits it
    flags = ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    with tempfile.TemporaryDirectory() as folder:
        _, used = timed(lambda: bulk.embed_files([photos], model, f"{folder}/table", flags))
        times = sorted(path.stat().st_mtime for path in Path(folder).glob("table/vectors-*.parquet"))
    return (len(times) - 1) * bulk._SHARD / (times[-1] - times[0]), used, len(times)


def main() -> None:
    """Print all ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", action="store_true", help="only two workers against one")
    options = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # Beam starts `python`
    with tempfile.TemporaryDirectory() as folder:
        photos, model = Path(folder, "photos"), str(Path(folder, "model"))
        photos.mkdir()
        draw(photos, options.images)
        keras.utils.set_random_seed(0)
        encoder = create_encoder("efficientnet_lite0", image_size=SIDE, embedding_size=128)
        export_encoder(encoder, model, RecordSpec(SIDE))
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", flush=True)
        if not options.workers:
            one_against_loop(photos, model, options.images, options.rounds)
        os.environ[THREADS], bulk._SHARD = "1", 64
        one, two = (by_workers(photos, model, workers) for workers in (1, 2))
        print(f"one worker {one[0]:.1f} images/s, {one[1]:.0f} CPU s; two {two[0]:.1f} images/s, {two[1]:.0f} CPU s")
        print(f"two workers: {two[0] / one[0]:.2f} x one (target: 1.70); load {os.getloadavg()[0]:.1f}")
        print(f"two cores: {cores_together():.2f} x the products of matrices of one")


if __name__ == "__main__":
    main()
