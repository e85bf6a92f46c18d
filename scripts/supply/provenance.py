"""Where a release comes from, as SLSA's provenance v1 says it: https://slsa.dev/provenance/v1."""

from collections.abc import Mapping
from typing import Any, Final

# Says what the fields below mean: https://actions.github.io/buildtypes/workflow/v1
_BUILD_TYPE: Final = "https://actions.github.io/buildtypes/workflow/v1"


class ProvenanceError(Exception):
    """A variable that GitHub sets in each run of a workflow is not there."""


def predicate(environment: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the predicate of the run of a workflow whose variables are given.

    Raises ProvenanceError.
    """
    try:
        repository = f"{environment['GITHUB_SERVER_URL']}/{environment['GITHUB_REPOSITORY']}"
        ref = environment["GITHUB_REF"]
        workflow = environment["GITHUB_WORKFLOW_REF"]
        path = workflow.removeprefix(f"{environment['GITHUB_REPOSITORY']}/").partition("@")[0]
        run = f"{environment['GITHUB_RUN_ID']}/attempts/{environment['GITHUB_RUN_ATTEMPT']}"
        return {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": {
                    "workflow": {"ref": ref, "repository": repository, "path": path}
                },
                "internalParameters": {
                    "github": {
                        "event_name": environment["GITHUB_EVENT_NAME"],
                        "repository_id": environment["GITHUB_REPOSITORY_ID"],
                        "repository_owner_id": environment["GITHUB_REPOSITORY_OWNER_ID"],
                        "runner_environment": environment["RUNNER_ENVIRONMENT"],
                    }
                },
                "resolvedDependencies": [
                    {
                        "uri": f"git+{repository}@{ref}",
                        "digest": {"gitCommit": environment["GITHUB_SHA"]},
                    }
                ],
            },
            "runDetails": {
                "builder": {"id": f"{environment['GITHUB_SERVER_URL']}/{workflow}"},
                "metadata": {"invocationId": f"{repository}/actions/runs/{run}"},
            },
        }
    except KeyError as error:
        raise ProvenanceError(
            f"{error.args[0]} is not set: only a run of a workflow can say where an image is from"
        ) from None
