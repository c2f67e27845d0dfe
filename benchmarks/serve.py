"""How fast the service is, and what it does at four times the load that it can carry, over loopback:

python benchmarks/serve.py --preset demo --json serve.json --plot serve.png
python benchmarks/serve.py --preset demo --only overload --minutes 10 --json flat.json

The service runs as `skufp serve` does, in a process of its own, without rate limits; this process is the
load. One client: each request waits for the answer before. Closed loop: `--clients` of them at once; their
rate is what the service carries. Overload: requests start at random times (a Poisson process) of four times
that rate, whether or not others are answered, and a time is from the moment a request was meant to start:
what the load itself is late by counts too.
"""

import asyncio
import io
import json
import multiprocessing
import os
import resource
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import Any

import click
import h11
import numpy as np
import psutil
from PIL import Image

from skufp_pipeline.evaluation.latency import processor_name
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.store import ArtifactStore

Content = tuple[bytes, bytes]  # of a request: path and body
PHOTO = "multipart/form-data; boundary=skufp-benchmark"
TIMES = 4  # the load, in what the service carries
IN_FLIGHT = 512  # requests of the load at once, at most
SHARES = {"upload": 0.4, "box": 0.4, "text": 0.2}  # of the mixed load
TEXTS = ("a red dress", "a striped shirt", "blue shorts", "a long sleeve top with a print")


# -- the service ---------------------------------------------------------------------------------------------


def _serve(preset: Preset, listening: socket.socket) -> None:
    from skufp_pipeline.serving.server import run

    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # a line a request
    run(preset, ArtifactStore(preset.data_root), listening)


@dataclass(frozen=True)
class Running:
    """A service at work: its port, its process, seconds from the process's start to the first answer."""

    port: int
    process: psutil.Process
    ready_s: float

    def megabytes(self) -> float:
        """Resident memory, 10^6 bytes."""
        return float(self.process.memory_info().rss) / 1e6

    def cpu_ms(self) -> float:
        """Processor time of all its threads so far; unlike times of answers hardly more on a busy machine."""
        found = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(path.read_text().split()[0]) for path in found) / 1e6


@contextmanager
def service(preset: Preset, **settings: Any) -> Iterator[Running]:
    """Runs the service of a preset, with other serving settings, in a process of its own."""
    unlimited = {"rate": "10000/second", "upload_rate": "10000/second", **settings}
    preset = preset.model_copy(update={"serving": preset.serving.model_copy(update=unlimited)})
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    port = listening.getsockname()[1]
    child = multiprocessing.get_context("spawn").Process(target=_serve, args=(preset, listening))
    started = time.perf_counter()
    child.start()
    listening.close()
    try:
        while not asyncio.run(_is_ready(port)):
            if not child.is_alive():
                raise click.ClickException("the service has ended; `skufp serve` says why")
            time.sleep(0.05)
        yield Running(port, psutil.Process(child.pid), time.perf_counter() - started)
    finally:
        child.terminate()
        child.join(30)


async def _is_ready(port: int) -> bool:
    client = Http(port)
    try:
        status, body = await client.get("/v1/service")
        return status == 200 and bool(json.loads(body)["indexes"])
    except OSError:
        return False
    finally:
        client.close()


