# make demo    the diagnosis of sample_pcaps/incident.pcapng; its outputs stay in build/demo/
# make test    every test
# Both set up all they need: the virtual environment .venv, and tshark where apt can be used.

# The distribution's own Python where it will do: it is built with PGO and LTO, which those of version managers often are
# not, and analyses in an eighth less time.
PYTHON ?= $(or $(shell /usr/bin/python3 -c 'import sys, venv, ensurepip; print(sys.executable if sys.version_info >= (3, 11) else "")' 2>/dev/null),python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SUDO   := $(shell [ "$$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null && echo "sudo -n"; })
CAN_APT := $(shell command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || [ -n "$(SUDO)" ]; } && echo yes)
APT    := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0

.PHONY: help venv tshark browser demo test lint lab lab-score bench fuzz audit notebooks docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo | test | lint | lab | lab-score | bench | fuzz | audit | notebooks | docs | venv | tshark | browser | clean"

venv: $(READY)

# A stamp, and not the folder, says that the environment is whole: a venv that failed leaves half a folder behind.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "smtpscope needs Python 3.11 or newer as $(PYTHON) (or say: make PYTHON=python3.12 ...)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { [ -n "$(CAN_APT)" ] && { $(APT) update || true; $(APT) install -y --no-install-recommends python3-venv >/dev/null; }; } || \
	  { echo "$(PYTHON) comes without venv. Type this, then try again:  sudo apt-get install python3-venv" >&2; exit 1; }
	@[ -x $(BIN)/python ] && $(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

# $(call program,NAME,PACKAGES): installs the packages when NAME is missing and apt can be used; warns otherwise.
define program
	@command -v $(1) >/dev/null || { \
	  if [ -n "$(CAN_APT)" ]; then $(APT) update || true; $(APT) install -y --no-install-recommends $(2) >/dev/null || true; fi; \
	  command -v $(1) >/dev/null || echo "warning: no $(1); what needs it is skipped (sudo apt-get install $(2))" >&2; }
endef

# tshark is the second opinion, and the reader of other file formats; without it everything else works.
tshark:
	$(call program,tshark,tshark)

# Chromium looks at the HTML report; only the tests of that need it.
browser:
	$(call program,chromedriver,chromium chromium-driver fonts-dejavu-core)

demo: venv tshark
	@mkdir -p build/demo
	@$(BIN)/smtpscope analyze sample_pcaps/incident.pcapng \
	  --json build/demo/incident.json --html build/demo/incident.html --plots build/demo/plots
	@echo; echo "More in build/demo/: incident.html (open it in a browser), incident.json, plots/"

test: venv tshark
	$(BIN)/python -m pytest

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The laboratory makes the samples: network namespaces, real mailers, tcpdump. Needs root.
lab: venv
	$(SUDO) $(abspath $(BIN)/python) sample_pcaps/lab/run.py --install
	$(SUDO) $(abspath $(BIN)/python) sample_pcaps/lab/run.py --all

lab-score: venv
	$(BIN)/python sample_pcaps/lab/score.py --readme

bench: venv tshark
	$(BIN)/python tests/bench/run.py --install

fuzz: venv
	$(BIN)/python tests/fuzz/run.py
	$(BIN)/python tests/fuzz/killed.py

# Needs the network: without an advisory database it fails, and does not pass.
audit: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'bandit[toml]>=1.8' 'pip-audit>=2.7'
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml analyzer
	$(BIN)/pip-audit --strict --skip-editable

notebooks: venv
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

# Writes the rules' pages anew, and the outputs and pictures that the Markdown files show; the tests demand that they are true.
docs: venv
	$(BIN)/python -m analyzer.detect.handbook
	$(BIN)/python tests/docs/examples.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
