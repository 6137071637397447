# Wraps the plain commands that the README gives.
VENV := .venv
PYTHON := $(VENV)/bin/python
SYSTEM_PYTHON ?= python3
STAMP := $(VENV)/.installed

.PHONY: install test quickstart tiny lint clean

install: $(STAMP)

$(STAMP): setup.py constraints.txt
	test -x $(PYTHON) || $(SYSTEM_PYTHON) -m venv $(VENV)
	$(PYTHON) -m pip install -c constraints.txt -e ".[demo,dicom,metrics,test]"
	touch $@

test: install
	$(PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadfile

quickstart: install
	$(PYTHON) train.py --cfg-path train_configs/quickstart/alignment.yaml train_configs/quickstart/finetune.yaml
	$(PYTHON) evaluate.py --cfg-path eval_configs/quickstart_untrained.yaml eval_configs/quickstart.yaml
	@echo
	@echo "Scores:      output/quickstart/scores.json"
	@echo "Page:        output/quickstart/report.html (open it in a browser)"
	@echo "Chat next:   $(PYTHON) demo.py"

# Trains the tiny parts that ship with the package again, from nothing, and puts them in their place.
tiny: install
	$(PYTHON) prepare.py tokenizers --cfg-path train_configs/tiny/1_llm.yaml --output output/tiny/tokenizers
	$(PYTHON) train.py --cfg-path train_configs/tiny/1_llm.yaml train_configs/tiny/2_vit.yaml \
		train_configs/tiny/3_stage1.yaml train_configs/tiny/4_stage2.yaml
	$(PYTHON) prepare.py tiny-parts --trained output/tiny
	$(PYTHON) train.py --cfg-path train_configs/quickstart/alignment.yaml train_configs/quickstart/finetune.yaml
	$(PYTHON) prepare.py tiny-parts --projection output/quickstart

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy xraygpt

clean:
	rm -rf output .mypy_cache .pytest_cache .ruff_cache
