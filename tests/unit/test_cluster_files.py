"""The files of cluster/: valid for Ray and KubeRay, one version everywhere, and each role's nodes as the product asks.

No cloud, no cluster and no network: Ray's own code reads the `ray up` files and the RayCluster; KubeRay's field list
(cluster/kuberay/fields-v1.7.0.json) stands in for its CRDs.
"""

import copy
import json
import os
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from ray_distil.runtime.metrics import COUNTERS, GAUGES

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FIELDS = json.loads((CLUSTER / "kuberay" / "fields-v1.7.0.json").read_text(encoding="utf-8"))
RAY_UP = ["ray-up-aws.yaml", "ray-up-gcp.yaml"]
KUBERAY = ["kuberay/raycluster.yaml", "kuberay/rayjob.yaml"]
GPUS_OF_INSTANCE = {"g6e.48xlarge": 8, "g6e.12xlarge": 4, "p5.48xlarge": 8, "p4d.24xlarge": 8}
ROLES = {"teacher", "student"}


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def pinned(package: str) -> str:
    """The version that pyproject.toml pins, in whichever list."""
    lines = chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    found = {m[1] for line in lines if (m := re.fullmatch(rf"{package}(?:\[.*\])?==(.+)", line))}
    assert len(found) == 1, (package, found)
    return found.pop()


def spec_of(manifest: Any) -> Any:
    return manifest["spec"]["rayClusterSpec"] if manifest["kind"] == "RayJob" else manifest["spec"]


def mistakes(kind: str, value: Any, where: str = "") -> list[str]:
    """Where a value is not of the kind that the field list gives it: unknown fields and wrong types."""
    if kind == "any":
        return []
    if kind.startswith("["):
        if not isinstance(value, list):
            return [f"{where}: not a list"]
        return [m for i, item in enumerate(value) for m in mistakes(kind[1:-1], item, f"{where}[{i}]")]
    if kind in FIELDS["types"]:
        if not isinstance(value, dict):
            return [f"{where}: not a {kind}"]
        fields = FIELDS["types"][kind]
        unknown = [f"{where}.{name}: {kind} has no such field" for name in value if name not in fields]
        known = (mistakes(fields[name], item, f"{where}.{name}") for name, item in value.items() if name in fields)
        return [*unknown, *chain.from_iterable(known)]
    if kind == "strings":
        fits = isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    elif kind in ("string", "boolean", "integer", "number"):
        types = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}[kind]
        fits = isinstance(value, types) and (kind == "boolean" or not isinstance(value, bool))
    else:
        fits = value in kind.split("|")
    return [] if fits else [f"{where}: {value!r} is not {kind}"]


def kuberay_node_types(name: str) -> dict[str, Any]:
    """The node types that Ray's autoscaler makes of a manifest."""
    config = {"metadata": {"name": "test", "namespace": "default"}, "spec": spec_of(read(name))}
    return _derive_autoscaling_config_from_ray_cr(config)["available_node_types"]


def ray_up_config(name: str) -> dict[str, Any]:
    """A `ray up` file with the provider's defaults, as `ray up` fills them in before its first call to the cloud."""
    config = prepare_config(read(name))
    validate_config(config)
    return config


def node_types(name: str) -> dict[str, Any]:
    return kuberay_node_types(name) if name in KUBERAY else ray_up_config(name)["available_node_types"]


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_takes_the_ray_up_files(name: str) -> None:
    config = ray_up_config(name)
    assert sum(kind["max_workers"] for kind in config["available_node_types"].values()) == config["max_workers"]
    # Ray's defaults would install another Ray over that of the image.
    assert config["head_setup_commands"] == config["worker_setup_commands"] == []


