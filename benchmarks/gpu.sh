#!/bin/sh
# Measures the GPU work on a machine that has a CUDA GPU and PyTorch, and perhaps no network:
#
#   benchmarks/gpu.sh --pack            where pip works: packs what a CUDA image lacks into build/gpu-packages.tar.xz
#   benchmarks/gpu.sh [RESULTS]         on the GPU machine: the tests marked `cuda` and gpu.py, for 8 minutes;
#                                       gpu.json and gpu.log come to lie in RESULTS (build/gpu)
#
# $MINUTES is another time; PYTHON another interpreter (the packages are of 3.12 and x86-64 Linux: $ABI, $PLATFORM).
set -eu
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
archive=build/gpu-packages.tar.xz

pack() {
    wheels=$(mktemp -d)
    site=$(mktemp -d)
    trap 'rm -rf "$wheels" "$site"' EXIT
    # pip matches platforms by their exact name.
    set -- --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
        --python-version "${ABI:-3.12}" "$@" --dest "$wheels" \
        'diffusers>=0.35,<1' 'open_clip_torch>=3.3,<4' ftfy wcwidth 'polars>=2.1,<3' 'polars-runtime-32>=2.1,<3' \
        'pydantic>=2.11,<3' pydantic-core annotated-types typing-inspection 'platformdirs>=4.4,<5'
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" \
        --python-version "${ABI:-3.12}" --implementation cp --only-binary=:all: "$@" "$wheels"/*.whl
    mkdir -p build
    # xz: polars' library alone is 52 MB as a wheel.
    tar -C "$site" -cf - . | xz -T0 -6 >"$archive.partial"
    mv "$archive.partial" "$archive"
    echo "$archive: $(du -m "$archive" | cut -f1) MB, $(ls "$wheels" | wc -l) packages"
}

if [ "${1:-}" = --pack ]; then
    pack
    exit
fi

results="${1:-build/gpu}"
mkdir -p "$results"
if [ -f "$archive" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    tar -C "$site" -xJf "$archive"
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONUNBUFFERED=1
# A little longer than gpu.py's own minutes: something that can't be interrupted must not hold the machine.
status=0
timeout "$((${MINUTES:-8} * 60 + 60))" "$python" benchmarks/gpu.py --minutes "${MINUTES:-8}" \
    --json "$results/gpu.json" ${GPU_OPTIONS:-} >"$results/gpu.log" 2>&1 || status=$?
tail -n 40 "$results/gpu.log"
exit "$status"
