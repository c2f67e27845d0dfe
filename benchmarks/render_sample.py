"""Images per second of the sample renderer on one core: python benchmarks/render_sample.py [num_skus]."""

import sys
import tempfile
import time
from pathlib import Path

from skufp_pipeline.datasets.sample import SampleSettings, render_sample


def main() -> None:
    settings = SampleSettings(num_skus=int(sys.argv[1]) if len(sys.argv) > 1 else 100, workers=1)
    with tempfile.TemporaryDirectory() as folder:
        start, cpu_start = time.perf_counter(), time.process_time()
        summary = render_sample(settings, Path(folder))
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    images = sum(summary.images.values())
    print(f"{images} images of {settings.image_size} px on one process, {summary}")
    print(f"{images / seconds:.0f} images/s by the clock, {images / cpu_seconds:.0f} per second of CPU time")


if __name__ == "__main__":
    main()
