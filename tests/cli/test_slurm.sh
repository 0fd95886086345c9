#!/bin/bash
# recipes/slurm.sh under a Slurm of pretence: sbatch delivers the signal that the script asks for, srun runs its
# words, scontrol requeue makes sbatch start the script again.
#
#     tests/cli/test_slurm.sh build/jambatune       # from the repository's root
set -u
. tests/support/checks.sh
program=$(realpath "$1")
script=$PWD/recipes/slurm.sh
scratch=$(mktemp -d "${TMPDIR:-/tmp}/jambatune-slurm.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
log=$scratch/log recipe=$scratch/train.yaml

# ---- Slurm ----

mkdir "$scratch/bin"
cat >"$scratch/bin/sbatch" <<'SH'
#!/bin/bash
# WHEN: file that a pattern must be in before the signal comes, in the job's first start only; "" : no signal.
set -u
number=$(sed -n 's/^#SBATCH --signal=B:\([A-Z0-9]*\)@[0-9][0-9]*$/\1/p' "$1")
export SLURM_JOB_ID=4711
for restart in 0 1 2 3; do
    [ $restart = 0 ] || export SLURM_RESTART_COUNT=$restart
    rm -f "$STUB/requeue"
    bash "$@" &
    job=$!
    if [ $restart = 0 ] && [ -n "$WHEN" ]; then
        for i in $(seq 600); do
            grep -qs '"step": *50,' "$WHEN" && break
            sleep 0.1
        done
        kill -s "${SEND:-$number}" "$job"
    fi
    wait "$job"
    code=$?
    [ -e "$STUB/requeue" ] || break
done
exit $code
SH
cat >"$scratch/bin/srun" <<'SH'
#!/bin/bash
echo "$*" >>"$STUB/srun"
exec "$@"
SH
cat >"$scratch/bin/scontrol" <<'SH'
#!/bin/bash
echo "$*" >>"$STUB/scontrol"
[ -z "${STUB_REFUSES:-}" ] && touch "$STUB/requeue"
SH
cat >"$scratch/bin/squeue" <<'SH'
#!/bin/bash
echo "${STUB_STATE:-RUNNING}"
SH
chmod +x "$scratch"/bin/*
export PATH="$scratch/bin:$PATH" STUB=$scratch JAMBATUNE=$program

submit() { # WHEN WORD...: sets $code
    rm -f "$scratch"/srun "$scratch"/scontrol
    WHEN=$1 timeout -k 10 200 sbatch "$script" "${@:2}" >"$log" 2>&1 </dev/null
    code=$?
}

requeues() {
    cat "$scratch/scontrol" 2>/dev/null
}

# ---- jobs ----

cat >"$scratch/data.jsonl" <<'JSONL'
{"input_ids": [1, 5, 6, 7, 2]}
{"input_ids": [1, 8, 9, 2]}
JSONL
echo '{"input_ids": "x"}' >"$scratch/bad.jsonl"
cat >"$recipe" <<YAML
base_model: $PWD/tests/fixtures/models/proj_bias
datasets: [{path: data.jsonl, type: input_ids}]
sequence_len: 8
max_steps: 1500
lr_scheduler: constant
output_dir: out
YAML

submit "" "$recipe" output_dir="$scratch/straight"
check 'a run without a stop: 0' same 0 "$code"
check 'a run without a stop: queued once' same "" "$(requeues)"
check 'resumes what is there' same "$program train $recipe output_dir=$scratch/straight --resume" "$(cat "$scratch/srun")"

submit "$scratch/cut/metrics.jsonl" "$recipe" output_dir="$scratch/cut"
check 'stopped before the limit: 0 in the end' same 0 "$code"
check 'stopped before the limit: queued again, once' same "requeue 4711" "$(requeues)"
check 'stopped before the limit: two starts' same 2 "$(wc -l <"$scratch/srun")"
check 'stopped before the limit: by the signal asked for' grep -q '^slurm.sh: job 4711: USR1: passed on to the run$' "$log"
check 'stopped before the limit: went on' grep -q '"event": *"resumed"' "$scratch/cut/metrics.jsonl"
check 'stopped before the limit: the same bytes' same "$(sha256sum <"$scratch/straight/adapter_model.safetensors")" \
    "$(sha256sum <"$scratch/cut/adapter_model.safetensors")"

submit "" "$recipe" datasets.0.path="$scratch/bad.jsonl" output_dir="$scratch/bad"
check 'bad data: 65' same 65 "$code"
check 'bad data: not queued again' same "" "$(requeues)"
check 'bad data: says so' grep -q '^slurm.sh: job 4711: jambatune ended with 65$' "$log"
submit "" "$scratch/none.yaml" --resume
check 'no recipe file: 66' same 66 "$code"
check 'no recipe file: not queued again' same "" "$(requeues)"
check '--resume is not given twice' same "$program train $scratch/none.yaml --resume" "$(cat "$scratch/srun")"
submit ""
check 'no recipe: 64' same 64 "$code"

for word in --overwrite overwrite_output_dir=true overwrite_output_dir=yes; do
    submit "" "$recipe" "$word" output_dir="$scratch/straight"
    check "$word: 64" same 64 "$code"
    check "$word: nothing is started" [ ! -e "$scratch/srun" ]
    check "$word: says why" grep -q "^slurm.sh: job 4711: $word: once queued again .*; remove that run's folder first" "$log"
done
submit "" "$scratch/none.yaml" overwrite_output_dir=false
check 'overwrite_output_dir=false: the run is started' same 66 "$code"

JAMBATUNE=/no/such/program submit "" "$recipe"
check 'no program: 127' same 127 "$code"

STUB_STATE=CANCELLED submit "$scratch/cancelled/metrics.jsonl" "$recipe" max_steps=1000000 output_dir="$scratch/cancelled"
check 'a job that was cancelled: 75' same 75 "$code"
check 'a job that was cancelled: stays so' same "" "$(requeues)"
SEND=TERM STUB_REFUSES=yes submit "$scratch/refused/metrics.jsonl" "$recipe" max_steps=1000000 output_dir="$scratch/refused"
check 'Slurm refuses: 75' same 75 "$code"
check 'Slurm refuses: was asked' same "requeue 4711" "$(requeues)"
check 'Slurm refuses: says so' grep -q 'could not be queued again' "$log"
MOST_RESTARTS=0 submit "$scratch/often/metrics.jsonl" "$recipe" max_steps=1000000 output_dir="$scratch/often"
check 'queued too often: 75' same 75 "$code"
check 'queued too often: no more' same "" "$(requeues)"

end
