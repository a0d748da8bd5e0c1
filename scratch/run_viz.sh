#!/usr/bin/env bash
# Figures of the results that scripts/test.sh wrote, and a check that their numbers follow from their logs.
#   bash scratch/run_viz.sh                        # results/ -> plots/
#   OUT_DIR=big PLOTS=big_plots bash scratch/run_viz.sh
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f .venv/bin/activate ] && source .venv/bin/activate
out_dir=${OUT_DIR:-results}
python viz.py metric --result_dir "$out_dir" --out_dir "${PLOTS:-plots}"
python viz.py layers --result_dir "$out_dir" --out_dir "${PLOTS:-plots}"
find "$out_dir" -name '*_debug.json*' -print0 | xargs -0 python viz.py verify --brief --debug_file
