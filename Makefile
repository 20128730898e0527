# The two commands on a fresh machine are `make demo` and `make test`.
.DEFAULT_GOAL := help
JOB ?=
# As it was written: neither make nor the shell touches what is in it.
export DEMO_JOB := $(value JOB)

.PHONY: help
help:
	@echo "make demo              show the main job on this host"
	@echo "make demo JOB='...'    with a job of your own"
	@echo "make test              run all checks and tests"
	@echo "make test-kvm          run the tests on KVM, in an emulated host"
	@echo "make lint              run the checks only"

.PHONY: demo
demo:
	@tools/setup
	@.venv/bin/ghvm demo $(if $(value JOB),--job "$$DEMO_JOB")

.PHONY: setup-test
setup-test:
	@tools/setup test

.PHONY: lint
lint: setup-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

.PHONY: test
test: lint
	rm -f .coverage .coverage.*
	.venv/bin/pytest --numprocesses=auto --dist=worksteal --cov --cov-report=term:skip-covered

.PHONY: test-kvm
test-kvm: setup-test
	.venv/bin/pytest tests/kvm --durations=10
