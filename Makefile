# `make` alone lists the tasks.
ifneq ($(shell uname),Linux)
$(error Linux is needed: README.md)
endif
PYTHON ?= python3.11
python := .venv/bin/python
# What a test calls is not to have the arguments of the make that called the tests.
unmade := env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u ARGS
pytest := $(unmade) $(python) -m pytest
.DEFAULT_GOAL := help
.PHONY: bootstrap pictures promote quantise restore crds validate hooks diff secrets cluster cluster-down e2e e2e-gitops e2e-nodes e2e-orders e2e-rollouts help push demo run test test-bare test-long check format load lock stubs settings images servers samples bench faults sbom audit licences clean venv venv-dev

##@ See it work
demo: samples ## recognise real photographs end to end, show a table, exit 0 if every row is right
	@$(python) -m services.local demo

run: samples ## start all services and stay up; Ctrl-C stops them
	@$(python) -m services.local run

##@ Work on it
test: venv-dev samples ## run every test but the long ones
	@$(pytest) $(ARGS)

test-long: venv-dev samples ## run the long tests: thousands of random schedules and inputs, new ones each time
	@$(pytest) -m long --hypothesis-profile=long $(ARGS)

test-bare: venv-dev samples ## run them in a fresh clone with no tool on PATH: pass, or say what to install
	@$(unmade) scripts/test-bare $(ARGS)

check: venv-dev ## lint, types, formatting, import rules, licences, what is generated, readable secrets
	@scripts/check

format: venv-dev ## format the code and fix what can be fixed
	@$(python) -m ruff check --fix-only --quiet .
	@$(python) -m ruff format .

faults: venv-dev samples ## strike the whole pipeline with random faults, and account for every picture
	@$(python) -m faults $(ARGS)

bench: venv-dev samples ## measure speed and memory against bare baselines, and accuracy: ARGS=accuracy LFW=folder
	@$(python) -m bench $(ARGS)

load: venv-dev samples ## a believable load on a Facestack, bounded, with a report: URL=http://... [PAGE=...] [ARGS="--users 50"]
	@FACESTACK_URL="$(URL)" FACESTACK_PAGE="$(PAGE)" $(python) -m locust --headless --only-summary \
	  --locustfile load/locustfile.py --users 10 --spawn-rate 1 --run-time 2m --stop-timeout 180 --html var/load.html $(ARGS)

lock: venv-dev ## write the hash-locked requirements anew after a change in pyproject.toml; ARGS=--upgrade
	@scripts/lock $(ARGS)

sbom: venv-dev ## write var/sbom, what each image is made of; ARGS=--images looks into the built images, too
	@$(python) -m scripts.sbom $(ARGS)

audit: venv-dev ## look up in OSV's database whether what is locked has known vulnerabilities
	@scripts/audit $(ARGS)

licences: venv-dev ## write docs/licences.md anew after a change in pyproject.toml
	@scripts/licences

stubs: venv-dev ## generate the Python stubs of face.proto anew
	@PATH="$(CURDIR)/.venv/bin:$$PATH" $(python) -W ignore -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. \
	  --mypy_out=quiet:. --mypy_grpc_out=quiet:. services/common/facerecog/face.proto

