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

# The source distribution stands alone: its manifests parse, and what they build is in it (the tests and
# benches of the root are not).
rm -rf "$target/sdist"
"$venv/bin/maturin" sdist --out "$target/sdist" > /dev/null
tar -xzf "$target"/sdist/*.tar.gz -C "$target/sdist" --strip-components 1
(cd "$target/sdist" && cargo metadata --locked --no-deps --format-version 1 \
    --manifest-path bindings/python/Cargo.toml) | "$venv/bin/python" -c '
import json, os, sys
targets = [t for p in json.load(sys.stdin)["packages"] for t in p["targets"]]
sources = [t["src_path"] for t in targets if not {"test", "bench"} & set(t["kind"])]
missing = [path for path in sources if not os.path.exists(path)]
sys.exit(f"the source distribution lacks {missing}" if missing or not sources else 0)'
