#!/bin/bash
# A run under Slurm that survives time limits and preemption:
#
#     sbatch recipes/slurm.sh train.yaml [key=value ...]
#     sbatch --time=1-00 --gpus=0 recipes/slurm.sh train.yaml learning_rate=1e-4,3e-4 --each
#
# Two minutes before the limit Slurm signals this script, which passes it on; jambatune writes a checkpoint
# and leaves with 75; the job is queued again, and goes on where it was. Any other exit code ends the job and
# is its own. The program is the one that JAMBATUNE names, else the first on the PATH. --overwrite is refused with
# 64: whether a job that is queued again had begun anew before it was stopped cannot be told.
#SBATCH --job-name=jambatune
#SBATCH --output=jambatune-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -u

stopped=75 # jambatune: a checkpoint is written, run again
code=127
restarts=${SLURM_RESTART_COUNT:-0}
most_restarts=${MOST_RESTARTS:-100}

say() {
    echo "slurm.sh: job ${SLURM_JOB_ID:-?}: $*" >&2
}

if [ $# -eq 0 ]; then
    say "names no recipe; usage: sbatch recipes/slurm.sh RECIPE [key=value ...]"
    exit 64
fi
resume=--resume # from the start where there is no checkpoint yet
for word in "$@"; do
    case $word in
    --resume) resume= ;;
    overwrite_output_dir=false) ;;
    --overwrite | overwrite_output_dir=*)
        say "$word: once queued again the job would begin anew each time, or go on with the run that was to be" \
            "replaced; remove that run's folder first, and leave $word out"
        exit 64
        ;;
    esac
done

# In the background: bash runs a trap only while it waits. srun hands signals on to the program.
srun "${JAMBATUNE:-jambatune}" train "$@" $resume &
run=$!
# shellcheck disable=SC2317 # called by the traps
pass_on() {
    say "$1: passed on to the run"
    kill -s "$1" "$run" 2>/dev/null
}
for signal in USR1 USR2 TERM INT HUP; do
    # shellcheck disable=SC2064 # each its own
    trap "pass_on $signal" $signal
done

# A signal ends `wait`, not the run.
while kill -0 "$run" 2>/dev/null; do
    wait "$run"
    code=$?
done
wait "$run"
last=$?
[ $last -eq 127 ] || code=$last # 127: bash has told the code before

if [ $code -ne $stopped ]; then
    say "jambatune ended with $code"
    exit $code
fi
# A job that was cancelled stays so, and one that was preempted Slurm queues by itself.
state=$(squeue --noheader --format=%T --jobs "${SLURM_JOB_ID:-}" 2>/dev/null)
if [ -n "$state" ] && [ "$state" != RUNNING ]; then
    say "stopped, and left as it is: $state"
elif [ "$restarts" -ge "$most_restarts" ]; then
    say "stopped, and not queued again: it was $restarts times (MOST_RESTARTS)"
elif scontrol requeue "$SLURM_JOB_ID"; then
    say "stopped, and queued again"
    exit 0
else
    say "stopped, and could not be queued again; submit it once more to go on"
fi
exit $stopped
