"""CPU time and memory of each node per item, for the page of scale: `python tests/benchmarks/nodes.py`.

Runs what the Beam nodes do with one shard, in this process, and counts CPU time, which does not depend on what
else the machine does. The images are JPEG files of 256 x 256 pixels, the encoder is EfficientNet-Lite0 at 96 x 96.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from embedding import draw

from anchorage import MetricLearner
from anchorage.data.examples import Example, ExampleShard, write_shard
from anchorage.data.images import decode_checked, hash_pixels
from anchorage.data.listing import list_images
from anchorage.data.packing import decode_records
from anchorage.data.store import RecordSpec
from anchorage.data.store import write_shard as write_records
from anchorage.encoders import create_encoder
from anchorage.losses import ProxyNCALoss
from anchorage.retrieval.index import save_index
from anchorage.retrieval.index_building import build_index
from anchorage.serving.export import export_encoder
from anchorage_components.beam.embedding import Embedder, Item

SIDE, CLASSES, DIM = 96, 100, 128


def report(name, items, work, per=1e3, unit="ms"):
    """Print the CPU time of some work per item, and how much memory the process gained; return the result."""
    memory, start = resident(), time.process_time()
    result = work()
    used = time.process_time() - start
    print(
        f"{name}: {per * used / items:.4g} CPU {unit} per item, {(resident() - memory) / items:,.0f} bytes", flush=True
    )
    return result


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def list_table(folder: Path, rows: int) -> None:
    """Listing of a table, which the ingestion keeps in memory."""
    lines = [
        f"class-{row % 1000:04}/{row:09}.jpg,class-{row % 1000:04},{'test' if row % 2 else 'train'}"
        for row in range(rows)
    ]
    (folder / "table.csv").write_text("\n".join(["path,label,split", *lines]))
    report("listing", rows, lambda: list_images(folder, folder / "table.csv", val_share=0.15, test_share=0.5, seed=0))


def main() -> None:
    """Print one line per node."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 100_000], help="sizes of the index")
    options = parser.parse_args()
    count = options.images
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        list_table(folder, 100_000)
        photos = folder / "photos"
        photos.mkdir()
        draw(photos, count)
        files = sorted(photos.iterdir())

        def ingest() -> ExampleShard:
            def examples():
                for number, path in enumerate(files):
                    data = path.read_bytes()
                    pixels, _ = decode_checked(data, max_pixels=10**8)
                    yield Example(path.name, str(number % CLASSES), "both", data, (), hash_pixels(pixels))

            return write_shard(str(folder / "examples"), "Split-test/data_tfrecord-00000-of-00001.gz", examples())

        shard = report("ingestion", count, ingest)
        from anchorage.data.examples import read_examples

        def read():
            return read_examples(str(folder / "examples"), ExampleShard(*shard))

        report("audit", count, lambda: [(each.pixels, each.id, each.label) for each in read()])
        spec = RecordSpec(SIDE)
        report("packing", count, lambda: write_records(folder / "store", 0, decode_records(read(), spec)))
        keras.utils.set_random_seed(0)
        encoder = create_encoder("efficientnet_lite0", image_size=SIDE, embedding_size=DIM)
        export_encoder(encoder, str(folder / "model"), spec)
        embedder = Embedder(str(folder / "model"), "")

        def embed():
            items = (Item(e.id, e.id, e.label, e.role, "test", e.content) for e in read())
            embedder.write(items, str(folder), "vectors-0")

        embed()
        report("embedding", count, embed)
        images = np.random.default_rng(0).integers(0, 256, (512, SIDE, SIDE, 3), np.uint8)
        labels = np.arange(512) % CLASSES
        learner = MetricLearner(encoder, ProxyNCALoss(num_classes=CLASSES))
        learner.compile("adam")
        learner.fit(images[:128], labels[:128], batch_size=64, verbose=0)
        report("training", 512, lambda: learner.fit(images, labels, batch_size=64, verbose=0))
        for rows in options.rows:
            random = np.random.default_rng(0)
            vectors = random.normal(size=(rows // 20, DIM)).repeat(20, 0) + random.normal(size=(rows, DIM))
            vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")
            index = report(f"index of {rows:,}", rows, lambda vectors=vectors: build_index(vectors, neighbors=10))
            save_index(index, folder / f"index-{rows}", vectors)
            size = sum(path.stat().st_size for path in (folder / f"index-{rows}").rglob("*"))
            print(f"  {size / rows:,.0f} bytes per item on disk, recall {index.facts['recall']:.3f}", flush=True)
        print(f"largest: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
