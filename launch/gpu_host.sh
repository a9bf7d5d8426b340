#!/usr/bin/env bash
# One host with any number of GPUs, or none: one process uses them all.
# CONFIG is the name of a config or a file, with its argument. DRY_RUN=1 prints the command without running it.
# SIGTERM saves and ends the run; the same command resumes it.
set -euo pipefail

CONFIG=${CONFIG:-coco:quantizer=vp,codebook_size=16384}
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
