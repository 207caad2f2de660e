#!/usr/bin/env bash
# A study on a Ray cluster: one worker per GPU, each holding the networks once. Start the cluster first:
#
#   ray start --head                             # on one machine
#   ray start --address=HEAD:6379                # on each of the others
#   examples/ray.sh 8 --target painting --latents 10000 --out runs/painting
#
# Lost workers are replaced. A run that is cut short goes on when the same command is given again.
set -euo pipefail

workers=$1
shift
gandid run --executor ray --address auto --workers "$workers" --gpus-per-worker "${GPUS_PER_WORKER:-1}" "$@"