@pytest.mark.parametrize("name", RAY_UP)
@pytest.mark.parametrize("place", [(), ("docker",), ("auth",), ("available_node_types", "teacher")])
def test_ray_refuses_an_unknown_key(name: str, place: tuple[str, ...]) -> None:
    config = prepare_config(read(name))
    node = config
    for key in place:
        node = node[key]
    node["unknown"] = 1
    with pytest.raises(jsonschema.ValidationError, match="unknown"):
        validate_config(config)


@pytest.mark.parametrize("name", RAY_UP)
def test_commands_are_shell(name: str) -> None:
    config = read(name)
    commands = [c for key, value in config.items() if key.endswith("_commands") for c in value]
    assert len(commands) >= 6
    for command in commands:
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, (command, checked.stderr)


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_knows_every_field(name: str) -> None:
    manifest = read(name)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert name == f"kuberay/{manifest['kind'].lower()}.yaml"
    assert mistakes(manifest["kind"], manifest, name) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda spec: spec.update(idleTimeoutSeconds=1), "RayClusterSpec has no such field"),
        (lambda spec: spec["authOptions"].update(secret="a"), "AuthOptions has no such field"),
        (lambda spec: spec["autoscalerOptions"].update(version="v3"), "'v3' is not v1|v2"),
        (lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "is not strings"),
        (lambda spec: spec["workerGroupSpecs"][0].update(minReplicas="0"), "'0' is not integer"),
        (lambda spec: spec["workerGroupSpecs"][1]["template"].update(nodeSelector={}), "PodTemplateSpec has no such"),
        (
            lambda spec: spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0].update(envs=[]),
            "Container has",
        ),
    ],
)
@pytest.mark.parametrize("name", KUBERAY)
def test_an_unknown_field_of_kuberay_is_found(name: str, change: Any, told: str) -> None:
    manifest = copy.deepcopy(read(name))
    change(spec_of(manifest))
    found = mistakes(manifest["kind"], manifest)
    assert len(found) == 1
    assert told in found[0]


def test_an_unknown_field_of_a_rayjob_is_found() -> None:
    manifest = read("kuberay/rayjob.yaml")
    manifest["spec"]["ttlSecondsAfterFinish"] = 1
    assert mistakes("RayJob", manifest) == [".spec.ttlSecondsAfterFinish: RayJobSpec has no such field"]


def test_job_and_cluster_have_one_spec() -> None:
    assert spec_of(read("kuberay/rayjob.yaml")) == spec_of(read("kuberay/raycluster.yaml"))


@pytest.mark.parametrize("name", RAY_UP + KUBERAY)
def test_each_role_offers_one_unit_a_gpu(name: str) -> None:
    kinds = node_types(name)
    assert set(kinds) > ROLES
    for kind, settings in kinds.items():
        offered = {resource: settings["resources"].get(resource, 0) for resource in ROLES}
        gpus = settings["resources"].get("GPU", 0)
        assert offered == {role: gpus if role == kind else 0 for role in ROLES}, kind
        assert (gpus > 0) == (kind in ROLES), kind
        assert settings["min_workers"] == 0, kind


@pytest.mark.parametrize("name", RAY_UP)
def test_gpus_are_those_of_the_machines(name: str) -> None:
    for role in sorted(ROLES):
        settings = read(name)["available_node_types"][role]
        if machine := settings["node_config"].get("machineType"):
            gpus = int(machine.rpartition("-")[2].removesuffix("g"))
        else:
            machine = settings["node_config"]["InstanceType"]
            assert machine in GPUS_OF_INSTANCE, f"add the number of GPUs of {machine} to GPUS_OF_INSTANCE"
            gpus = GPUS_OF_INSTANCE[machine]
        assert settings["resources"]["GPU"] == gpus, role


def test_gpus_of_pods_are_requested_and_limited_alike() -> None:
    for group in spec_of(read("kuberay/raycluster.yaml"))["workerGroupSpecs"]:
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]


