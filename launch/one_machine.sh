#!/usr/bin/env bash
# One machine, CPU or GPU: a run that goes on by itself after a preemption.
#
#   launch/one_machine.sh configs/severity.py:octdl runs/octdl \
#     --config.data.path=FILE
#
# Exit code 75 means "stopped after saving": the same command is started again,
# at most GCL_RESTARTS times (default 20). Every other code is passed on.
set -u
if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG WORKDIR [--config.FIELD=VALUE ...]" >&2
  exit 2
fi
config=$1 workdir=$2
shift 2
for _ in $(seq "${GCL_RESTARTS:-20}"); do
  python -u -m gcl_jax.main --config="$config" --workdir="$workdir" "$@"
  code=$?
  [ "$code" -eq 75 ] || exit "$code"
  echo "preempted after saving; going on" >&2
done
exit 75
