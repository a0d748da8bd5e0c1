#!/usr/bin/env bash
# Everything that wants a GPU, in one call and under ten minutes on one card; its output is its report.
#   bash scripts/try_gpu.sh          # DEVICE=cpu runs what a CPU can take
set -uo pipefail
cd "$(dirname "$0")/.."
[ -f .venv/bin/activate ] && source .venv/bin/activate
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}
device=${DEVICE:-cuda}
out=$(mktemp -d)
failed=0

step() { # name, command...
    echo "== $1"
    shift
    "$@" || { failed=1; echo "FAILED: $*"; }
}

[ "$device" = cpu ] || nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
step "engine, lens and memory tests, three dtypes" env TEST_DEVICE="$device" python -m pytest tests/test_device.py
step "demo" python experiment.py --device "$device" --out_dir "$out/demo" --quiet
step "demo is verified" python viz.py verify --debug_file "$out"/demo/*/*_debug.json
for dtype in bfloat16 float16; do
    step "$dtype" python experiment.py --device "$device" --dtype $dtype --target quiz posts --distractor reviews \
        --limit 6 --max_len 2 --out_dir "$out/$dtype" --quiet
done
step "two processes on one device" torchrun --nproc_per_node 2 experiment.py --device "$device" \
    --target quiz --distractor reviews --limit 6 --max_len 2 --out_dir "$out/two" --quiet
step "tokens/s against the peak" python scripts/bench.py --throughput --device "$device" \
    --task quiz --distractor reviews --max_len 4 --n 2 --repeats 2
rm -rf "$out"
exit $failed
