#!/usr/bin/env bash
# Trains on all GPUs of one machine. The same command again resumes.
#
#   scripts/launch/torchrun.sh RECIPE --data DATA --out OUT [any option of `bitvar train`]
#
# GPUS=N takes N of them; CUDA_VISIBLE_DEVICES says which.
set -euo pipefail
# Once told to stop, a run finishes its step and saves; torchrun would kill it after 30 seconds.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-240}
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
exec torchrun --standalone --nproc-per-node "$gpus" -m bitvar.cli.main train "$@"
