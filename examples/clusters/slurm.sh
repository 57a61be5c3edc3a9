#!/bin/bash
# A Ray cluster of four nodes inside one Slurm job, and a run on all their GPUs:
#
#     sbatch examples/clusters/slurm.sh prompts.jsonl runs/mine Qwen/Qwen2.5-7B-Instruct
#
# The environment with sso-data[vllm,ray], the model and the run directory are on a file system that
# all nodes share. A job that ends early is submitted again with the same line, and goes on.
#SBATCH --job-name=sso-data
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#SBATCH --output=sso-data-%j.log

set -euo pipefail
prompts=$1 out=$2 model=$3

export RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | base64)
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
export RAY_ADDRESS=$head:$port

# one `ray start` on every node, in the foreground: the first node has the head
srun --no-kill --kill-on-bad-exit=0 bash -c '
    resources="--num-cpus=$SLURM_CPUS_PER_TASK --num-gpus=$SLURM_GPUS_ON_NODE --block"
    if [ "$SLURM_NODEID" = 0 ]; then
        exec env -u RAY_ADDRESS ray start --head --port='"$port"' --include-dashboard=false $resources
    fi
    until ray health-check --address "$RAY_ADDRESS" > /dev/null 2>&1; do sleep 2; done
    exec ray start --address="$RAY_ADDRESS" $resources
' &
until ray health-check --address "$RAY_ADDRESS" > /dev/null 2>&1; do sleep 2; done

# SIGTERM, two minutes before the time is over, ends the command in order
sso-data generate "$prompts" --out "$out" --model "$model" --engine vllm --cluster auto &
run=$!
trap 'kill -TERM $run' TERM
wait $run || wait $run
