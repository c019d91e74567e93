"""Time and stress `anchorage serve` as a real process: `python tests/benchmarks/serving.py`.

The release has the network of the icon experiment with random weights, 64 x 64 pixels, and 3,795 items. Measured are

    overhead    an HTTP search against `Searcher.search` in one process, in turns; bar: 3 ms more at the median
    clients     64 connections at once against one; bar: three times the searches per second
    overload    four times as many connections as the bound of the service; bar: refusals with `Retry-After`, and the
                first answer at once within 2 s of its end
    soak        searches, bad requests, writes, switches and two kills for `--soak-seconds`; bar: memory of each process
                flat, every acknowledged write read back

The clients run on the same cores as the service. One JSON document is printed; serving.md reports a run. Filters are
measured by serving_filters.py.
"""

import argparse
import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

if TYPE_CHECKING:
    from anchorage.retrieval.index import Index

SIZE, DIMENSION, ROWS = 64, 128, 3_795
KEY = "a key of the benchmark"


def make_release(folder: Path, seed: int) -> None:
    """Publish a release of random vectors."""
    from anchorage.retrieval.index_building import build_index
    from anchorage.vectors import unit_vectors

    vectors = unit_vectors(np.random.default_rng(seed).normal(size=(ROWS, DIMENSION))).astype(np.float32)
    publish(folder, seed, build_index(vectors), vectors, {})


def publish(folder: Path, seed: int, index: "Index", vectors: np.ndarray, attributes: dict[str, np.ndarray]) -> None:
    """Publish a release with an untrained network, and the ids `id-0`, `id-1`, ...."""
    import keras

    from anchorage.data.store import RecordSpec
    from anchorage.encoders import create_encoder
    from anchorage.release import fingerprint_model, publish_release
    from anchorage.retrieval.index import save_index
    from anchorage.retrieval.table import Embeddings, write_ids
    from anchorage.serving.export import export_encoder

    keras.utils.set_random_seed(seed)
    work = folder / f"made-{seed}"
    encoder = create_encoder("small", image_size=SIZE, embedding_size=DIMENSION, pooling="gem")
    export_encoder(encoder, work / "model", RecordSpec(SIZE))
    fingerprint = fingerprint_model(work / "model")
    facts = {"model_fingerprint": fingerprint, "image_size": SIZE, "fit": "pad"}
    save_index(index, work / "index", **facts)
    names = {name: [f"{name}-{row}" for row in range(len(vectors))] for name in ("id", "label", "role", "split")}
    texts = [np.array(each, object) for each in names.values()]
    write_ids(work / "ids", Embeddings(*texts, vectors, attributes))
    files = {"gallery.parquet": work / "ids"}
    publish_release(
        folder / "releases", model_folder=work / "model", index_folder=work / "index", files=files, facts={}
    )


def draw_pictures(count: int) -> list[bytes]:
    """JPEG pictures of 256 x 256 pixels."""
    from PIL import Image

    pictures = []
    for grid in np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8):
        buffer = io.BytesIO()
        Image.fromarray(grid).resize((256, 256)).save(buffer, "JPEG")
        pictures.append(buffer.getvalue())
    return pictures


