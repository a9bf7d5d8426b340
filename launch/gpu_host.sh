#!/usr/bin/env bash
# One host with any number of GPUs, or none: one process uses them all.
# DRY_RUN=1 shows what would run. SIGTERM saves and ends; the same command goes on.
set -euo pipefail

CONFIG=${CONFIG:-configs/coco.py:quantizer=vp,codebook_size=16384}
WORKDIR=${WORKDIR:-runs/coco}
PYTHON=${PYTHON:-python3}
DRY_RUN=${DRY_RUN:-}

command=("$PYTHON" -m vpvae_jax.main "--config=$CONFIG" "--workdir=$WORKDIR" "$@")
if [[ -n $DRY_RUN ]]; then
    printf '%q ' "${command[@]}"
    echo
    exit
fi
exec "${command[@]}"
