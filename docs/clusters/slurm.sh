#!/usr/bin/env bash
# sbatch docs/clusters/slurm.sh, in a clone on a file system that the nodes share.
# Run ./lockstep --help there once before, where there is a network: it makes the virtual environment.
#SBATCH --job-name=lockstep-train
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=%x-%j.log
set -eu
cd "$SLURM_SUBMIT_DIR"
exec srun --ntasks=1 ./lockstep run train --remote