@pytest.mark.parametrize("name", RAY_UP + KUBERAY)
def test_the_head_does_no_work(name: str) -> None:
    kinds = node_types(name)
    head = read(name)["head_node_type"] if name in RAY_UP else "headgroup"
    assert kinds[head]["resources"]["CPU"] == 0
    assert "GPU" not in kinds[head]["resources"]
    assert kinds[head]["max_workers"] == 0


def test_teachers_are_preemptible_and_students_are_not() -> None:
    aws = {kind: s["node_config"] for kind, s in read("ray-up-aws.yaml")["available_node_types"].items()}
    gcp = {kind: s["node_config"] for kind, s in read("ray-up-gcp.yaml")["available_node_types"].items()}
    groups = {g["groupName"]: g["template"]["spec"] for g in spec_of(read(KUBERAY[0]))["workerGroupSpecs"]}
    assert {k for k, c in aws.items() if c.get("InstanceMarketOptions") == {"MarketType": "spot"}} == {"teacher"}
    assert {k for k, c in gcp.items() if c.get("scheduling", {}).get("preemptible")} == {"teacher"}
    spot = {k for k, pod in groups.items() if any("spot" in t["key"] for t in pod.get("tolerations", []))}
    assert spot == {"teacher"}
    for role in ROLES:
        assert groups[role]["nodeSelector"] == {"ray-distil/role": role}


def test_the_cache_of_a_teacher_holds_both_teachers_of_the_largest_recipe() -> None:
    """DeepSeek-V3-0324 and DeepSeek-R1, 689 GB each; 1Ti is 1,100 GB."""
    (teacher,) = [g for g in spec_of(read(KUBERAY[0]))["workerGroupSpecs"] if g["groupName"] == "teacher"]
    limit = teacher["template"]["spec"]["volumes"][0]["emptyDir"]["sizeLimit"]
    assert int(limit.removesuffix("Ti")) * 2**40 > 2 * 689e9


@pytest.mark.parametrize("file", ["rayjob", "raycluster"])
def test_each_sed_of_the_readme_gives_a_file_that_kuberay_takes(file: str) -> None:
    text = (CLUSTER / "README.md").read_text(encoding="utf-8").replace("\\\n", "")
    commands = re.findall(r"^    (sed .*cluster/kuberay/\w+\.yaml) \| kubectl apply", text, re.MULTILINE)
    assert len(commands) == 4
    environment = {"REGISTRY": "reg", "BUCKET": "b", "CONTAINER": "c", "ACCOUNT": "a", "PATH": os.environ["PATH"]}
    accounts = []
    for command in commands:
        own = re.sub(r"kuberay/\w+", f"kuberay/{file}", command)
        made = subprocess.run(
            ["bash", "-c", own], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        manifest = yaml.safe_load(made.stdout)
        assert mistakes(manifest["kind"], manifest, file) == []
        assert "REGISTRY" not in made.stdout
        pods = [g["template"] for g in [spec_of(manifest)["headGroupSpec"], *spec_of(manifest)["workerGroupSpecs"]]]
        accounts.append({pod["spec"].get("serviceAccountName") for pod in pods})
        if "abfs" in command:
            assert all(pod["metadata"]["labels"] == {"azure.workload.identity/use": "true"} for pod in pods)
        if file == "rayjob" and "BUCKET" in command:
            assert "BUCKET" not in made.stdout
    assert accounts == [{None}, {None}, {"ray-distil"}, {"ray-distil"}]


def test_the_readme_names_every_metric() -> None:
    readme = (CLUSTER / "README.md").read_text(encoding="utf-8")
    for kind, metrics in (("counter", COUNTERS), ("gauge", GAUGES)):
        for name, (description, labels) in metrics.items():
            assert f"| `{name}` | {kind} | {description} | {', '.join(f'`{label}`' for label in labels)} |" in readme


def test_one_version_everywhere() -> None:
    docker = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    base = re.search(r"^FROM (\S+)$", docker, re.MULTILINE)
    assert base
    assert base[1].startswith(f"rayproject/ray:{pinned('ray')}-py311-cu")
    assert f"vLLM {pinned('vllm')} needs torch {pinned('torch')}" in docker
    image = f"REGISTRY/ray-distil:{PROJECT['version']}"
    assert image in docker
    for name in RAY_UP:
        assert read(name)["docker"]["image"] == image
    for name in KUBERAY:
        spec = spec_of(read(name))
        assert spec["rayVersion"] == pinned("ray")
        pods = [group["template"]["spec"] for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]]
        assert {container["image"] for pod in pods for container in pod["containers"]} == {image}


