"""Launch scripts and the Kubernetes manifest: well formed, and the command line takes what they give."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny
from vpvae_jax.config import workdir as layout
from vpvae_jax.runtime.console import TRY_AGAIN

LAUNCH = tiny.ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
TPU = {"TPU": "pod", "ZONE": "zone"}


def _dry_run(script, *arguments, **variables):
    environment = os.environ | {"DRY_RUN": "1"} | variables
    done = subprocess.run(["bash", script, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def _check_arguments(words):
    """The command line takes them; all it lacks is the data."""
    at = words.index("vpvae_jax.main")
    done = tiny.run([sys.executable, "-m", "vpvae_jax.main", *[w for w in words[at + 1 :] if w != "--distributed"]])
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: no prepared TFDS data set 'coco/2017'"), message


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("needs shellcheck, which the extra `dev` has")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("config", ["coco:quantizer=fsp", "configs/coco.py:quantizer=fsp"])
@pytest.mark.parametrize("name", ["gpu_host.sh", "slurm.sh"])
def test_what_would_run(tmp_path, name, config):
    variables = {"WORKDIR": str(tmp_path / "a run"), "CONFIG": config}
    words = _dry_run(LAUNCH / name, "--config.seed=3", **variables)
    assert words[-3:] == [f"--config={config}", f"--workdir={tmp_path}/a run", "--config.seed=3"]
    assert ("--distributed" in words) == (name == "slurm.sh")
    assert not (tmp_path / "a run").exists()


def test_what_would_run_on_a_pod(tmp_path):
    words = _dry_run(LAUNCH / "tpu_pod.sh", "--config.seed=3", WORKDIR=str(tmp_path / "a run"), **TPU)
    assert words[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod"]
    assert "--worker=all" in words
    (there,) = [word.removeprefix("--command=") for word in words if word.startswith("--command=")]
    words = shlex.split(there)
    assert words[:3] == ["cd", "vpvae_jax", "&&"]
    assert words[-3:] == [
        "--config=coco:quantizer=vp,codebook_size=16384", f"--workdir={tmp_path}/a run", "--config.seed=3",
    ]  # fmt: skip


def test_a_missing_variable_is_named():
    done = subprocess.run(["bash", LAUNCH / "tpu_pod.sh"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "TPU: name of the TPU VM" in done.stderr


@pytest.mark.system
def test_the_command_line_takes_what_the_scripts_give(tmp_path):
    data = f"--config.data.data_dir={tmp_path}/no data"
    weights = "--config.loss.lpips_weight=0"
    _check_arguments(_dry_run(LAUNCH / "gpu_host.sh", data, weights, WORKDIR=str(tmp_path / "run")))
    _check_arguments(_dry_run(LAUNCH / "slurm.sh", data, weights, WORKDIR=str(tmp_path / "run")))


class TestJobSet:
    @pytest.fixture
    def jobset(self):
        yaml = pytest.importorskip("yaml")
        return yaml.safe_load((LAUNCH / "jobset.yaml").read_text())

    def test_its_job_is_one_of_kubernetes(self, jobset):
        """Checked with the schema of batch/v1 Job; JobSet's own is published only with its operator."""
        kubernetes_validate = pytest.importorskip("kubernetes_validate")
        (workers,) = jobset["spec"]["replicatedJobs"]
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "workers"}, **workers["template"]}
        kubernetes_validate.validate(job, "1.29", strict=True)
        wrong = job | {"spec": job["spec"] | {"completionz": 2}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, "1.29", strict=True)

    def test_values_that_occur_twice_agree(self, jobset):
        assert set(jobset) == {"apiVersion", "kind", "metadata", "spec"}
        assert set(jobset["spec"]) == {"failurePolicy", "replicatedJobs"}
        (workers,) = jobset["spec"]["replicatedJobs"]
        spec = workers["template"]["spec"]
        (container,) = spec["template"]["spec"]["containers"]
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        assert spec["completions"] == spec["parallelism"] == int(variables["NUM_PROCESSES"])
        name = jobset["metadata"]["name"]
        port = container["ports"][0]["containerPort"]
        assert f"--coordinator={name}-{workers['name']}-0-0.{name}:{port}" in container["args"][0]

    def test_errors_that_a_retry_does_not_fix_end_it(self, jobset):
        """Exit code 1, but not a lost peer, a stop or a signal; the names are those of JobSet's own API."""
        (rule,) = jobset["spec"]["failurePolicy"]["rules"]
        assert rule == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
        spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
        evicted, of_pods = spec["podFailurePolicy"]["rules"]
        assert evicted == {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
        assert of_pods["action"] == "FailJob"
        (container,) = spec["template"]["spec"]["containers"]
        assert of_pods["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [1]}
        assert spec["backoffLimit"] == 0

    @pytest.mark.parametrize(
        ("code", "is_done", "expected"),
        [(0, True, 0), (0, False, 75), (1, True, 1), (75, False, 75), (137, False, 137)],
    )
    def test_a_pod_succeeds_only_where_the_run_is_done(self, jobset, tmp_path, code, is_done, expected):
        (container,) = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
        if is_done:
            (tmp_path / layout.DONE).touch()
        python = tmp_path / "python3"
        python.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/arguments\nexit {code}\n')
        python.chmod(0o755)
        environment = {entry["name"]: entry["value"] for entry in container["env"]} | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "WORKDIR": str(tmp_path), "JOB_COMPLETION_INDEX": "1",
        }  # fmt: skip
        done = subprocess.run([*container["command"], *container["args"]], env=environment, check=False)
        assert done.returncode == expected
        assert (tmp_path / "arguments").read_text().splitlines() == [
            "-m", "vpvae_jax.main", "--config=coco:quantizer=vp,codebook_size=16384",
            f"--workdir={tmp_path}", "--coordinator=vpvae-workers-0-0.vpvae:8476", "--num_processes=2",
            "--process_id=1",
        ]  # fmt: skip

    def test_a_pod_passes_sigterm_on_and_waits(self, jobset, tmp_path):
        (container,) = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
        python = tmp_path / "python3"
        python.write_text(
            f"#!/bin/bash\ntrap 'sleep 0.5; touch {tmp_path}/saved; exit 0' TERM\ntouch {tmp_path}/started\n"
            "while true; do sleep 0.05; done\n"
        )
        python.chmod(0o755)
        environment = {entry["name"]: entry["value"] for entry in container["env"]} | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "WORKDIR": str(tmp_path), "JOB_COMPLETION_INDEX": "1",
        }  # fmt: skip
        pod = subprocess.Popen([*container["command"], *container["args"]], env=environment)
        try:
            while not (tmp_path / "started").exists():
                time.sleep(0.01)
            pod.terminate()
            assert pod.wait(20) == TRY_AGAIN
            assert (tmp_path / "saved").exists()
        finally:
            pod.kill()
