# Wraps the plain commands that the README gives.
VENV := .venv
PYTHON := $(VENV)/bin/python
SYSTEM_PYTHON ?= python3
STAMP := $(VENV)/.installed

.PHONY: install test quickstart tiny lint clean

install: $(STAMP)

$(STAMP): setup.py constraints.txt
	test -x $(PYTHON) || $(SYSTEM_PYTHON) -m venv $(VENV)
	$(PYTHON) -m pip install -c constraints.txt -e ".[demo,test]"
	touch $@

test: install
	$(PYTHON) -m pytest

quickstart: install
	$(PYTHON) train.py --cfg-path train_configs/quickstart/alignment.yaml
	$(PYTHON) train.py --cfg-path train_configs/quickstart/finetune.yaml
	$(PYTHON) evaluate.py --cfg-path eval_configs/quickstart_untrained.yaml
	$(PYTHON) evaluate.py --cfg-path eval_configs/quickstart.yaml
	@echo
	@echo "Scores:      output/quickstart/scores.json"
	@echo "Page:        output/quickstart/report.html (open it in a browser)"
	@echo "Chat next:   $(PYTHON) demo.py"

# Trains the tiny parts that ship with the package again, from nothing.
tiny: install
	set -e; for cfg in 1_llm 2_vit 3_stage1 4_stage2; do \
	  $(PYTHON) train.py --cfg-path train_configs/tiny/$$cfg.yaml; \
	done

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy xraygpt

clean:
	rm -rf output .mypy_cache .pytest_cache .ruff_cache
