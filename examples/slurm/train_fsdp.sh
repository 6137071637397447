#!/bin/bash
# A training on several machines under Slurm, its language model sharded over all GPUs (run.parallel, PyTorch's
# FSDP2). Submit it from the folder of this repository:
#   sbatch examples/slurm/train_fsdp.sh train_configs/recipes/maira.yaml run.output_dir=output/maira
# A job that was stopped (time limit, a machine that failed) resumes when it is submitted once more, with as many
# machines and GPUs as before: run.resume_ckpt_path=auto finds its last checkpoint, and begins anew without one.

#SBATCH --job-name=xraygpt
#SBATCH --nodes=2                  # machines
#SBATCH --ntasks-per-node=1        # one torchrun each, which starts a process for each GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64         # cores of a machine: processes that load data share them
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log

set -euo pipefail

if [[ $# -lt 1 ]]; then
    echo "usage: sbatch $0 CONFIG.yaml [section.key=value ...]" >&2
    exit 2
fi
config=$1
shift

# The environment with xraygpt, on a disk that all machines see, as are data, weights and run.output_dir.
source "${XRAYGPT_VENV:-.venv}/bin/activate"

# One of the machines is the meeting place of all; the number of the job keeps jobs apart.
meeting_place=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))

export OMP_NUM_THREADS=1

# --kill-on-bad-exit: when one machine fails, the others end too instead of waiting for it.
srun --kill-on-bad-exit=1 torchrun \
    --nnodes="$SLURM_NNODES" \
    --nproc-per-node="$SLURM_GPUS_ON_NODE" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$meeting_place:$port" \
    --rdzv-id="$SLURM_JOB_ID" \
    train.py --cfg-path "$config" --options \
    run.parallel.strategy=fsdp \
    run.num_workers=auto \
    run.resume_ckpt_path=auto \
    "$@"
