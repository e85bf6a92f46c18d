import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from services.testing.servers import find_binary

FOLDER = Path(__file__).parents[1]
OFFICIAL = "kindest/node:v1.34.11"
OWN = "localhost/kind-node:v1.34.4"


class Machine:
    """A copy of the scripts, and commands of a fake machine in front of the real ones."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "e2e" / "no-registry"
        shutil.copytree(FOLDER, self.folder, ignore=shutil.ignore_patterns("tests"))
        self.commands = root / "commands"
        self.commands.mkdir()

    def has(self, command: str, script: str, *, folder: Path | None = None) -> None:
        path = (folder or self.commands) / command
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, script: str, *args: str, **settings: str) -> subprocess.CompletedProcess[str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if name not in {"DOCKER_HOST", "NODE_IMAGE", "E2E_TOOLS_CACHE"}
        }
        path = f"{self.commands}:{os.environ['PATH']}"
        return subprocess.run(
            [self.folder / script, *args],
            env={**clean, "PATH": path, **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_running_engine_is_used_as_it_is(machine: Machine) -> None:
    machine.has("docker", "exit 0")
    machine.has("dockerd", "exit 1")
    assert machine.run("engine").returncode == 0


@pytest.mark.parametrize(
    ("docker", "settings", "message"),
    [
        ("echo 'permission denied' >&2; exit 1", {}, "sudo usermod -aG docker somebody"),
        ("echo 'no route' >&2; exit 1", {"DOCKER_HOST": "tcp://far"}, "DOCKER_HOST=tcp://far"),
        ("echo 'is it running?' >&2; exit 1", {}, "until 'docker info' works for somebody"),
    ],
)
def test_a_user_without_an_engine_is_told_what_to_do(
    machine: Machine, docker: str, settings: dict[str, str], message: str
) -> None:
    machine.has("docker", docker)
    machine.has("id", '[ "$1" = -u ] && echo 1000 || echo somebody')
    result = machine.run("engine", **settings)
    assert result.returncode == 1
    assert message in result.stderr


def test_a_user_is_told_which_packages_are_missing(machine: Machine) -> None:
    machine.has("id", "echo 1000")
    machine.has("dpkg-query", '[ "$4" = there ] && echo "install ok installed"')
    result = machine.run("install", "a node", "there", "away")
    assert result.returncode == 1
    assert result.stderr.strip().endswith("'sudo apt-get install away'")


def images(machine: Machine, *, here: str = "", current: bool = False, registry: bool) -> str:
    """Let the image be chosen; return what was chosen and what was done for it."""
    done = machine.folder / "done"
    done.write_text("")
    machine.has(
        "docker",
        f"""case $1 in
  image) [ "$3" = "{here}" ] ;;
  pull) echo pulled >>{done}; {"true" if registry else "false"} ;;
esac""",
    )
    machine.has(
        "build-node",
        f"""case $1 in
  --name) echo {OWN} ;;
  --check) {"true" if current else "false"} ;;
  *) echo built >>{done} ;;
