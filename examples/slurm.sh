#!/usr/bin/env bash
# A study in an array of Slurm jobs, without Ray: each measures its part of the latents, the last step joins them.
#
#   sbatch --array=1-8 examples/slurm.sh
#   gandid merge runs/part-{1..8} --out runs/whole      # when all have ended
#
# A job that is killed or runs out of time goes on where it was when it is submitted again (sbatch --array=3 ...).
#SBATCH --job-name=gandid
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
set -euo pipefail

part=${SLURM_ARRAY_TASK_ID:-1} parts=${SLURM_ARRAY_TASK_COUNT:-1}

# Each job ranks the units anew, on the same latents. On machines that differ, near-ties may come out differently, and
# `gandid merge` then refuses; name the units for all jobs (--target CLASS=UNIT,UNIT,...) to be safe from that.
gandid run "$@" --chunk "$part/$parts" --out "runs/part-$part"
