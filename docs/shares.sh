#!/bin/bash
# One share of an OME-Zarr result for each task of a job array, under SLURM or LSF:
#
#     sbatch --array=1-8 --cpus-per-task=4 --mem=8G shares.sh 8 volume.ome.zarr result.ome.zarr
#     bsub -J "isbi-infer[1-8]" -R "affinity[core(4)] rusage[mem=8GB]" ./shares.sh 8 volume.ome.zarr result.ome.zarr
#
# The number of shares is said, not read from the scheduler: tasks that failed are handed in again alone, as
# --array=3,7, and are still shares 3 and 7 of 8. Options of isbi-infer follow the output.
set -euo pipefail

if (($# < 3)); then
    echo "shares.sh: expected SHARES INPUT OUTPUT [OPTION...], found $# arguments" >&2
    exit 2
fi
shares=$1 input=$2 output=$3
shift 3

task=${SLURM_ARRAY_TASK_ID:-${LSB_JOBINDEX:-0}} # LSF says 0 outside an array
if [[ $task == 0 ]]; then
    echo "shares.sh: no task from 1 on; hand it in as a job array, sbatch --array=1-$shares or bsub -J \"NAME[1-$shares]\"" >&2
    exit 2
fi

# exec: what the scheduler sends to the task, such as SIGTERM at its time limit, reaches isbi-infer itself.
exec isbi-infer "$input" -o "$output" --shard "$task/$shares" "$@"