class Service:
    """`anchorage serve` on a free port."""

    def __init__(self, releases: Path):
        started = time.monotonic()
        command = [sys.executable, "-m", "anchorage_pipeline.cli", "serve", "--release", str(releases)]
        self.process = subprocess.Popen(
            [*command, "--http", "0", "--json", "--quiet"],
            env={**os.environ, "ANCHORAGE_API_KEY": KEY},
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.rstrip() == "}":
                break
        self.port = int(json.loads("".join(lines))["url"].rpartition(":")[2])
        self.ready_seconds, self.ready_cpu_seconds = time.monotonic() - started, self.cpu_seconds()

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def mebibytes(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


class Client:
    """One HTTP connection that stays open, as cheap as Python makes it."""

    def __init__(self, port: int):
        self.port = port

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = "image/jpeg") -> tuple[int, bytes]:
        if not hasattr(self, "reader"):
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nAuthorization: Bearer {KEY}\r\n"
        self.writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        size = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(answer[9:12]), await self.reader.readexactly(size)

    async def search(self, picture: bytes) -> tuple[int, float]:
        """Status of a search, and its milliseconds."""
        started = time.perf_counter()
        status, _ = await self.ask("POST", "/v1/search?k=10", picture)
        return status, 1000 * (time.perf_counter() - started)

    def close(self) -> None:
        if hasattr(self, "writer"):
            self.writer.close()


def percentiles(milliseconds: list[float]) -> dict[str, float]:
    return {f"p{at}": round(float(np.percentile(milliseconds, at)), 2) for at in (50, 95, 99)}


def measure_overhead(service: Service, releases: Path, pictures: list[bytes], rounds: int = 6) -> dict:
    """Milliseconds of single searches, in process and over HTTP, in turns."""
    from anchorage.serving.searcher import Searcher

    searcher, client = Searcher(releases), Client(service.port)
    inside, outside = [], []
    with asyncio.Runner() as runner:
        for _ in range(rounds):
            for picture in pictures:
                started = time.perf_counter()
                searcher.search([picture], k=10)
                inside.append(1000 * (time.perf_counter() - started))
            outside += [runner.run(client.search(picture))[1] for picture in pictures]
    first = len(pictures)  # the first round warms up
    inside, outside = inside[first:], outside[first:]
    more = round(float(np.median(outside) - np.median(inside)), 2)
    return {"in_process": percentiles(inside), "http": percentiles(outside), "more_at_p50": more}


async def load(service: Service, pictures: list[bytes], clients: int, seconds: float) -> dict:
    """Search from several connections at once; statuses, and milliseconds of the answered ones.

    On a machine with other work only the service's CPU milliseconds per search say something.
    """
    statuses: dict[int, int] = {}
    times: list[float] = []
    end = time.monotonic() + seconds

    async def one(number: int) -> None:
        client = Client(service.port)
        while time.monotonic() < end:
            status, spent = await client.search(pictures[number % len(pictures)])
            statuses[status] = statuses.get(status, 0) + 1
            if status == 200:
                times.append(spent)
            else:
                await asyncio.sleep(1)  # the least that `Retry-After` asks for
        client.close()

    started, cpu = time.monotonic(), service.cpu_seconds()
    await asyncio.gather(*(one(number) for number in range(clients)))
    per_second = round(statuses.get(200, 0) / (time.monotonic() - started), 1)
    return {
        "clients": clients,
        "searches_per_second": per_second,
        "cpu_milliseconds_per_search": round(1000 * (service.cpu_seconds() - cpu) / max(1, len(times)), 2),
        "statuses": statuses,
        **percentiles(times or [0.0]),
    }


async def overload(service: Service, pictures: list[bytes], seconds: float) -> dict:
    """Four times as many clients as the bound, health checks meanwhile, and the time to recover."""
    from anchorage_pipeline.serving.settings import Limits

    async def check() -> list[float]:
        client, spent = Client(service.port), []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            started = time.perf_counter()
            status, _ = await client.ask("GET", "/healthz")
            spent.append(1000 * (time.perf_counter() - started) if status == 200 else float("inf"))
            await asyncio.sleep(0.1)
        return spent

    before = service.mebibytes()
    during, health = await asyncio.gather(load(service, pictures, 4 * Limits.pending, seconds), check())
    ended, client, statuses = time.monotonic(), Client(service.port), []
    while 200 not in statuses:
        statuses.append((await client.search(pictures[0]))[0])
    recovered = time.monotonic() - ended
    memory = {"before": round(before), "after": round(service.mebibytes())}
    return {**during, "health": percentiles(health), "recovered_seconds": round(recovered, 3), "mebibytes": memory}


async def soak(releases: Path, pictures: list[bytes], seconds: float) -> dict:
    """Everything at once, with two kills; reads every acknowledged write back."""
    service = Service(releases)
    expected: dict[str, str | None] = {}
    counts = {"searches": 0, "refused": 0, "writes": 0, "switches": 0, "kills": 0, "unexpected": []}
    memory: list[list[float]] = [[]]
    end, stop = time.monotonic() + seconds, asyncio.Event()

    async def repeat(action, pause: float) -> None:
        client = Client(service.port)
        number = 0
        while not stop.is_set():
            try:
                await action(client, number)
                number += 1
            except (OSError, asyncio.IncompleteReadError, ValueError):  # killed
                await asyncio.sleep(0.2)
                client = Client(service.port)
            await asyncio.sleep(pause)

    async def search(client: Client, number: int) -> None:
        status, _ = await client.search(pictures[number % len(pictures)])
        counts["searches"] += 1
        if status != 200:
            counts["unexpected"].append(status)

    async def bad(client: Client, number: int) -> None:
        body = [b"<html>", pictures[0][:900], b"", b"\xff\xd8\xff" + bytes(5000)][number % 4]
        status, _ = await client.search(body)
        counts["refused"] += 1
        if not 400 <= status < 500:
            counts["unexpected"].append(status)

    async def write(client: Client, number: int) -> None:
        name, label = f"item-{number % 500}", f"label-{number}"
        if number % 7 == 6 and expected.get(name):
            expected[name] = "?"  # unknown until it is acknowledged
            status, _ = await client.ask("DELETE", f"/v1/items/{name}")
            label = None
        else:
            expected[name] = "?"
            status, _ = await client.ask("PUT", f"/v1/items/{name}?label={label}", pictures[number % len(pictures)])
        if status == 200:
            expected[name] = label
            counts["writes"] += 1
        elif status != 404:
            counts["unexpected"].append(status)

    async def switch(client: Client, number: int) -> None:
        body = json.dumps({"version": 1 + number % 2}).encode()
        status, _ = await client.ask("POST", "/v1/releases/current", body, "application/json")
        counts["switches"] += status == 200

    tasks = [asyncio.create_task(repeat(search, 0)) for _ in range(4)]
    tasks += [asyncio.create_task(repeat(*each)) for each in ((bad, 0.05), (write, 0.02), (switch, 5))]
    kills = [time.monotonic() + seconds * share for share in (1 / 8, 1 / 4)]  # most of the time remains for the third
    while time.monotonic() < end:
        await asyncio.sleep(1)
        memory[-1].append(service.mebibytes())
        if kills and time.monotonic() > kills[0]:
            kills.pop(0)
            service.kill()
            counts["kills"] += 1
            service = await asyncio.to_thread(Service, releases)
            memory.append([])
    stop.set()
    await asyncio.gather(*tasks)
    client, lost, certain = Client(service.port), [], 0
    for name, label in expected.items():
        status, body = await client.ask("GET", f"/v1/items/{name}")
        if label == "?":
            continue  # the kill came between the write and its acknowledgement
        certain += 1
        if (json.loads(body)["label"] if status == 200 else None) != label:
            lost.append(name)
    service.kill()
    shown = [[round(value) for value in each[::30]] for each in memory]
    return {**counts, "read_back": certain, "lost": lost, "mebibytes_of_each_process_every_30_s": shown}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="seconds of each load (default: 10)")
    parser.add_argument("--soak-seconds", type=float, default=600, help="seconds of the soak (default: 600)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, pictures = Path(name), draw_pictures(32)
        for seed in (1, 2):
            make_release(folder, seed)
        service = Service(folder / "releases")
        result: dict = {
            "load_of_machine": os.getloadavg()[0],
            "ready": {"seconds": round(service.ready_seconds, 1), "cpu_seconds": round(service.ready_cpu_seconds, 1)},
            "overhead": measure_overhead(service, folder / "releases", pictures),
        }
        for clients in (1, 64):
            result[f"clients_{clients}"] = asyncio.run(load(service, pictures, clients, options.seconds))
        result["overload"] = asyncio.run(overload(service, pictures, options.seconds))
        service.kill()
        if options.soak_seconds:
            result["soak"] = asyncio.run(soak(folder / "releases", pictures, options.soak_seconds))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
