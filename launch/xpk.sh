#!/usr/bin/env bash
# xpk on Google Kubernetes Engine, on a cluster made by `xpk cluster create`:
#
#   GCL_CLUSTER=mine GCL_TPU_TYPE=v5litepod-16 launch/xpk.sh octdl-1 tpu \
#     --config=configs/severity.py:octdl --workdir=/runs/octdl
#   GCL_CLUSTER=mine GCL_DEVICE_TYPE=h100-mega-80gb-8 GCL_NODES=2 \
#     launch/xpk.sh octdl-1 gpu --config=... --workdir=/runs/octdl
#
# xpk puts this folder upon the image GCL_IMAGE, which comes from
# launch/Dockerfile (EXTRA=tpu or cuda) and must exist where you type this.
# GCL_SLICES (1) TPU slices or GCL_NODES (1) GPU nodes. After exit code 75 (and
# 4, a lost peer) all pods start again, at most GCL_RESTARTS times (20), so a
# preempted run goes on. --workdir must lie on storage that all pods see:
# GCL_STORAGE names one that was made with `xpk storage attach`.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 WORKLOAD tpu|gpu [arguments of gcl_jax.main]" >&2
  exit 2
fi
workload=$1 platform=$2
shift 2
: "${GCL_CLUSTER:?set GCL_CLUSTER, the name of the cluster}"
cd "$(dirname "$0")/.."

# xpk writes the command between double quotes into a YAML file: it can hold
# neither those nor backslashes.
case "$*" in
  *[\"\\]*)
    echo "$0: no double quotes or backslashes in the arguments" >&2
    exit 2
    ;;
esac
main="exec python -u -m gcl_jax.main ${*@Q} --config.platform=$platform"
# Filled in inside the pod, not here: hence single quotes.
# shellcheck disable=SC2016
case $platform in
  tpu)
    hardware=(--tpu-type="${GCL_TPU_TYPE:?set GCL_TPU_TYPE}"
      --num-slices="${GCL_SLICES:-1}")
    before='eval $(python launch/xla_flags.py tpu)'
    ;;
  gpu)
    hardware=(--device-type="${GCL_DEVICE_TYPE:?set GCL_DEVICE_TYPE}"
      --num-nodes="${GCL_NODES:-1}")
    # One process a node with all its GPUs; xpk names pod 0 and numbers them.
    before='eval $(python launch/xla_flags.py gpu)
      export GCL_COORDINATOR=$JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT
      export GCL_NUM_PROCESSES=$NNODES GCL_PROCESS_ID=$NODE_RANK'
    before=${before//$'\n'      /; }
    ;;
  *) echo "$0: $platform is neither tpu nor gpu" >&2 && exit 2 ;;
esac
[ -z "${GCL_STORAGE:-}" ] || hardware+=(--storage="$GCL_STORAGE")
xpk workload create --cluster="$GCL_CLUSTER" --workload="$workload" \
  "${hardware[@]}" --max-restarts="${GCL_RESTARTS:-20}" \
  --restart-on-exit-codes=4,75 --termination-grace-period-seconds=180 \
  --base-docker-image="${GCL_IMAGE:-gcl-jax}" --script-dir="$PWD" \
  --command="$before; $main"
