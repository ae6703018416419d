#!/bin/sh
# What the `hf:` engine saves on one GPU, in five minutes, without a network: see gpu.py, which this runs.
#
#     benchmarks/gpu.sh            # randomly initialised Llamas of 1 and 8 billion parameters; 24 GB of GPU memory
#     benchmarks/gpu.sh --tiny     # a very small one on the CPU, in a minute: shows that the script works, no more
#
# No GPU was at hand when this was written: only --tiny has been run, and the aims in gpu.py are not yet measured.
set -eu
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" benchmarks/gpu.py "$@"
