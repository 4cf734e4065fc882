#!/bin/sh
# NNCodec (ISO/IEC 15938-17 with DeepCABAC) and svdo on one checkpoint: the same whole numbers under both
# coders, then both frontiers, plotted as $FRONTIER_SVG if that is set.
#   nncodec.sh CHECKPOINT.safetensors IMAGES.idx[.gz] LABELS.idx[.gz] [IMAGES-TO-CALIBRATE-WITH]
# Installs NNCodec from PyPI into its own environment, $NNCODEC_ENV or target/nncodec; svdo is
# $SVDO or target/release/svdo.
set -eu
here=$(dirname "$0")
env=${NNCODEC_ENV:-$here/../../target/nncodec}
[ -x "$env/bin/python" ] || python3 -m venv "$env"
"$env/bin/python" -c 'import nncodec' 2>/dev/null || "$env/bin/pip" install -q nncodec==2.1.3
export SVDO="${SVDO:-$here/../../target/release/svdo}"
"$env/bin/python" "$here/nncodec_integers.py" "$1"
exec "$env/bin/python" "$here/nncodec_frontier.py" "$@"
