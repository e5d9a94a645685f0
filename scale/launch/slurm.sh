#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A cluster under Slurm: the first task is the chief, the last PS ones hold
# weights, the others are workers. An example, never run on a real cluster.
#
#   PS=1 sbatch --nodes=4 scale/launch/slurm.sh --flagfile=train.flags \
#       --data_dir=... --output_dir=... --do_train
#
# output_dir must be on a file system that all nodes share. TensorFlow's servers
# ask nobody for a password: for a network that can be trusted.
#SBATCH --job-name=bert
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@300
#SBATCH --requeue
set -euo pipefail

export PS="${PS:-1}"
export PORT="${PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
NODES="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | tr '\n' ' ')"
export NODES

# shellcheck disable=SC2016  # the tasks expand it, not this script
srun --kill-on-bad-exit=0 bash -c '
  set -euo pipefail
  read -r -a nodes <<< "$NODES"
  count="${#nodes[@]}"
  addresses() {  # of the nodes from $1 to before $2
    local list="" i
    for ((i = $1; i < $2; i++)); do list+="${list:+, }\"${nodes[i]}:$PORT\""; done
    printf "[%s]" "$list"
  }
  first_ps=$((count - PS))
  if ((SLURM_PROCID == 0)); then role=chief index=0
  elif ((SLURM_PROCID < first_ps)); then role=worker index=$((SLURM_PROCID - 1))
  else role=ps index=$((SLURM_PROCID - first_ps)); fi
  export TF_CONFIG="{\"cluster\": {\"chief\": $(addresses 0 1), \"worker\": $(addresses 1 "$first_ps"), \"ps\": $(addresses "$first_ps" "$count")}, \"task\": {\"type\": \"$role\", \"index\": $index}}"
  if [[ $role == chief ]]; then exec python run_multilabel_classifier.py "$@"; fi
  # The chief, with its checkpoint, is started again by Slurm; others here.
  for try in 1 2 3 4 5; do
    python run_multilabel_classifier.py "$@" && exit 0
    echo "$role $index ended with status $? (try $try)" >&2
  done
  exit 1
' bash "$@"
