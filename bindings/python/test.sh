#!/usr/bin/env bash
# Builds the wheel, installs it in a virtual environment and runs pytest.
# PYTHON chooses the interpreter. The tests of PyTorch run where the environment has it:
# `target/python/bin/pip install torch`, then run this again.
set -euo pipefail
cd "$(dirname "$0")"

target=${CARGO_TARGET_DIR:-$PWD/../../target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
venv=$target/python
wheels=$target/wheels
export CARGO_TARGET_DIR=$target

[ -x "$venv/bin/pip" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check 'maturin>=1.9.4,<2' numpy pytest
rm -rf "$wheels"
"$venv/bin/maturin" build --release --locked --quiet --out "$wheels"
"$venv/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps "$wheels"/*.whl
"$venv/bin/python" -m pytest "$@"
