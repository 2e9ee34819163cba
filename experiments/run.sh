#!/usr/bin/env bash
# Run one experiment of docs/experiments.md by its name:
#
#   experiments/run.sh 4x96              a transformer of 4 blocks of 96 channels, on the package's tokenizer: 64 bits
#   experiments/run.sh 4x96-off-seed1    the same without self-correction, from another seed (-plain: flips alone)
#   experiments/run.sh d12               a tokenizer of 12 bits
#   experiments/run.sh d12-4x96          a transformer on it
#   experiments/run.sh index-d12-4x96    the same with an index head; draws the scene prompts at its end
#
# Arguments after the name go to the training command. DATA is the icon set (data/icons64), RUNS the folder of all runs
# (runs/experiments). Features of the frozen models are kept beside the runs, so that later runs reuse them.
set -euo pipefail
data=${DATA:-data/icons64}
runs=${RUNS:-runs/experiments}
here=$(dirname "$0")
models=src/bitvar/pretrained
name=${1:?which run? see the head of this file}
shift
out=$runs/$name

if [[ $name =~ ^d([0-9]+)$ ]]; then
    exec bitvar train "$here/../recipes/vocabulary/tokenizer.py" --recipe-arg "bits=${BASH_REMATCH[1]}" --data "$data" --out "$out" \
        --name "$name" "$@"
fi
if ! [[ $name =~ ^(index-)?(d([0-9]+)-)?([0-9]+)x([0-9]+)(-(off|plain))?(-seed([0-9]+))?$ ]]; then
    echo "There is no run $name: see the head of $0." >&2
    exit 2
fi
index=${BASH_REMATCH[1]} bits=${BASH_REMATCH[3]} flips=${BASH_REMATCH[7]:-on} seed=${BASH_REMATCH[9]:-0}
settings=(--recipe-arg "depth=${BASH_REMATCH[4]}" --recipe-arg "width=${BASH_REMATCH[5]}" --recipe-arg "flips=$flips" --recipe-arg "seed=$seed")
if [[ $bits ]]; then
    settings+=(--recipe-arg "bits=$bits" --recipe-arg patch=1)
    tokenizer=$runs/d$bits/model
else
    tokenizer=$models/general
fi
inputs=(--data "$data" --out "$out" --tokenizer "$tokenizer" --text-encoder "$models/icons/text_encoder")

kept=$runs/features-${bits:-general}
mkdir -p "$out" "$kept"
for source in "$kept" "$runs"/features-*; do # those of another tokenizer hold the captions, too
    if compgen -G "$source/*.safetensors" >/dev/null; then
        ln -f "$source"/*.safetensors "$out/"
        break
    fi
done
if [[ $index ]]; then
    python "$here/index_head.py" "${settings[@]}" "${inputs[@]}" --prompts src/bitvar/icons/dataset/prompts.jsonl "$@"
else
    bitvar train "$here/../recipes/experiments/transformer.py" "${settings[@]}" "${inputs[@]}" --name "$name" "$@"
fi
ln -f "$out"/features-*.safetensors "$kept/"