esac""",
        folder=machine.folder,
    )
    result = machine.run("node-image")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in result.stderr, "the choice is not told"
    return " ".join([result.stdout.strip(), *done.read_text().split()])


def test_the_official_node_image_is_taken_where_a_registry_answers(machine: Machine) -> None:
    assert images(machine, registry=True) == f"{OFFICIAL} pulled"
    assert images(machine, registry=True, here=OFFICIAL) == OFFICIAL


def test_a_node_image_is_built_once_where_no_registry_answers(machine: Machine) -> None:
    assert images(machine, registry=False) == f"{OWN} pulled built"
    assert images(machine, registry=False, current=True) == OWN


def test_the_user_may_choose_the_node_image(machine: Machine) -> None:
    machine.has("docker", "exit 1")
    assert machine.run("node-image", NODE_IMAGE="mine:1").stdout.strip() == "mine:1"


def test_the_node_image_is_keyed_by_what_it_is_made_of(machine: Machine) -> None:
    def key() -> str:
        return machine.run("build-node", "--key").stdout

    assert machine.run("build-node", "--name").stdout.strip() == OWN
    first = key()
    (machine.folder / "tools/versitygw/go.mod").write_text("something else")
    assert key() == first
    seen = {first}
    for name in ("tools/coredns/go.mod", "image/routes"):
        with (machine.folder / name).open("a") as file:
            file.write("# changed\n")
        seen.add(key())
    (machine.folder / "image/routes").chmod(0o644)
    assert len(seen | {key()}) == 4


def test_only_an_image_with_the_key_counts_as_built(machine: Machine) -> None:
    key = machine.run("build-node", "--key").stdout.strip()
    machine.has("docker", f"echo {key}")
    assert machine.run("build-node", "--check").returncode == 0
    machine.has("docker", "echo another")
    assert machine.run("build-node", "--check").returncode == 1


@pytest.mark.parametrize(
    ("name", "version", "usable"),
    [
        ("kubectl", "Client Version: v1.33.0", True),
        ("kubectl", "Client Version: v1.37.2", True),
        ("kubectl", "Client Version: v1.32.4-dispatcher", False),
        ("kubectl", "nonsense", False),
        ("kind", "0.33.1", True),
        ("kind", "0.20.0", False),
    ],
)
def test_a_tool_on_the_path_is_used_if_its_version_fits(
    machine: Machine, name: str, version: str, *, usable: bool
) -> None:
    machine.has(name, f"echo '{version}'")
    machine.has("build-tools", 'echo "built $2" >&2', folder=machine.folder)
    result = machine.run("tool", name)
    own = machine.folder.parents[1] / ".tools" / "bin"
    assert Path(result.stdout.strip()).parent == (machine.commands if usable else own)
    binary = {"kubectl": "kubernetes", "kind": "kind"}[name]
    assert result.stderr.strip() == ("" if usable else f"built {binary}")


def test_the_readme_names_the_oldest_tools_that_are_used() -> None:
    readme = (FOLDER.parents[1] / "README.md").read_text()
    pins = {"kind": "sigs.k8s.io/kind", "k8s": "k8s.io/kubernetes"}
    kind, kubernetes = (
        int(re.findall(rf"{module} v\d+\.(\d+)", (FOLDER / f"tools/{name}/go.mod").read_text())[0])
        for name, module in pins.items()
    )
    assert f".io) 0.{kind} and kubectl 1.{kubernetes - 1} or newer" in readme


def test_a_binary_comes_from_the_archive_that_has_it_with_its_key(
    machine: Machine, tmp_path: Path
) -> None:
    find_binary("zstd")
    machine.has("go", '[ "$1" = env ] && echo go1 || { echo built >"$6"; chmod +x "$6"; }')
    keys = machine.run("build-tools", str(tmp_path / "first"), "kind", "nsqd")
    assert keys.returncode == 0, keys.stderr
    right = dict(line.split() for line in (tmp_path / "first" / "KEYS").read_text().splitlines())
    cache = tmp_path / "cache"
    cache.mkdir()
    held = {"bin": {"kind": right["kind"], "nsqd": "old"}, "bin-2": {"nsqd": right["nsqd"]}}
    for archive, tools in held.items():
        files = tmp_path / archive
        files.mkdir()
        (files / "KEYS").write_text("".join(f"{name} {key}\n" for name, key in tools.items()))
        for name in tools:
            (files / name).write_text(archive)
            (files / name).chmod(0o755)
        packed = cache / f"{archive}.tar.zst"
        subprocess.run(["tar", "--zstd", "-cf", packed, "KEYS", *tools], cwd=files, check=True)
    out = tmp_path / "out"
    done = machine.run("build-tools", str(out), "kind", "nsqd", "etcd", E2E_TOOLS_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    found = {name: (out / name).read_text().strip() for name in ("kind", "nsqd", "etcd")}
    assert found == {"kind": "bin", "nsqd": "bin-2", "etcd": "built"}


@pytest.mark.parametrize("name", ["nsq", "versitygw"])
def test_a_stand_in_is_built_of_the_version_that_manifests_name(name: str) -> None:
    listed = subprocess.check_output([FOLDER / "images" / "build", "--list"], text=True)
    tag = re.findall(rf"^{name} \S+:(\S+)$", listed, re.MULTILINE)
    modules = (FOLDER / "tools" / name / "go.mod").read_text()
    assert tag == re.findall(rf"^require github\.com/\w+/{name} (\S+)$", modules, re.MULTILINE)


@pytest.mark.parametrize(
    ("before", "setting", "upgraded"),
    [
        ("10.6.5-MariaDB", "1", True),
        ("10.11.2-MariaDB", "1", False),
        ("10.6.5-MariaDB", "", False),
    ],
)
def test_another_minor_version_of_mariadb_gets_new_system_tables_if_that_is_asked_for(
    machine: Machine, before: str, setting: str, *, upgraded: bool
) -> None:
    data = machine.folder / "data"
    data.mkdir()
    (data / ".prepared").touch()
    (data / "mysql_upgrade_info").write_text(before)
    calls = machine.folder / "calls"
    machine.has(
        "mariadbd",
        f"""case "$*" in
  --version) echo "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for linux" ;;
  *--help) echo "socket and more"; echo "datadir {data}"; echo "socket /run/here" ;;
  *--skip-grant-tables) echo alone >>{calls}; trap 'kill $!; exit 0' TERM; sleep 60 & wait ;;
  *) echo "serving with $*" >>{calls} ;;
esac""",
    )
    machine.has("mariadb-admin", f'[ "$1" = --socket=/run/here ] && grep -q alone {calls}')
    machine.has("mariadb-upgrade", f"echo upgrade >>{calls}")
    done = machine.run("images/mariadb-entrypoint", "--port=1", MARIADB_AUTO_UPGRADE=setting)
    assert done.returncode == 0, done.stderr
    manifest = FOLDER.parents[1] / "base" / "mariadb" / "statefulset.yaml"
    assert '- {name: MARIADB_AUTO_UPGRADE, value: "1"}\n' in manifest.read_text()
    before_serving = ["alone", "upgrade"] if upgraded else []
    assert calls.read_text().splitlines() == [*before_serving, "serving with --port=1"]


def test_a_withheld_capability_is_taken_from_containers_and_processes(machine: Machine) -> None:
    machine.has("runc", 'echo "$@"')
    capabilities = {"bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"], "effective": []}
    expected = {"bounding": ["CAP_CHOWN"], "effective": []}
    bundle = machine.folder / "bundle"
    bundle.mkdir()
    config = bundle / "config.json"
    config.write_text(json.dumps({"process": {"capabilities": capabilities}, "root": {}}))
    create = ("--root", "/run", "create", "--bundle", str(bundle), "--pid-file", "pid", "name")
    assert machine.run("runc-capped", *create).stdout.split() == list(create)
    assert json.loads(config.read_text())["process"]["capabilities"] == expected

    process = machine.folder / "process.json"
    process.write_text(json.dumps({"capabilities": capabilities, "args": ["true"]}))
    execute = ("exec", "--detach", "--process", str(process), "name")
    assert machine.run("runc-capped", *execute).stdout.split() == list(execute)
    assert json.loads(process.read_text())["capabilities"] == expected
