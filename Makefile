# `make demo` and `make test` create .venv and install everything first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
SPACE := .venv-space
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q
COMMON := .cache/transformers-common-tests
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test lint docs test-slow test-common test-oldest test-space chromium bench clean

demo: $(VENV)/.ready  ## train on memes drawn by us, no download
	$(BIN)/mm-orient demo

test: $(VENV)/.ready  ## lint and the default tests
	$(MAKE) lint
	$(PYTEST) -n 2 --dist loadfile

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy modeling_mm_orient/*.py

docs: $(VENV)/.ready  ## the site, strictly: build/docs
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test-slow: $(VENV)/.ready  ## tests that take minutes
	$(PYTEST) -m slow -n 2 --dist loadfile

test-common: $(VENV)/.ready  ## transformers' own common tests against these classes
	$(BIN)/python tests/common/lay_out.py $(COMMON)
	cd $(COMMON) && $(CURDIR)/$(BIN)/python -m pytest -q -W ignore tests/models/mm_orient

test-oldest: $(OLDEST)/.ready  ## the default tests with the oldest supported versions
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q -n 2 --dist loadfile

test-space: $(SPACE)/.ready  ## the page of `mm-orient serve`, in Chromium too where there is one
	OMP_NUM_THREADS=1 $(SPACE)/bin/python -m pytest -q -m "slow or not slow" tests/test_space.py

chromium:  ## Debian's, for test-space; where it cannot be installed, the tests in a browser are skipped
	command -v chromium google-chrome >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium) || true

$(VENV)/.ready: setup.py constraints.txt install_torch_scatter.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch setuptools wheel
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test,faiss,text-removal,task-features,ray,onnx,completion]"
	bash install_torch_scatter.sh $(BIN)
	touch $@

$(OLDEST)/.ready: setup.py constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --constraint constraints-oldest.txt torch setuptools wheel
	$(OLDEST)/bin/pip install --quiet --constraint constraints-oldest.txt --editable ".[test,faiss]"
	touch $@

# over .venv, whose Pillow is newer than gradio takes
$(SPACE)/.ready: $(VENV)/.ready
	$(PYTHON) -m venv $(SPACE)
	echo $(CURDIR)/$(VENV)/lib/python*/site-packages > $$(echo $(SPACE)/lib/python*/site-packages)/over.pth
	grep -v "^pillow==" constraints.txt > $(SPACE)/constraints.txt
	$(SPACE)/bin/pip install --quiet --constraint $(SPACE)/constraints.txt --editable ".[space,test-space]"
	touch $@

bench: $(VENV)/.ready  ## speed against peers, as ratios; BENCH="message_passing extraction" for some
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.speed $(BENCH)

clean:
	rm -rf $(VENV) $(OLDEST) $(SPACE) .cache build *.egg-info demo_run
