"""The tag of the images follows what goes into them and nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def tag(folder: Path) -> str:
    done = subprocess.run([folder / "scripts" / "image-tag"], check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Copy what the script looks at, committed."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in ("services", "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "scripts").mkdir()
    scripts = ("scripts/image-tag", "scripts/images")
    for name in (*scripts, "pyproject.toml", ".dockerignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=all")
    return folder


def change(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as opened:
        opened.write("\n# changed\n")


def test_the_tag_starts_with_the_version(repository: Path) -> None:
    version, _, content = tag(repository).rpartition("-")
    assert f'version = "{version}"' in (repository / "pyproject.toml").read_text()
    assert len(content) == 12
    int(content, base=16)


@pytest.mark.parametrize(
    "file",
    [
        "services/receiver/app.py",
        "services/receiver/new.py",
        "services/common/settings.py",
        "services/frontend/static/style.css",
        "services/Dockerfile",
        "services/install",
        "requirements/common.txt",
        "requirements/receiver.txt",
        "services/face_recog/adapters/centerface.onnx",
        ".dockerignore",
    ],
)
def test_what_goes_into_an_image_changes_the_tag(repository: Path, file: str) -> None:
    before = tag(repository)
    change(repository / file)
    after = tag(repository)
    assert after != before
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=changed")
    assert tag(repository) == after


@pytest.mark.parametrize(
    "file",
    [
        "services/receiver/tests/test_receiver_api.py",
        "services/receiver/tests/new/data.txt",
        "services/receiver/__pycache__/app.cpython-311.pyc",
        "services/conftest.py",
        "services/testing/servers.py",
        "services/client/app.py",
        "services/local/app.py",
        "requirements/dev.txt",
        "requirements/local.txt",
        "base/components/images/kustomization.yaml",
        "docs/architecture.md",
        "README.md",
        "pyproject.toml",
    ],
)
def test_what_goes_into_no_image_leaves_the_tag(repository: Path, file: str) -> None:
    before = tag(repository)
    change(repository / file)
    assert tag(repository) == before


def test_a_file_that_is_renamed_or_removed_changes_the_tag(repository: Path) -> None:
    app = repository / "services" / "receiver" / "app.py"
    tags = {tag(repository)}
    app.rename(app.with_name("application.py"))
    tags.add(tag(repository))
    app.with_name("application.py").unlink()
    tags.add(tag(repository))
    assert len(tags) == 3


def test_a_new_version_changes_the_tag(repository: Path) -> None:
    project = repository / "pyproject.toml"
    before = tag(repository)
    project.write_text(project.read_text().replace('\nversion = "', '\nversion = "9', 1))
    assert tag(repository) == "9" + before


def test_a_fresh_clone_has_the_same_tag(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(repository), "clone")
    (tmp_path / "clone" / "scripts" / "image-tag").chmod(0o755)
    assert tag(tmp_path / "clone") == tag(repository)
