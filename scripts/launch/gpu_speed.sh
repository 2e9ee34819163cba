#!/usr/bin/env bash
# The speed tables of docs/gpu.md in one go: a JSON line for each command, and what failed. About seven minutes on one H200.
# Usage: scripts/launch/gpu_speed.sh OUT.jsonl
set -uo pipefail
out=${1:?name the file to write, such as speed.jsonl}
: >"$out"

time_one() {
    local line
    if line=$(timeout 100 python3 -m bitvar.cli.main bench "$@" --device cuda --json 2>"$out.errors"); then
        printf '{"command": "bench %s", "result": %s}\n' "$*" "$line" | tee -a "$out"
    else
        printf '{"command": "bench %s", "failed": %d}\n' "$*" $? | tee -a "$out"
        tail -n 4 "$out.errors"
    fi
}

time_one generate ${MODEL:+--model "$MODEL"} --dtype fp32
time_one generate ${MODEL:+--model "$MODEL"} --dtype bf16
time_one generate --preset 125M --dtype fp32
time_one generate --preset 125M -n 8 --dtype bf16 --no-batch-invariant
time_one generate --preset 2B --guidance 1 --dtype bf16
time_one generate --preset 2B -n 4 --dtype bf16 --no-batch-invariant
time_one generate --preset 2B --dtype fp32
time_one train --preset 940M --pixels 512 --batch 8 --compile
time_one train --preset 940M --pixels 512 --batch 8 --compile --attention flex
time_one train --preset 125M --pixels 256 --batch 64
time_one train --preset 125M --pixels 512 --batch 16
time_one train --preset 940M --pixels 256 --batch 32
time_one train --preset 2B --pixels 256 --batch 16 --activation-checkpointing
time_one train --preset 2B --pixels 512 --batch 4 --activation-checkpointing
