#!/usr/bin/env bash
# Everything that must hold before a change lands: style and the whole test suite, the smoke check included.
source "$(dirname "$0")/setup.sh"
set_up requirements.txt requirements-dev.txt

export HF_HUB_OFFLINE=1 # the suite needs no Hub, and must not wait for one
ruff check .
ruff format --check .
python -m pytest "$@"
