#!/usr/bin/env bash
# Every GPU figure that builders/BENCHMARKS.md publishes, on the machine it runs on:
#   builders/benchmark.sh OUTDIR [MODEL ...]
# PYTHON_TORCH: a Python with torch and CUDA (default python3).
# PYTHON_TENSORRT: a Python with TensorRT and cuda-bindings (default python3).
# IMAGES: a folder of crops, to calibrate INT8 with; without it there is no INT8.
# FINETUNE: models whose INT8 is also fine-tuned on them, in STEPS (300) steps.
# PRECISIONS: of the plans (default: fp32 tf32 fp16 int8).
# PERF_ANALYZER: NVIDIA's perf_analyzer; with it plans are also served, in FP16.
set -euo pipefail
out=$(realpath -m "$1"); shift
cd "$(dirname "$0")/.."
torch=${PYTHON_TORCH:-python3} tensorrt=${PYTHON_TENSORRT:-python3}
models=(${@:-person_gender person_reid_kd_r18 person_gender_reid})
precisions=(${PRECISIONS:-fp32 tf32 fp16 int8})
mkdir -p "$out" .reference
for model in "${models[@]}"; do
  $torch -m builders reference "$model" --output ".reference/$model.npz" \
    --export ".reference/$model.wts"
  if [[ -n ${IMAGES:-} ]]; then
    $torch -m builders calibrate "$model" --weights ".reference/$model.wts" \
      --images "$IMAGES"
    if [[ " ${FINETUNE:-} " == *" $model "* ]]; then
      $torch -m builders finetune-int8 "$model" --weights ".reference/$model.wts" \
        --images "$IMAGES" --batch 32 --steps "${STEPS:-300}"
    fi
  fi
  $tensorrt -m builders report "$model" --target tensorrt --output "$out" \
    --weights ".reference/$model.wts" --reference ".reference/$model.npz" \
    "${precisions[@]/#/--precision=}"
  $torch -m builders report "$model" --target torch --output "$out" \
    --weights ".reference/$model.wts"
done
$torch -m builders.benchmark table "$out" | tee "$out/figures.md"
if [[ -n ${PERF_ANALYZER:-} ]]; then
  for model in "${models[@]}"; do
    $tensorrt -m builders build "$model" --target tensorrt --precision fp16 \
      --weights ".reference/$model.wts"
  done
  $torch -m loadtest.perf_input .reference/frame.json
  $tensorrt -m builders.benchmark served "$PERF_ANALYZER" .reference/frame.json \
    "$out/served.md" | tee "$out/served.txt"
fi
