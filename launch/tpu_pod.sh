#!/usr/bin/env bash
# A TPU pod slice of Google Cloud: the same command on all its workers.   TPU=my-pod ZONE=us-central2-b launch/tpu_pod.sh
# The package is installed on each worker in DIRECTORY (pip install -e '.[tpu]'); WORKDIR and the data are on a file
# system that all workers mount. DRY_RUN=1 prints the command without running it.
set -euo pipefail

TPU=${TPU:?name of the TPU VM}
ZONE=${ZONE:?zone of the TPU VM}
DIRECTORY=${DIRECTORY:-vpvae_jax}
CONFIG=${CONFIG:-coco:quantizer=vp,codebook_size=16384}
WORKDIR=${WORKDIR:-/mnt/runs/coco}
PYTHON=${PYTHON:-python3}
DRY_RUN=${DRY_RUN:-}

printf -v words '%q ' "$PYTHON" -m vpvae_jax.main --distributed "--config=$CONFIG" "--workdir=$WORKDIR" "$@"
printf -v there 'cd %q && exec %s' "$DIRECTORY" "$words"
command=(gcloud compute tpus tpu-vm ssh "$TPU" "--zone=$ZONE" --worker=all "--command=$there")
if [[ -n $DRY_RUN ]]; then
    printf '%q ' "${command[@]}"
    echo
    exit
fi
exec "${command[@]}"
