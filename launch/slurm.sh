#!/usr/bin/env bash
# SLURM: one process a GPU on any number of nodes.   sbatch --nodes=2 launch/slurm.sh [--config.KEY=VALUE ...]
# WORKDIR and the data are on a file system that all nodes mount. DRY_RUN=1 bash launch/slurm.sh prints the command
# without running it.
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

CONFIG=${CONFIG:-coco:quantizer=vp,codebook_size=16384}
WORKDIR=${WORKDIR:-runs/coco}
PYTHON=${PYTHON:-python3}
DRY_RUN=${DRY_RUN:-}

# JAX asks SLURM for the processes; each uses the GPU with its own number on the node.
command=(srun --kill-on-bad-exit=1 "--cpus-per-task=${SLURM_CPUS_PER_TASK:-8}"
    "$PYTHON" -m vpvae_jax.main --distributed "--config=$CONFIG" "--workdir=$WORKDIR" "$@")
if [[ -n $DRY_RUN ]]; then
    printf '%q ' "${command[@]}"
    echo
    exit
fi
"${command[@]}"
# The run ended without an error but is not done: SIGTERM came 300 s before the time limit. Requeue to resume it.
if [[ ! -f $WORKDIR/done.json ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
