"""The provenance is that of the run: SLSA's fields, of GitHub's variables."""

import json

import pytest

from scripts.supply.__main__ import main

RUN = {
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "owner/facestack",
    "GITHUB_REF": "refs/tags/v0.1.0",
    "GITHUB_SHA": "0123456789abcdef0123456789abcdef01234567",
    "GITHUB_WORKFLOW_REF": "owner/facestack/.github/workflows/release.yaml@refs/tags/v0.1.0",
    "GITHUB_RUN_ID": "42",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_EVENT_NAME": "push",
    "GITHUB_REPOSITORY_ID": "7",
    "GITHUB_REPOSITORY_OWNER_ID": "8",
    "RUNNER_ENVIRONMENT": "github-hosted",
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in RUN.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.usefixtures("run")
def test_it_says_repository_commit_workflow_and_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["provenance"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "buildDefinition": {
            "buildType": "https://actions.github.io/buildtypes/workflow/v1",
            "externalParameters": {
                "workflow": {
                    "ref": "refs/tags/v0.1.0",
                    "repository": "https://github.com/owner/facestack",
                    "path": ".github/workflows/release.yaml",
                }
            },
            "internalParameters": {
                "github": {
                    "event_name": "push",
                    "repository_id": "7",
                    "repository_owner_id": "8",
                    "runner_environment": "github-hosted",
                }
            },
            "resolvedDependencies": [
                {
                    "uri": "git+https://github.com/owner/facestack@refs/tags/v0.1.0",
                    "digest": {"gitCommit": RUN["GITHUB_SHA"]},
                }
            ],
        },
        "runDetails": {
            "builder": {"id": f"https://github.com/{RUN['GITHUB_WORKFLOW_REF']}"},
            "metadata": {
                "invocationId": "https://github.com/owner/facestack/actions/runs/42/attempts/2"
            },
        },
    }


def test_outside_of_a_run_there_is_none(
    run: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run.delenv("GITHUB_SHA")
    assert main(["provenance"]) == 1
    assert capsys.readouterr().err == (
        "provenance: GITHUB_SHA is not set: "
        "only a run of a workflow can say where an image is from\n"
    )
