#!/usr/bin/env bash
# Reproduces the figures of frames on a GPU in builders/benchmarks/README.md:
#   builders/benchmarks/gpu_frames.sh OUTDIR PART...
# Parts, each with a time limit of its own; what was measured is written at once:
#   plans    FP16 plans of person_gender and person_reid_kd_r18 from stand-in weights
#   torch    the same networks in PyTorch (FP16 channels-last graph, FP32 eager)
#   engines  both plans by themselves, batch 64: the limit
#   gpu      crops and frames served, with preprocessing on the GPU
#   cpu      frames served, with preprocessing on the CPU
#   answers  crops and answers of both forms beside each other, 1,000 frames
#   pixels   as answers, the crops alone
#   lanes    preprocessing by itself in one process
#   fuzz     mutated images for the GPU's decoder, in a process of its own
#   soak     memory of the served job under load, SOAK_S seconds (default 600)
#   inputs   bad requests through both forms: the same messages, the others unharmed
#   gpus     throughput on the first GPU, the second, and both
#   layers   time of each layer of the FP16 and INT8 plans of LAYERS at batch 64
# Variables:
#   PYTHON_TORCH     Python with torch and CUDA (default: python3).
#   PYTHON_TENSORRT  Python with TensorRT, cuda-bindings and the extras serve and gpu.
#   LAYERS           Models of `layers` (default: R50, R50-IBN and SE-ResNet50).
if [[ $# -lt 2 || $1 == -h || $1 == --help ]]; then
  sed -n '2,/^if /p' "$0" | sed -n 's/^# \{0,1\}//p'; exit
fi
set -uo pipefail
out=$(realpath -m "$1"); shift
cd "$(dirname "$0")/../.." || exit
torch=${PYTHON_TORCH:-python3} tensorrt=${PYTHON_TENSORRT:-python3}
networks=(person_gender person_reid_kd_r18)
mkdir -p "$out" .reference
status=0

# run NAME SECONDS COMMAND...: with a limit, its output kept
run() {
  local name=$1 limit_s=$2 began=$SECONDS; shift 2
  echo "== $name"
  timeout --kill-after=10 "$limit_s" "$@" 2>&1 | tee -a "$out/$name.log" | tail -60
  local code=${PIPESTATUS[0]}
  echo "== $name: exit code $code, $((SECONDS - began)) s"
  ((code)) && status=1
}

build_plans() {
  for model in "${networks[@]}"; do
    $torch -m builders reference "$model" --output ".reference/$model.npz" \
      --export ".reference/$model.safetensors" &
  done
  wait
  for model in "${networks[@]}"; do
    $tensorrt -m builders build "$model" --target tensorrt --precision fp16 \
      --weights ".reference/$model.safetensors" || return
  done
}

measure_torch() {
  for model in "${networks[@]}"; do
    $torch -m builders report "$model" --target torch --output "$out" \
      --weights ".reference/$model.safetensors"
  done
}

measure_gpus() {
  local visible
  for visible in 0 1 0,1 1,0; do
    CUDA_VISIBLE_DEVICES=$visible $tensorrt -m builders.benchmarks.gpu_people \
      "$out/gpus_$visible" --parts gpus
  done
}

people=(-m builders.benchmarks.gpu_people "$out" --parts)
export -f build_plans measure_torch measure_gpus
export out torch tensorrt
for part in "$@"; do
  case $part in
    plans) run plans 240 bash -c "networks=(${networks[*]}); build_plans" ;;
    torch) run torch 120 bash -c "networks=(${networks[*]}); measure_torch" ;;
    engines) run engines 60 $tensorrt "${people[@]}" engines ;;
    gpu) run gpu 300 $tensorrt "${people[@]}" gpu ;;
    cpu) run cpu 150 $tensorrt "${people[@]}" cpu ;;
    answers) run answers 200 $tensorrt -m builders.benchmarks.gpu_answers "$out" ;;
    pixels) run pixels 120 $tensorrt -m builders.benchmarks.gpu_frames pixels ;;
    lanes) run lanes 150 $tensorrt -m builders.benchmarks.gpu_frames lanes ;;
    fuzz) run fuzz 180 $tensorrt -m tests.fuzz_gpu_decoder "$out" ;;
    soak) run soak $((${SOAK_S:-600} + 90)) $tensorrt "${people[@]}" soak \
      --soak "${SOAK_S:-600}" ;;
    inputs) run inputs 120 $tensorrt -m builders.benchmarks.gpu_inputs "$out" ;;
    gpus) run gpus 300 bash -c measure_gpus ;;
    layers) run layers 580 $tensorrt -m builders.benchmarks.gpu_layers "$out" \
      ${LAYERS:-person_reid_sbs_r50 person_reid_sbs_r50_ibn se_resnet50} ;;
    *) echo "unknown part $part"; status=2 ;;
  esac
done
exit "$status"