def test_the_readme_names_the_versions() -> None:
    readme = (CLUSTER / "README.md").read_text(encoding="utf-8")
    assert f"Ray {pinned('ray')}, vLLM {pinned('vllm')}" in readme
    assert f"/ray-distil:{PROJECT['version']} ." in readme
    operator = re.search(r"kuberay-operator .* --version (\d+\.\d+)\.\d+$", readme, re.MULTILINE)
    assert operator
    assert FIELDS["operator"].startswith(f"v{operator[1]}.")  # patch releases aside
    files = {str(path.relative_to(CLUSTER)) for path in CLUSTER.rglob("*") if path.is_file()}
    for file in files - {"README.md", "Dockerfile.dockerignore"}:
        assert f"`{file}`" in readme, file


def test_the_image_holds_what_it_copies_and_the_jobs_start_from_it() -> None:
    docker = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    kept = (CLUSTER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sources = [s for line in re.findall(r"^COPY --chown=\S+ (.+)$", docker, re.MULTILINE) for s in line.split()[:-1]]
    assert {"pyproject.toml", "ray_distil", "jobs"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in kept
    assert re.findall(r"^USER (\S+)$", docker, re.MULTILINE)[-1] == "ray"
    assert re.findall(r"^WORKDIR (\S+)$", docker, re.MULTILINE) == ["/app"]
    assert "gpu" in PROJECT["optional-dependencies"]
    assert '".[gpu]"' in docker


def test_a_job_takes_its_cluster_with_it() -> None:
    spec = read("kuberay/rayjob.yaml")["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"]
    assert "deletionStrategy" not in spec  # KubeRay refuses it beside shutdownAfterJobFinishes


@pytest.mark.parametrize("name", RAY_UP + KUBERAY)
def test_the_autoscaler_is_v2_and_a_token_is_asked(name: str) -> None:
    config = read(name)
    if name in KUBERAY:
        spec = spec_of(config)
        assert spec["enableInTreeAutoscaling"] is True
        assert spec["autoscalerOptions"]["version"] == "v2"
        assert spec["authOptions"] == {"mode": "token", "secretName": "ray-auth"}
        return
    assert "RAY_enable_autoscaler_v2=1 ray start --head" in config["head_start_ray_commands"][-1]
    options = config["docker"]["run_options"]
    (folder,) = config["file_mounts"]
    assert "--env RAY_AUTH_MODE=token" in options
    assert f"--env RAY_AUTH_TOKEN_PATH={folder}/auth_token" in options
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert f". {folder}/secrets.env;" in config[key][-1]


def test_the_model_cache_lies_on_a_volume() -> None:
    """So do the temporary files of the product, and not those of Ray, which its log collectors look for in /tmp."""
    docker = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    home = re.search(r"^ENV HF_HOME=(/\w+)/\w+ TMPDIR=(/\w+) RAY_TMPDIR=/tmp$", docker, re.MULTILINE)
    assert home
    assert home[1] == home[2]
    for name in RAY_UP:
        assert any(option.endswith(f":{home[1]}") for option in read(name)["docker"]["run_options"]), name
    for group in spec_of(read(KUBERAY[0]))["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        (mount,) = pod["containers"][0]["volumeMounts"]
        assert mount == {"name": pod["volumes"][0]["name"], "mountPath": home[1]}
