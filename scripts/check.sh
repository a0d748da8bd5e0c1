#!/usr/bin/env bash
# Everything that must hold before a change lands: style and the whole test suite, the smoke check included.
source "$(dirname "$0")/setup.sh"
set_up requirements.txt requirements-dev.txt

# The report is tested in Debian's Chromium. If it cannot be installed, those tests are skipped.
if ! command -v chromedriver >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "Installing chromium ..."
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver; } \
        >/dev/null 2>&1 || echo "chromium could not be installed: the tests that open the report are skipped." >&2
fi

# Its accessibility is checked by axe-core. Without npm that test is skipped.
AXE=axe-core@4.14.1
if command -v npm >/dev/null && ! grep -qs "\"version\": \"${AXE#*@}\"" .venv/node_modules/axe-core/package.json; then
    npm install --silent --prefix .venv --no-save --no-package-lock "$AXE" >/dev/null 2>&1 ||
        echo "axe-core could not be installed: the report's accessibility is not tested." >&2
fi

export HF_HUB_OFFLINE=1 # the tests need no Hub and must not wait for one
ruff check .
ruff format --check .
python -m pytest -n 2 --dist loadfile "$@" # two files at a time, a core each
