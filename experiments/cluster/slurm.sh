#!/usr/bin/env bash
# A Ray cluster on the nodes of a Slurm job, and a search on it.
# Install cola-jax where all nodes see it, edit the #SBATCH lines, the environment and the command,
# and submit; submit it again to resume. A node that is lost costs its batches in progress; the job
# then ends with status 1, also when the search is done.
#   pip install -c experiments/cluster/versions.txt ".[ray,cuda13]"
#   ray get-auth-token --generate # once, in a home that all nodes see
#   sbatch experiments/cluster/slurm.sh
#SBATCH --job-name=cola
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --no-kill
#SBATCH --requeue
set -euo pipefail
source "$HOME/cola/bin/activate"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RAY_ADDRESS=$head:6379 RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600
# starts Ray on every node, the command on the first, and stops Ray when the command ends
srun --no-kill --kill-on-bad-exit=0 ray symmetric-run --address "$RAY_ADDRESS" --min-nodes "$SLURM_NNODES" -- \
    cola search --model "$HOME/models/llama-3b" --task arc_easy --output "$HOME/runs/arc-easy" --engine ray
