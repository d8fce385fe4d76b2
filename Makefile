# `make demo` and `make test` do all their own set-up on a machine with Python 3.11 and nothing else.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CORES ?= 2
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slurm bench lint format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(BIN)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,onnx,openvino]'
	touch $@

setup: $(BIN)/.ready  ## make the environment under .venv

demo: setup  ## the whole workflow on a made-up province, in a few minutes
	$(BIN)/snakemake --cores $(CORES) --rerun-incomplete

# Two files of tests at once: threads of one that only wait are not to keep the other from working.
test: setup  ## all tests but those on SLURM
	OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist loadfile

# These also wait for timers of SLURM: one more file at once than there are cores, the longest first.
# TESELA_SLURM=required fails where this machine cannot start a SLURM, and does not skip.
TESELA_SLURM ?= 1
test-slurm: setup  ## the workflow on SLURMs that the tests start here (needs root)
	OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 TESELA_SLURM=$(TESELA_SLURM) $(BIN)/python -m pytest \
		-n $$((1 + $(CORES))) --dist loadfile --no-loadscope-reorder tests/slurm

# SIZE=54000x38000 REPEAT=3 ONLY=label_raster,shard FOLDER= OUT= PEERS= IMAGERY= KEEP=1, and for
# ONLY=networks MINUTES=6 ONLY_NETWORKS=unet,smp WEIGHTS=: see tests/benchmarks/README.md.
bench: setup  ## benchmarks at full size, for hours: benchmarks.json and a table
	$(BIN)/python -m tests.benchmarks $(if $(SIZE),--size $(SIZE)) $(if $(REPEAT),--repeat $(REPEAT)) \
		$(if $(ONLY),--only $(ONLY)) $(if $(FOLDER),--folder "$(FOLDER)") \
		$(if $(OUT),--out "$(OUT)") $(if $(PEERS),--peers "$(PEERS)") \
		$(if $(PEER_SHARE),--peer-share $(PEER_SHARE)) \
		$(if $(IMAGERY),--imagery "$(IMAGERY)") $(if $(KEEP),--keep) \
		$(if $(MINUTES),--minutes $(MINUTES)) $(if $(WEIGHTS),--weights "$(WEIGHTS)") \
		$(if $(MODEL),--model "$(MODEL)") \
		$(if $(ONLY_NETWORKS),--only-networks $(ONLY_NETWORKS))

lint: setup  ## ruff, mypy, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakemake --lint

format: setup  ## bring the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the demo's run and the caches; the environment stays
	rm -rf run .snakemake .pytest_cache .mypy_cache .ruff_cache
