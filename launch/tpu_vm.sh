#!/usr/bin/env bash
# A TPU slice on Google Cloud, without Kubernetes:
#
#   export GCL_TPU_NAME=gcl GCL_TPU_ZONE=us-west4-a
#   launch/tpu_vm.sh create     # asks for the slice and waits until it is there
#   launch/tpu_vm.sh setup      # copies the code to every host and installs it
#   launch/tpu_vm.sh run --config=configs/severity.py:octdl --workdir=/runs/a
#   launch/tpu_vm.sh stop       # deletes the slice, so that it costs no more
#
# GCL_TPU_TYPE (v5litepod-16), GCL_TPU_RUNTIME (v2-alpha-tpuv5-lite),
# GCL_TPU_SPOT=1 for a slice that may be taken away, GCL_PYTHON (3.12).
#
# `run` starts the same command on every host; JAX finds the others by itself.
# The folder of --workdir must be one that all hosts see (a Filestore share, or
# a bucket mounted with gcsfuse). On "exit code 75" type the same `run` again;
# when a spot slice was taken away (state SUSPENDED): stop, create, setup, run.
#
# For spot slices of several hosts Google's newest pages prefer managed instance
# groups; queued resources, as used here, are the older way.
set -euo pipefail
usage="usage: $0 create|setup|run|stop [arguments of gcl_jax.main]"
step=${1:?$usage}
shift
name=${GCL_TPU_NAME:?set GCL_TPU_NAME, the name of the slice}
zone=${GCL_TPU_ZONE:?set GCL_TPU_ZONE, such as us-west4-a}
python=${GCL_PYTHON:-3.12}
root=$(cd "$(dirname "$0")/.." && pwd)

queued() { # queued VERB ARGUMENTS...
  gcloud compute tpus queued-resources "$1" "$name" --zone="$zone" "${@:2}"
}

create() {
  local state spot=()
  [ -z "${GCL_TPU_SPOT:-}" ] || spot=(--spot)
  queued create --node-id="$name" \
    --accelerator-type="${GCL_TPU_TYPE:-v5litepod-16}" \
    --runtime-version="${GCL_TPU_RUNTIME:-v2-alpha-tpuv5-lite}" \
    ${spot[@]+"${spot[@]}"}
  while true; do
    state=$(queued describe --format='value(state.state)')
    echo "$(date -u +%H:%M:%S) $name: $state" >&2
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDED | SUSPENDING | DELETING)
        echo "$0: no slice; 'queued-resources describe' says why" >&2
        return 1
        ;;
    esac
    sleep "${GCL_TPU_POLL_S:-30}"
  done
}

everywhere() { # everywhere COMMAND: on all hosts at the same time
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="$1"
}

# Of ~/gcl on the hosts a setup replaces these and nothing else.
packed_names="gcl_jax configs constraints launch pyproject.toml README.md LICENSE"

# The hosts bring Python 3.10, too old for us: uv fetches another.
install_command() {
  cat <<END
set -e
mkdir -p ~/gcl && cd ~/gcl
if [ ! -e .gcl_jax ] && [ -n "\$(ls -A)" ]; then
  echo "\$(hostname): ~/gcl holds something else: move it away" >&2 && exit 2
fi
touch .gcl_jax && rm -rf $packed_names && tar -xzf ~/gcl.tar.gz
python3 -m pip install -q --user uv
~/.local/bin/uv venv -q --clear --python $python ~/gcl-venv
~/.local/bin/uv pip install -q --python ~/gcl-venv/bin/python \
  -c constraints/python$python.txt -e '.[tpu]'
END
}

setup() {
  packed=$(mktemp -d)
  trap 'rm -rf "$packed"' EXIT
  # shellcheck disable=SC2086  # several names
  tar -czf "$packed/gcl.tar.gz" --exclude=__pycache__ -C "$root" $packed_names
  gcloud compute tpus tpu-vm scp "$packed/gcl.tar.gz" "$name:" \
    --zone="$zone" --worker=all
  everywhere "$(install_command)"
}

run() {
  local arguments
  [ $# -gt 0 ] || { echo "$usage" >&2 && exit 2; }
  printf -v arguments ' %q' "$@" --config.platform=tpu
  # What ssh gives back for several hosts need not be their code: say it.
  everywhere "cd ~/gcl && unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
export PATH=~/gcl-venv/bin:\$PATH
eval \"\$(python launch/xla_flags.py tpu)\"
python -u -m gcl_jax.main$arguments
code=\$?; echo \"\$(hostname): exit code \$code\" >&2; exit \$code" \
    2>&1 | tee -a "${GCL_TPU_LOG:-$name.log}"
}

case $step in
  create | setup | run) "$step" "$@" ;;
  stop) queued delete --force --quiet ;;
  *) echo "$usage" >&2 && exit 2 ;;
esac
