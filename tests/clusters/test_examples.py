"""The Slurm script and the RayJob of examples/clusters, against what Slurm and KubeRay take."""

import copy
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from sso_data.cli.app import app

EXAMPLES = Path(__file__).parents[2] / "examples" / "clusters"
SLURM = (EXAMPLES / "slurm.sh").read_text()
SBATCH = """
account array begin chdir cluster-constraint clusters comment constraint container
contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot
dependency distribution error exclude exclusive export export-file extra-node-info get-user-env
gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint hold
input job-name kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind
mem-per-cpu mem-per-gpu mincpus network nice no-kill no-requeue nodefile nodelist nodes ntasks
ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output overcommit
oversubscribe parsable partition power prefer priority profile propagate qos quiet reboot
requeue reservation signal sockets-per-node spread-job switches thread-spec threads-per-core
time time-min tmp use-min-nodes verbose wait wait-all-nodes wckey
"""
"""Options of sbatch(1), Slurm 22.05."""
VALUES = {
    "time": r"(\d+-)?\d+(:\d+){0,2}",
    "signal": r"([BR]+:)?[A-Z0-9]+(@\d+)?",
    "open-mode": "append|truncate",
    **dict.fromkeys(("nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task"), r"\d+"),
}


def refused_sbatch(script: str) -> list[str]:
    """The #SBATCH lines that sbatch would not take, or would not see."""
    head, *rest = re.split(r"^[^#\n].*$", script, maxsplit=1, flags=re.MULTILINE)
    found = re.findall(r"^#SBATCH.*", "".join(rest), flags=re.MULTILINE)
    for line in re.findall(r"^#SBATCH.*", head, flags=re.MULTILINE):
        option = re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line)
        name, value = option.groups() if option else ("", "")
        if name not in SBATCH.split() or not re.fullmatch(VALUES.get(name, ".*"), value or ""):
            found.append(line)
    return found


def test_the_slurm_script() -> None:
    assert subprocess.run(["bash", "-n"], input=SLURM, text=True, check=False).returncode == 0
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", EXAMPLES / "slurm.sh"], check=True)
    assert SLURM.count("#SBATCH ") > 8 and not refused_sbatch(SLURM)
    assert refused_sbatch(SLURM.replace("--nodes=4", "--node=4")) == ["#SBATCH --node=4"]
    assert refused_sbatch(SLURM.replace("=24:00:00", "=a day")) == ["#SBATCH --time=a day"]
    assert len(refused_sbatch("x=1\n" + SLURM)) > 8  # sbatch stops reading at the first command


def test_ray_start_takes_the_options_of_the_slurm_script() -> None:
    scripts = pytest.importorskip("ray.scripts.scripts")
    known = {name for option in scripts.start.params for name in option.opts}
    used = re.findall(r"--[a-z-]+", " ".join(re.findall(r"(?:ray start|resources=).*", SLURM)))
    assert {"--head", "--block", "--num-gpus"} <= set(used) <= known
    health = {name for option in scripts.healthcheck.params for name in option.opts}
    assert "--address" in health


@pytest.mark.parametrize("file", ["slurm.sh", "rayjob.yaml"])
def test_the_command_is_one(file: str) -> None:
    text = (EXAMPLES / file).read_text()
    if file == "rayjob.yaml":
        words = shlex.split(yaml.safe_load(text)["spec"]["entrypoint"])
    else:
        words = shlex.split(re.findall(r"^sso-data .*(?= &)", text, flags=re.MULTILINE)[0])
    command = get_command(app)
    assert words[0] == "sso-data" and "--cluster" in words
    context = command.make_context("sso-data", words[1:2], resilient_parsing=True)
    generate: Any = command.get_command(context, words[1])  # type: ignore[attr-defined]
    found = generate.make_context(words[1], words[2:])
    assert found.params["cluster"] == "auto" and found.params["engine"] == "vllm"


def rayjob() -> Any:
    return yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())


def errors_of(manifest: Any) -> list[str]:
    validators = pytest.importorskip("jsonschema")
    schema = yaml.safe_load(Path(__file__).with_name("rayjob.schema.yaml").read_text())
    found = validators.Draft202012Validator(schema).iter_errors(manifest)
    return [error.json_path for error in found]


def test_the_rayjob() -> None:
    manifest = rayjob()
    assert errors_of(manifest) == []
    cluster = manifest["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounted = {mount["name"] for one in pod["containers"] for mount in one["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("$.spec", lambda job: job["spec"].update(entryPoint="x")),
        ("$.spec.backoffLimit", lambda job: job["spec"].update(backoffLimit="3")),
        (
            "$.spec.rayClusterSpec.headGroupSpec.rayStartParams['num-cpus']",
            lambda job: head(job)["rayStartParams"].update({"num-cpus": 0}),
        ),
        ("$.spec.rayClusterSpec.headGroupSpec", lambda job: head(job).pop("template")),
    ],
)
def test_the_schema_refuses(path: str, change: Callable[[Any], object]) -> None:
    broken = copy.deepcopy(rayjob())
    change(broken)
    assert errors_of(broken) == [path]


def head(job: Any) -> Any:
    return job["spec"]["rayClusterSpec"]["headGroupSpec"]
