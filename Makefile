# Everything is a target of this file; `make` alone lists them. ARGS are handed on:
#   make test ARGS="-k walk_through -n 0"     make bench ARGS="--quick starts"
.DEFAULT_GOAL := help
.PHONY: help demo test test-vm bench lint format clean setup
BIN := .venv/bin
# one more than there are processors: tests wait more than they compute
JOBS ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 2) + 1)))
ARGS ?=

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## run commands on this machine's own files, look at what they would do, discard it
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/demo $(ARGS)

test: setup lint ## lint, and all tests
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-vm: setup ## what needs another kernel: cgroup v2, systemd, AppArmor, SELinux: in virtual machines (needs root)
	@scripts/test-vm $(ARGS)
	@scripts/test-vm --legacy $(ARGS)

bench: setup ## measure, as ratios against the engines that are installed
	@$(BIN)/python bench/run.py $(ARGS)

lint: setup ## ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## rewrite the sources as `make lint` wants them
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove what was built
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +
	rm -f src/lamina/linux/*.so src/lamina/runtime/init/lamina-init src/lamina/supervisor/lamina-idle
	rm -rf src/*.egg-info

setup:
	@scripts/setup
