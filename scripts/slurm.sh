#!/usr/bin/env bash
# A Slurm array: each element runs one target task after all distractors, on all GPUs of its node.
#   MODEL=meta-llama/Llama-3.1-70B-Instruct sbatch scripts/slurm.sh --max_len 8 --limit 1000
# After a time limit or a failed node submit the same line again: what was finished is not run again.
# Each element writes into its own folder below OUT_DIR; `viz.py ... --result_dir OUT_DIR` reads all of them.
#SBATCH --job-name=context-switch
#SBATCH --array=0-2
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
[ -f .venv/bin/activate ] && source .venv/bin/activate

read -ra tasks <<<"${TASKS:-mmlu rotten_tomatoes tweetqa}" # as many as the array has elements
target=${tasks[$SLURM_ARRAY_TASK_ID]}
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} # nodes read caches that were filled before, see docs/long_runs.md

# exec: the launcher gets Slurm's SIGTERM and passes it on to every process
exec torchrun --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" --master_port "$((29500 + SLURM_ARRAY_TASK_ID))" \
    experiment.py --model "$MODEL" --target "$target" --distractor "${tasks[@]}" \
    --out_dir "${OUT_DIR:-results}/${target//\//_}" "$@"
