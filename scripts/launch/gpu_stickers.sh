#!/usr/bin/env bash
# Train the sticker set's models on one GPU, in stages of a few minutes each.
#
# scripts/launch/gpu_stickers.sh tokenizer SPRITES OUT [SECONDS]
# scripts/launch/gpu_stickers.sh transformer SPRITES OUT TOKENIZER [SECONDS]
#
# SPRITES holds the rendered drawings (43 MB); the set is built from them in a minute on 16 cores. OUT gets the model, its
# weights in parts of 15 MB (put together again with cat), the last sample sheet and the metrics. A stage that is not
# finished after SECONDS saves, and what it has is exported. WORK (default: data) takes the set and the run.
set -euo pipefail
stage=$1 sprites=$2 out=$3
shift 3
work=${WORK:-data}
images=${IMAGES:-60000}
cores=$(nproc)
mkdir -p "$work" "$out"
if [[ ! -f $work/stickers/samples.jsonl ]]; then
    python scripts/icons/stickers.py "$work/stickers" --sprites "$sprites" --downloads "$work/packages" --images "$images" \
        --processes "$cores"
fi
case $stage in
tokenizer)
    seconds=${1:-400}
    recipe=recipes/icons/stickers_tokenizer.py
    parts=()
    training=(--workers "$cores")
    ;;
transformer)
    seconds=${2:-420}
    recipe=recipes/icons/stickers_transformer.py
    parts=(--tokenizer "$1" --text-encoder src/bitvar/pretrained/icons/text_encoder)
    training=()
    ;;
*)
    echo "unknown stage: $stage; choose tokenizer or transformer" >&2
    exit 2
    ;;
esac
run=$work/run-$stage
read -ra more <<<"${TRAIN_OPTIONS:-}"
timeout -s TERM "$seconds" bitvar train "$recipe" "${parts[@]}" "${training[@]}" \
    --data "$work/stickers" --out "$run" --name stickers "${more[@]}" ||
    [[ $? -eq 143 || $? -eq 124 ]]
rm -rf "$work/model-$stage"
bitvar export "$run" "$work/model-$stage" "${parts[@]}"
cp "$run/metrics.jsonl" "$out/"
cp "$(find "$run/samples" -name 'step-*.png' | sort | tail -1)" "$out/samples.png"
tar -cf - -C "$work" --exclude text_encoder "model-$stage" | split -b 15000000 - "$out/model-$stage.tar."
