#!/usr/bin/env bash
# The batch: every pair of the tasks for one model, in one process with one model load.
#   bash scripts/test.sh                                    # the bundled model on the embedded tasks
#   MODEL=Qwen/Qwen2.5-7B-Instruct bash scripts/test.sh     # the Hub's three tasks
#   MODEL=... TASKS="mmlu/test tweetqa" OUT_DIR=big bash scripts/test.sh --max_len 8 --limit 500
# All further arguments are passed to experiment.py.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f .venv/bin/activate ] && source .venv/bin/activate

if [ -n "${MODEL:-}" ]; then
    model=(--model "$MODEL")
    TASKS=${TASKS:-mmlu rotten_tomatoes tweetqa}
else
    model=()
    TASKS=${TASKS:-quiz reviews posts}
fi
read -ra tasks <<<"$TASKS"
exec python experiment.py "${model[@]}" --target "${tasks[@]}" --distractor "${tasks[@]}" \
    --out_dir "${OUT_DIR:-results}" "$@"