class Http:
    """One connection to the service, kept open, one request at a time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._protocol = h11.Connection(h11.CLIENT)

    async def post(self, path: str, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
        headers = [("content-type", kind), ("content-length", str(len(body)))]
        return await self._ask("POST", path, headers, body)

    async def get(self, path: str) -> tuple[int, bytes]:
        return await self._ask("GET", path, [], b"")

    def close(self) -> None:
        if self._stream is not None:
            self._stream[1].close()
        self._stream, self._protocol = None, h11.Connection(h11.CLIENT)

    async def _ask(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[int, bytes]:
        is_used = self._stream is not None
        try:
            return await self._exchange(method, path, headers, body)
        except (OSError, h11.ProtocolError):
            answering = self._protocol.their_state is h11.SEND_BODY
            self.close()
            if not is_used or answering:
                raise
        # The service ends connections that nobody uses; it may do so while a request is on its way.
        return await self._exchange(method, path, headers, body)

    async def _exchange(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[int, bytes]:
        if self._stream is None:
            self._stream = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._stream
        request = h11.Request(method=method, target=path, headers=[("host", "localhost"), *headers])
        events = [request, *([h11.Data(data=body)] if body else []), h11.EndOfMessage()]
        writer.write(b"".join(self._protocol.send(event) or b"" for event in events))
        status, content = 0, b""
        while True:
            event = self._protocol.next_event()
            if event is h11.NEED_DATA:
                self._protocol.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                content += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError("the service closed the connection")
        if self._protocol.our_state is h11.DONE and self._protocol.their_state is h11.DONE:
            self._protocol.start_next_cycle()
        else:
            self.close()
        return status, content


def upload_body(photo: bytes) -> bytes:
    return (
        b"--skufp-benchmark\r\n"
        b'Content-Disposition: form-data; name="photo"; filename="photo"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + photo + b"\r\n--skufp-benchmark--\r\n"
    )


# -- requests ------------------------------------------------------------------------------------------------


@dataclass
class Material:
    """What requests are made of: photos, some as JPEGs of 12 megapixels, SKUs and a category of the index."""

    photos: list[bytes]
    large: list[bytes]
    sku_ids: list[str]
    category: str

    @classmethod
    def of(cls, preset: Preset, count: int) -> "Material":
        """Takes the first customers' photos of the data set, and SKUs of the index."""
        from skufp_pipeline.artifacts.places import IMAGE_TEXT, RAW_DATASET

        store = ArtifactStore(preset.data_root)
        root = preset.dataset.root(RAW_DATASET.read(store).path)
        queries = IMAGE_TEXT.read(store, 0).images().filter(domain="query")
        paths = queries["orig_image_path"].unique(maintain_order=True).head(count)
        photos = [(Path(root) / path).read_bytes() for path in paths]
        index = current_index(store)[1]
        categories = index.skus["category_name"].value_counts(sort=True)
        large = [enlarged(photo) for photo in photos[:2]]
        return cls(photos, large, index.sku_ids.head(count).to_list(), categories["category_name"][0])


def enlarged(photo: bytes) -> bytes:
    """The photo as a camera's JPEG of 4000 x 3000 pixels, with its noise."""
    image = Image.open(io.BytesIO(photo)).convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).integers(0, 12, (3000, 4000, 1), np.uint8)
    written = io.BytesIO()
    Image.fromarray(np.maximum(np.asarray(image), noise) - noise).save(written, format="JPEG", quality=85)
    return written.getvalue()


class Asker:
    """One client: sends requests of a kind and raises on any answer but a good one."""

    def __init__(self, port: int, material: Material) -> None:
        self.http, self.material = Http(port), material
        self.photos, self.large = cycle(material.photos), cycle(material.large)
        self.texts, self.skus = cycle(TEXTS), cycle(material.sku_ids)
        self.kept: list[tuple[str, int, int]] = []
        self.number = 0

    async def prepare(self) -> None:
        """Uploads photos whose ids later requests use."""
        self.kept = [await self.upload(photo) for photo in self.material.photos[:20]]

    async def upload(self, photo: bytes) -> tuple[str, int, int]:
        status, body = await self.http.post("/v1/photos", upload_body(photo), PHOTO)
        answer = good(status, body)
        return answer["photo_id"], answer["width"], answer["height"]

    async def search(self, **asked: Any) -> dict[str, Any]:
        return good(*await self.http.post("/v1/search", json.dumps(asked).encode()))

    async def ask(self, kind: str) -> None:
        """Sends what one user's action is: a request, or an upload and the search of it."""
        self.number += 1
        photo_id, width, height = self.kept[self.number % len(self.kept)]
        if kind == "photo":
            await self.search(photo_id=(await self.upload(next(self.photos)))[0])
        elif kind == LARGE:
            await self.search(photo_id=(await self.upload(next(self.large)))[0])
        elif kind == "photo again":
            await self.search(photo_id=photo_id)
        elif kind == "text, cached":
            await self.search(text=next(self.texts))
        elif kind == "photo and text":
            await self.search(photo_id=photo_id, text=next(self.texts), text_weight=0.3)
        elif kind == "like":
            await self.search(like=[next(self.skus)])
        elif kind == "filter":
            await self.search(photo_id=photo_id, where={"category_name": [self.material.category]})
        elif kind == "box":
            await self.search(photo_id=photo_id, box=moved_box(self.number, width, height))
        else:
            raise ValueError(kind)


LARGE, LARGE_SHARE = "photo, 12 megapixels", 0.2  # of `--requests`: they are slow
KINDS = ("photo", "photo again", "text, cached", "photo and text", "like", "filter", "box", LARGE)


