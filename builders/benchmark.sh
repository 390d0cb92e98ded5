#!/usr/bin/env bash
# Every GPU figure that builders/BENCHMARKS.md publishes, on the machine it runs on:
#   builders/benchmark.sh OUTDIR [MODEL ...]
# PYTHON_TORCH: a Python with torch and CUDA (default python3).
# PYTHON_TENSORRT: a Python with TensorRT and cuda-bindings (default python3).
# PERF_ANALYZER: NVIDIA's perf_analyzer; without it, serving is not measured.
# IMAGES: a folder of crops, to calibrate INT8 with; without it there is no INT8.
# PRECISIONS and PARTS (of torch, plans, served) narrow down what runs.
set -euo pipefail
out=$(realpath -m "$1"); shift
cd "$(dirname "$0")/.."
torch=${PYTHON_TORCH:-python3} tensorrt=${PYTHON_TENSORRT:-python3}
models=(${@:-person_gender person_reid_kd_r18 person_gender_reid})
parts=${PARTS:-torch plans served}
mkdir -p "$out" .reference
if [[ $parts == *torch* ]]; then
  for model in "${models[@]}"; do
    $torch -m builders reference "$model" --output ".reference/$model.npz" \
      --export ".reference/$model.wts"
    if [[ -n ${IMAGES:-} ]]; then
      $torch -m builders calibrate "$model" --weights ".reference/$model.wts" \
        --images "$IMAGES"
    fi
  done
  $torch -m builders.benchmark torch "$out/figures.json" "${models[@]}"
fi
if [[ $parts == *plans* ]]; then
  for precision in ${PRECISIONS:-fp32 tf32 fp16}; do
    for model in "${models[@]}"; do
      $tensorrt -m builders build "$model" --target tensorrt --precision "$precision" \
        --weights ".reference/$model.wts"
      # INT8 is judged on the crops that its calibration held out
      reference=(--reference ".reference/$model.npz")
      [[ $precision == int8 ]] && reference=()
      $tensorrt -m builders verify "$model" --target tensorrt --precision "$precision" \
        "${reference[@]}" | tee -a "$out/verify.txt" || true
      cp "model_repository/$model/1/model.plan.json" "$out/$model-$precision.json"
    done
    $tensorrt -m builders.benchmark plan "$out/figures.json" "${models[@]}"
  done
  $tensorrt -m builders.benchmark table "$out/figures.json" > "$out/figures.md"
fi
if [[ $parts == *served* && -n ${PERF_ANALYZER:-} ]]; then
  $torch -m loadtest.perf_input .reference/frame.json
  $tensorrt -m builders.benchmark served "$PERF_ANALYZER" .reference/frame.json \
    "$out/served.md" | tee "$out/served.txt"
fi
