#!/usr/bin/env bash
# SLURM: one process a GPU on any number of nodes.   sbatch --nodes=2 launch/slurm.sh [--config.KEY=VALUE ...]
# WORKDIR and the data lie where all nodes see them. DRY_RUN=1 bash launch/slurm.sh shows what would run.
#SBATCH --job-name=vpvae_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
set -euo pipefail

CONFIG=${CONFIG:-configs/coco.py:quantizer=vp,codebook_size=16384}
WORKDIR=${WORKDIR:-runs/coco}
PYTHON=${PYTHON:-python3}
DRY_RUN=${DRY_RUN:-}

# JAX learns from SLURM who the processes are; each takes the GPU of its number on the node.
command=(srun --kill-on-bad-exit=1 "--cpus-per-task=${SLURM_CPUS_PER_TASK:-8}"
    "$PYTHON" -m vpvae_jax.main --distributed "--config=$CONFIG" "--workdir=$WORKDIR" "$@")
if [[ -n $DRY_RUN ]]; then
    printf '%q ' "${command[@]}"
    echo
    exit
fi
"${command[@]}"
# Ended well but not done: SIGTERM came, 300 s before the time was up. An error does not come here.
if [[ ! -f $WORKDIR/done.json ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
