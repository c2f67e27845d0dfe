"""Pictures a second through a convolutional tower on the CPU, with glibc's memory handed back and kept.

python benchmarks/memory_kept.py --model tf_efficientnet_lite0 --side 224 --batch 64
"""

import argparse
import time
from contextlib import nullcontext

import timm
import torch

from skufp_pipeline.compute import freed_memory_kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tf_efficientnet_lite0", help="timm's name")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tower = timm.create_model(options.model, num_classes=0).eval()
    pixels = torch.zeros(options.batch, 3, options.side, options.side)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    for name, memory in (("handed back", nullcontext()), ("kept", freed_memory_kept())):
        with memory, torch.inference_mode():
            tower(pixels)
            started, count = time.perf_counter(), 0
            while time.perf_counter() - started < options.seconds:
                tower(pixels)
                count += len(pixels)
            print(f"{name}: {count / (time.perf_counter() - started):.1f} pictures/s")


if __name__ == "__main__":
    main()
