#!/usr/bin/env bash
# Kills and continues runs, tries every other fault in docs/evidence/reliability.md, then writes the page: less than an hour on one core.
# The argument is the number of kills at chosen moments; three kills from outside come with every ten. Every kill prints a line.
# Run again after it was broken off, it skips the trainers whose kills are those of this commit.
set -euo pipefail
cd "$(dirname "$0")/../../.."
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
results=docs/evidence/reliability commit=$(git rev-parse HEAD)
trap 'rm -f "$results/kills.log"' EXIT
tests=()
for trainer in nnUNetTrainer{IACLTH_1warmup6search2,IAC_1warmup6search2,IACDiscrete_2}finetune; do
    grep -qs "\"commit\": \"$commit\"" "$results/kills_$trainer.json" ||
        tests+=("tests/training/test_kills.py::test_a_killed_and_continued_run_equals_an_unbroken_one[$trainer]")
done
if [ ${#tests[@]} -gt 0 ]; then
    tail -qF --pid=$$ "$results/kills.log" 2> /dev/null | grep --line-buffered -E '^(killed|unbroken|[0-9]+ (of|moments))' &
    pytest "${tests[@]}" --kills "${1:-200}" --record "$results" || failed=$?
fi
pytest tests/training/test_{damage,bad_input,distributed,host_features,batches}.py \
    tests/search/test_fuzzing.py tests/runs/test_{checkpoint,fold}.py --record "$results" || failed=$?
python docs/evidence/reliability/page.py
exit "${failed:-0}"
