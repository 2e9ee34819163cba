#!/usr/bin/env bash
# Check and time the optimizations for GPUs: 2B and 8B at 1024 px, each beside the plain model and the floor of an H200.
# Usage: scripts/launch/gpu_fast.sh OUT.jsonl
#
# A JSON line a variant, as soon as it is measured, then one a step. The most valuable steps come first, each has a time
# limit, and all of them end within nine minutes. A second call goes on with the steps that OUT.jsonl lacks.
# TOY=1 rehearses the whole script on a CPU with the embedded model. It runs another Python with PYTHON=...
set -uo pipefail
out=${1:?name the file to write, such as fast.jsonl}
python=${PYTHON:-python3}
limit=${LIMIT:-540}
touch "$out"

step() { # NAME SECONDS ARGUMENTS...
    local name=$1 seconds=$2 began=$SECONDS code=0
    shift 2
    if grep -q "\"step\": \"$name\", \"code\": 0" "$out"; then return; fi
    if ((SECONDS + 20 > limit)); then
        echo "no time left for $name"
        return
    fi
    ((seconds < limit - SECONDS)) || seconds=$((limit - SECONDS))
    if [[ -n ${TOY:-} ]]; then set -- "${@/#--preset=*/--pixels=64}" --pixels=64 --runs=1 --device=cpu; fi
    # shellcheck disable=SC2086
    timeout "$seconds" "$python" -m bitvar.cli.main bench variants "$@" 2>"$out.errors" | tee -a "$out" || code=$?
    ((code == 0)) || tail -n 4 "$out.errors"
    printf '{"step": "%s", "code": %d, "seconds": %d}\n' "$name" "$code" $((SECONDS - began)) | tee -a "$out"
}

two=(--preset=2B --dtype=bf16 --pixels=1024 --device=cuda)
eight=(--preset=8B --tokenizer=d56_f8 --dtype=bf16 --pixels=1024 --device=cuda)

step exact 60 --preset=125M --dtype=fp32 --pixels=256 --device=cuda --variant=graphs
step 2B 80 "${two[@]}" --variant=eager --variant=graphs
step 2B-compile 120 "${two[@]}" --variant=compile+graphs
step 2B-lossy 60 "${two[@]}" --variant=graphs+unguided-2 --variant=graphs+unguided-3
step 8B 90 "${eight[@]}" --variant=eager --variant=graphs
step 2B-fp8 90 "${two[@]}" --variant=fp8+graphs --variant=fp8+compile+graphs --variant=fp8+compile+graphs+unguided-2
step 2B-small 80 "${two[@]}" --variant=int8-weights --variant=int4-weights+graphs --variant=int8-cache --runs=3
step 8B-small 90 "${eight[@]}" --variant=int4-weights+graphs --variant=int4-weights+int8-cache --runs=3
step 8B-compile 90 "${eight[@]}" --variant=compile+graphs --variant=fp8+compile+graphs --runs=3
step embedded 40 --dtype=fp32 --pixels=64 --device=cuda --variant=eager --variant=graphs

"$python" - "$out" <<'CHECK'
import json, sys

rows = [row for row in map(json.loads, open(sys.argv[1])) if row.get("variant") == "graphs"]
for row in rows:
    exact = row["dtype"] == "float32"
    good = row["equal_logits"] if exact else row["logit_error"] <= 0.05
    what = "every logit equal to the plain model's" if exact else "logits within 0.05 of their spread"
    print("ok   " if good else "WRONG", row["model"], row["dtype"], what)
CHECK