settings: venv-dev ## write docs/settings.md anew after a change of a setting
	@tables=$$(PYTHONPATH=. .venv/bin/settings-doc generate --output-format=markdown --templates=scripts/templates \
	  $(patsubst services/%/settings.py,--module=services.%.settings,$(wildcard services/*/settings.py))) && \
	  page=$$(sed '/^<!-- From here on/q' docs/settings.md) && printf '%s\n%s\n' "$$page" "$$tables" >docs/settings.md

pictures: venv-dev ## draw the pictures of the cluster anew, and the table of who asks whom
	@e2e/no-registry/build-tools .tools/bin flux-build
	@$(python) -m scripts.pictures

quantise: venv-dev samples ## make the network of CenterFace in 8 bits anew
	@$(python) -m bench.quantise

crds: ## generate Flux's definitions anew after a change of its versions
	@scripts/crds

validate: venv-dev ## build what Flux would apply to each cluster, and check it: CLUSTER=one of flux/clusters
	@scripts/manifest-tools
	@$(python) -m scripts.gitops.checks $(CLUSTER) $(ARGS)

hooks: venv-dev ## let git check before each commit and push; .venv/bin/pre-commit uninstall undoes it
	@.venv/bin/pre-commit install

images: ## build the services' container images with Docker, for machines like this one
	@scripts/images $(ARGS)

push: ## push them to a registry, which may have them already: REGISTRY=ghcr.io/OWNER/facestack
	@scripts/push "$(REGISTRY)"

##@ Run it on Kubernetes
cluster: venv-dev samples ## make a kind cluster with the pipeline on it, to play with
	@$(python) -m e2e up

cluster-down: venv-dev ## delete that cluster
	@$(python) -m e2e down

secrets: venv-dev ## passwords of a cluster, encrypted in git: CLUSTER=kind CONTEXT=... [ROTATE=database | FINISH=1]
	@{ command -v sops && command -v age-keygen; } >/dev/null || e2e/no-registry/build-tools .tools/bin sops age-keygen
	@$(python) -m scripts.secrets "$(CLUSTER)" --context="$(CONTEXT)" --new="$(NEW)" --rotate="$(ROTATE)" \
	  --finish="$(FINISH)" --key="$(AGE_KEY)"

# A KUBECONFIG of the environment is somebody's daily cluster: only one that is given here counts.
e2e := $(pytest) -c e2e/pytest.ini --rootdir=e2e $(if $(KEEP),--keep-cluster) $(if $(WIPE),--wipe) \
  $(if $(filter command,$(firstword $(origin KUBECONFIG))),--kubeconfig=$(KUBECONFIG))
e2e: venv-dev samples ## test it on a kind cluster, made for it; KEEP=1 keeps that cluster
	@$(e2e) $(if $(ARGS),$(ARGS),-m "not long" e2e)

e2e-gitops: venv-dev samples ## the long test of what a git push can do: rollouts, bad pushes, outages, secrets, recovery
	@$(e2e) e2e/gitops $(ARGS)

e2e-nodes: venv-dev samples ## the long test of nodes that go away: drained, lost, lost with the data
	@$(e2e) e2e/test_nodes.py $(ARGS)

e2e-rollouts: venv-dev samples ## the long test of rollouts under load: 16 of them, 10,000 requests, versions side by side
	@$(e2e) e2e/test_rollouts.py $(ARGS)

e2e-orders: venv-dev samples ## the long test of applying all at once: three random orders
	@$(e2e) e2e/test_flow.py -k random_order --orders=3 $(ARGS)

diff: venv-dev ## what a push would change: CLUSTER=folder of flux/clusters, and CONTEXT=kubectl's or BASE=a commit
	@e2e/no-registry/build-tools .tools/bin flux-build
	@$(python) -m scripts.gitops.diff $(CLUSTER) $(if $(BASE),--base="$(BASE)") $(if $(CONTEXT),--context="$(CONTEXT)") $(ARGS)

promote: venv-dev ## a commit that has TO run what FROM runs healthy: FROM=staging TO=production [CONTEXT=...]
	@e2e/no-registry/build-tools .tools/bin flux-build
	@$(python) -m scripts.promote "$(FROM)" "$(TO)" $(if $(CONTEXT),--context="$(CONTEXT)")

bootstrap: ## let a cluster follow git: CLUSTER=folder of flux/clusters, GIT_URL=ssh://... or https://...
	@scripts/bootstrap

restore: ## bring a backup to an empty cluster: KEY=private key of age [BACKUP=name] [CONTEXT=kubectl's]
	@scripts/restore "$(KEY)" $(BACKUP)

##@ Get what it needs
servers: ## install all that tests start: MariaDB, Chromium, NSQ, versitygw, checks of manifests ...
	@scripts/servers

samples: venv ## get the two sample photographs, and the weights of an engine
	@scripts/get-samples

clean: ## remove what was built or downloaded here; stays: var/local, the data of `make run`, and clusters
	@rm -rf .venv .tools build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@rm -rf var/samples var/models var/demo var/faults var/e2e var/images var/sbom var/*.log
	@find services scripts bench faults e2e -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nVariables: PYTHON=/path/to/python3.11, ARGS="arguments of what is run"\n'
	@printf 'of make e2e: KUBECONFIG=file of an existing cluster, KEEP=1 to keep the cluster, WIPE=1 to empty one\n'

venv:
	@scripts/venv local "$(PYTHON)"

venv-dev:
	@scripts/venv dev "$(PYTHON)"
