#!/usr/bin/env bash
# Reproduces every GPU figure of builders/benchmarks/README.md on this machine:
#   builders/benchmarks/gpu.sh OUTDIR [MODEL ...]
# Prints (and writes to OUTDIR/figures.md) the milliseconds per batch of PyTorch and of each
# plan, and the facts of each plan; see `python -m builders.benchmarks.gpu --help`.
# Variables:
#   PYTHON_TORCH     Python with torch, CUDA and personserve[loadtest] (default: python3).
#   PYTHON_TENSORRT  Python with TensorRT and cuda-bindings (default: python3).
#   IMAGES           Folder of crops to calibrate INT8 on; without it there is no INT8.
#   FINETUNE         Models whose INT8 is also fine-tuned on IMAGES, in STEPS (300) steps.
#   PRECISIONS       Precisions of the plans (default: fp32 tf32 fp16 int8).
#   SERVED           If set, plans are also served in FP16 and loaded over gRPC and through
#                    shared memory by NVIDIA's perf_analyzer (on PATH or in its wheel);
#                    "only" skips everything else.
if [[ $# -eq 0 || $1 == -h || $1 == --help ]]; then
  sed -n '2,/^if /p' "$0" | sed -n 's/^# \{0,1\}//p'; exit
fi
set -euo pipefail
out=$(realpath -m "$1"); shift
cd "$(dirname "$0")/../.."
torch=${PYTHON_TORCH:-python3} tensorrt=${PYTHON_TENSORRT:-python3}
models=(${@:-person_gender person_reid_kd_r18 person_gender_reid})
[[ ${SERVED:-} == only ]] && models=()
precisions=(${PRECISIONS:-fp32 tf32 fp16 int8})
mkdir -p "$out" .reference
for model in "${models[@]}"; do
  $torch -m builders reference "$model" --output ".reference/$model.npz" \
    --export ".reference/$model.safetensors"
  if [[ -n ${IMAGES:-} ]]; then
    $torch -m builders calibrate "$model" --weights ".reference/$model.safetensors" \
      --images "$IMAGES"
    if [[ " ${FINETUNE:-} " == *" $model "* ]]; then
      $torch -m builders finetune-int8 "$model" --weights ".reference/$model.safetensors" \
        --images "$IMAGES" --batch 32 --steps "${STEPS:-300}"
    fi
  fi
  $tensorrt -m builders report "$model" --target tensorrt --output "$out" \
    --weights ".reference/$model.safetensors" --reference ".reference/$model.npz" \
    "${precisions[@]/#/--precision=}"
  $torch -m builders report "$model" --target torch --output "$out" \
    --weights ".reference/$model.safetensors"
done
((${#models[@]})) && $torch -m builders.benchmarks.gpu table "$out" | tee "$out/figures.md"
if [[ -n ${SERVED:-} ]]; then
  served=(person_gender person_reid_kd_r18)
  for model in "${served[@]}"; do
    $torch -m builders reference "$model" --output ".reference/$model.npz" \
      --export ".reference/$model.safetensors"
    $tensorrt -m builders build "$model" --target tensorrt --precision fp16 \
      --weights ".reference/$model.safetensors"
  done
  $tensorrt -m builders serve --target rtx --log "$out/triton.log" \
    > "$out/server.log" 2>&1 &
  server=$!
  trap 'kill $server' EXIT
  for _ in {1..60}; do $torch -m personserve check > /dev/null && break; sleep 2; done
  $tensorrt -m builders.benchmarks.gpu answers 127.0.0.1:8001 "${served[@]}" \
    | tee "$out/answers.txt"
  $torch -m loadtest perf "${served[@]}" --people 8,64 --concurrency 1,16 \
    --shared-memory none,system,cuda --rounds 2 --seconds 0.5 --output "$out/served" \
    --label "TensorRT 8.6.0 in Python, FP16"
  $torch -m loadtest perf person_attributes --people 10 --concurrency 1,16 \
    --rounds 2 --seconds 0.5 --output "$out/frames" \
    --label "TensorRT 8.6.0 in Python, FP16"
  $torch -m loadtest transfer | tee "$out/transfer.txt"
fi
