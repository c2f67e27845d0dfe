"""Uploads damaged photos and broken bodies to a running service: does it ever fail, or stop?

    skufp serve --preset demo &
    python benchmarks/hostile_uploads.py --uploads 10000 --seed 0

Half are images of `mutate_images.py`, half are multipart bodies with changed, cut or added bytes. Prints the
counts by status, and each answer that is neither 201 nor a refusal (4xx as application/problem+json). Exits
with 1 if there is one, or if the service does not answer a good photo at the end.
"""

import argparse
import io
import sys
import time
from collections import Counter
from collections.abc import Sequence
from random import Random

import httpx
from mutate_images import mutated
from PIL import Image

HEADERS = {"content-type": "multipart/form-data; boundary=b"}
PROBLEM = "application/problem+json"


def body_of(content: bytes) -> bytes:
    """A multipart body with a photo."""
    return b'--b\r\nContent-Disposition: form-data; name="photo"\r\n\r\n' + content + b"\r\n--b--\r\n"


def broken(body: bytes, random: Random) -> bytes:
    """A body with bytes changed near its boundaries, cut off, or added."""
    found = bytearray(body)
    edge = 80
    for _ in range(random.choice((1, 2, 8))):
        at = random.choice((random.randrange(edge), len(found) - 1 - random.randrange(min(edge, len(found)))))
        match random.choice(("change", "cut", "add", "repeat")):
            case "change":
                found[at] = random.randrange(256)
            case "cut":
                del found[at : at + random.choice((1, 4, 40))]
            case "add":
                found[at:at] = random.randbytes(random.choice((1, 4, 400)))
            case "repeat":
                found[at:at] = found[: random.randrange(len(found))]
        found = found or bytearray(b"-")
    return bytes(found)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--uploads", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "JPEG")
    good = body_of(buffer.getvalue())
    counts: Counter[int | str] = Counter()
    faults = 0
    started = time.perf_counter()
    with httpx.Client(base_url=options.url, timeout=60) as client:
        for number in range(options.uploads):
            what, content = "body", broken(good, Random(f"{options.seed} {number}"))
            if number % 2:
                what, _, image = mutated(options.seed, number)
                content = body_of(image)
            try:
                answer = client.post("/v1/photos", content=content, headers=HEADERS)
                kind = answer.headers.get("content-type")
                is_fault = answer.status_code != 201 and not (answer.is_client_error and kind == PROBLEM)
                counts[answer.status_code] += 1
            except httpx.HTTPError as error:
                is_fault, answer = True, repr(error)
                counts["no answer"] += 1
            if is_fault:
                faults += 1
                print(f"upload {number} ({what}): {answer}")
        last = client.post("/v1/photos", content=good, headers=HEADERS).status_code
    seconds = time.perf_counter() - started
    told = ", ".join(f"{status}: {count}" for status, count in sorted(counts.items(), key=str))
    print(f"{options.uploads} uploads in {seconds:.0f} s: {told}; {faults} faults; a good photo then: {last}")
    return int(faults > 0 or last != 201)


if __name__ == "__main__":
    sys.exit(main())
