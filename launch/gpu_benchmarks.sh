#!/usr/bin/env bash
# Measures everything docs/performance.md asks of a GPU, beside PyTorch:
#   launch/gpu_benchmarks.sh FOLDER
# Needs the extra `cuda` and PyTorch with CUDA: pip install -e '.[cuda]' torch
# About 30 minutes. One JSON object a line in FOLDER, date and card beside them.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: launch/gpu_benchmarks.sh FOLDER}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
# Both frameworks on one card: neither may take all of its memory.
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.45

{
  date -u
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
  "$python" -c 'import jax; print(jax.__version__, jax.devices())'
} | tee "$out/machine.txt"

run() {  # run NAME COMMAND...: its lines go to NAME.jsonl
  echo "== $1"
  "$python" "benchmarks/$2.py" "${@:3}" | tee "$out/$1.jsonl"
}

# The forms of every convolution first: a form that wins by much at several
# layers belongs into the table of gcl_jax/models/convolution.py.
for dtype in float32 bfloat16; do
  run "forms_$dtype" conv_forms --size=224 --batch=256 --dtype="$dtype"
done
# SupCon steps, two crops of 224 px: 12,000 crops/s (ResNet-18) and 5,000
# (ResNet-50) are aimed at, and 1.2 times PyTorch compiled in bfloat16.
for arch in resnet18 resnet50; do
  run "step_$arch" step --arch="$arch" --size=224 --batch=256 \
    --dtypes=float32,bfloat16 --peer=torch --modes=float32,best --compile=1 \
    --device=cuda
  run "profile_$arch" step --arch="$arch" --size=224 --batch=256 \
    --dtypes=bfloat16 --profile=1
done
# GradCON scores: at least 100 times PyTorch's loop over single images.
run scoring scoring --size=28,96x256,224 --peer=torch --device=cuda \
  --engine=auto,batched,each,ghost,vmap
# SupCon's loss: time and memory.
run supcon_8k supcon_loss --rows=8192 --peer=torch --device=cuda --block=1024
run supcon_64k supcon_loss --rows=65536,262144 --ways=blocks --block=4096
echo "done: $out"