def moved_box(number: int, width: int, height: int) -> list[int]:
    """A box that is another one each time, so that no answer is kept from before."""
    left, top = number % max(width // 4, 1), number // 7 % max(height // 4, 1)
    return [left, top, left + width // 2 + number % 5, top + height // 2]


def good(status: int, body: bytes) -> dict[str, Any]:
    if status >= 400:
        raise click.ClickException(f"the service answered {status}: {body.decode()}")
    return dict(json.loads(body))


# -- measuring -----------------------------------------------------------------------------------------------


async def one_client(running: Running, material: Material, requests: int) -> dict[str, dict[str, float]]:
    """Times of each kind, milliseconds, one request after the other, the kinds in turns, large photos
    last; `cpu_ms`: of the service, on average."""
    asker = Asker(running.port, material)
    await asker.prepare()
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    spent = dict.fromkeys(KINDS, 0.0)
    for kind in KINDS:
        await asker.ask(kind)
    await asker.prepare()  # large photos may have taken the place of those that were kept
    turns = [kind for _ in range(requests) for kind in KINDS if kind != LARGE]
    for kind in [*turns, *[LARGE] * ceil(requests * LARGE_SHARE)]:
        began, before = time.perf_counter(), running.cpu_ms()
        await asker.ask(kind)
        times[kind].append((time.perf_counter() - began) * 1000)
        spent[kind] += running.cpu_ms() - before
    return {kind: {**percentiles(found), "cpu_ms": spent[kind] / len(found)} for kind, found in times.items()}


async def closed_loop(port: int, material: Material, clients: int, seconds: float, kind: str) -> float:
    """Requests a second of `clients` at once: of a kind, or `mixed`, single requests as the load has them."""
    askers = [Asker(port, material) for _ in range(clients)]
    for asker in askers:
        await asker.prepare()
    until, done = time.perf_counter() + seconds, 0

    async def work(number: int, asker: Asker) -> None:
        nonlocal done
        kinds = cycle(mixed_kinds(1000, seed=number))
        while time.perf_counter() < until:
            if kind == "mixed" and (single := next(kinds)) == "upload":
                await asker.upload(next(asker.photos))
            else:
                await asker.ask(NAMES[single] if kind == "mixed" else kind)
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(work(number, asker) for number, asker in enumerate(askers)))
    return done / (time.perf_counter() - began)


NAMES = {"box": "box", "text": "text, cached"}


def mixed_kinds(count: int, seed: int) -> list[str]:
    drawn = np.random.default_rng(seed).choice(list(SHARES), count, p=list(SHARES.values()))
    return [str(kind) for kind in drawn]


@dataclass(frozen=True)
class Sent:
    """One request of the load: when it was meant to start, how late it did, when it ended (s), its status."""

    planned: float
    late: float
    ended: float
    status: int


async def open_loop(
    running: Running, material: Material, rate: float, seconds: float
) -> tuple[list[Sent], list[tuple[float, float]], int]:
    """Sends a Poisson process of requests; returns them, (second, megabytes) samples, and how many were not
    sent because too many were under way."""
    asker = Asker(running.port, material)
    await asker.prepare()
    kept = deque(asker.kept, maxlen=50)
    draw = np.random.default_rng(1)
    starts = np.cumsum(draw.exponential(1 / rate, int(rate * seconds)))
    bodies = [upload_body(photo) for photo in material.photos]
    idle: list[Http] = []
    sent: list[Sent] = []
    memory: list[tuple[float, float]] = []
    began = time.perf_counter()

    async def send(number: int, kind: str, planned: float) -> None:
        http = idle.pop() if idle else Http(running.port)
        photo_id, width, height = kept[number % len(kept)]
        late = time.perf_counter() - began - planned
        try:
            if kind == "upload":
                status, body = await http.post("/v1/photos", bodies[number % len(bodies)], PHOTO)
                if status == 201:
                    answer = json.loads(body)
                    kept.append((answer["photo_id"], answer["width"], answer["height"]))
            else:
                asked: dict[str, Any] = {"text": TEXTS[number % len(TEXTS)]}
                if kind == "box":
                    asked = {"photo_id": photo_id, "box": moved_box(number, width, height)}
                status, _ = await http.post("/v1/search", json.dumps(asked).encode())
            idle.append(http)
        except (OSError, h11.ProtocolError):
            status = 0
        sent.append(Sent(planned, late, time.perf_counter() - began, status))

    async def watch() -> None:
        while True:
            memory.append((time.perf_counter() - began, running.megabytes()))
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    tasks: set[asyncio.Task[None]] = set()
    dropped = 0
    for number, (planned, kind) in enumerate(zip(starts, mixed_kinds(len(starts), seed=2), strict=True)):
        if (ahead := began + planned - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        if len(tasks) >= IN_FLIGHT:
            dropped += 1
            continue
        task = asyncio.create_task(send(number, kind, float(planned)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    watching.cancel()
    return sent, memory, dropped


def summary(sent: Sequence[Sent], memory: Sequence[tuple[float, float]], seconds: float) -> dict[str, Any]:
    """The load's result: statuses, times of accepted and refused requests, memory over time."""
    statuses = Counter(each.status for each in sent)

    def times(chosen: Callable[[int], bool]) -> dict[str, float]:
        return percentiles([(each.ended - each.planned) * 1000 for each in sent if chosen(each.status)])

    second_half = [megabytes for second, megabytes in memory if second > seconds / 2]
    return {
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "accepted": times(lambda status: 200 <= status < 300),
        "refused": times(lambda status: status == 429),
        "accepted_per_s": sum(200 <= each.status < 300 for each in sent) / seconds,
        "server_errors": sum(each.status >= 500 or each.status == 0 for each in sent),
        "load_late_ms": percentiles([each.late * 1000 for each in sent]),
        "memory_mb": {
            "first": memory[0][1],
            "most": max(megabytes for _, megabytes in memory),
            "half_time": second_half[0],
            "last": second_half[-1],
        },
    }


def percentiles(times: Sequence[float]) -> dict[str, float]:
    if not times:
        return {"count": 0}
    p50, p95, p99 = np.quantile(times, [0.5, 0.95, 0.99])
    return {"count": len(times), "p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}


def machine() -> dict[str, Any]:
    return {"processor": processor_name(), "cores": os.cpu_count(), "load_average": os.getloadavg()}


def plot(sent: Sequence[Sent], memory: Sequence[tuple[float, float]], path: Path) -> None:
    """Draws accepted and refused requests by their times, and the service's memory below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for name, chosen in (
        ("accepted", range(200, 300)),
        ("refused (429)", (429,)),
        ("failed", (0, *range(500, 600))),
    ):
        found = [each for each in sent if each.status in chosen]
        above.plot(
            [each.planned for each in found],
            [(each.ended - each.planned) * 1000 for each in found],
            ".",
            markersize=2,
            label=f"{name}: {len(found)}",
        )
    above.set(yscale="log", ylabel="ms from the intended start")
    above.legend(markerscale=4)
    below.plot(*zip(*memory, strict=True))
    below.set(xlabel="s", ylabel="memory, MB", ylim=(0, 1.1 * max(megabytes for _, megabytes in memory)))
    figure.savefig(path, dpi=120)


@click.command()
@click.option("--preset", "name", default="demo", show_default=True)
@click.option("--only", type=click.Choice(["one", "closed", "overload"]), help="By default all three.")
@click.option("--requests", default=200, show_default=True, help="Of each kind, by one client.")
@click.option("--clients", default=4, show_default=True, help="Of the closed loop.")
@click.option("--minutes", default=1.0, show_default=True, help="Of overload.")
@click.option("--photos-megabytes", default=64.0, show_default=True, help="Photos that the service keeps.")
@click.option("--json", "report", type=click.Path(path_type=Path))
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Of the overload.")
def main(
    name: str,
    only: str | None,
    requests: int,
    clients: int,
    minutes: float,
    photos_megabytes: float,
    report: Path | None,
    picture: Path | None,
) -> None:
    """Measure the service of a preset whose graph is materialized."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
    preset = load_preset(name)
    material = Material.of(preset, 200)
    found: dict[str, Any] = {"preset": preset.name, "machine": machine()}
    with service(preset, photos_megabytes=photos_megabytes) as running:
        found["ready_s"] = running.ready_s
        click.echo(f"ready after {running.ready_s:.1f} s", err=True)
        if only in (None, "one"):
            found["one_client"] = asyncio.run(one_client(running, material, requests))
        if only != "one":
            for kind in ("photo", "mixed"):
                found[f"closed_loop_{kind}_per_s"] = asyncio.run(
                    closed_loop(running.port, material, clients, 10, kind)
                )
        if only in (None, "overload"):
            click.echo("overload", err=True)
            rate, seconds = TIMES * found["closed_loop_mixed_per_s"], 60 * minutes
            sent, memory, dropped = asyncio.run(open_loop(running, material, rate, seconds))
            found["overload"] = {"rate_per_s": rate, "seconds": seconds, "not_sent": dropped}
            found["overload"] |= summary(sent, memory, seconds)
            if picture is not None:
                plot(sent, memory, picture)
    text = json.dumps(found, indent=1)
    click.echo(text)
    if report is not None:
        report.write_text(text + "\n")


if __name__ == "__main__":
    main()
