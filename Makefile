# Everything that is built or installed goes to target/.

PYTHON ?= python3
TESTS  ?= client-py/tests tests
# Files stay together, so that each server a file starts is started once.
PYTEST ?= -n auto --maxprocesses 4 --dist loadfile

BROKER := mlflow-secrets-auth
CORE   := mlflow-secrets-auth-core
CLIENT := mlflow-secrets-auth-client-py

VENV  := target/venv
TOOLS := target/tools
LINT  := target/lint

# The interpreter itself, not a shim or a link to it, and its library for tests that embed it.
interpreter = $(shell $(PYTHON) -c 'import os, sys; print(os.path.realpath(sys.executable))')
libpython   = $(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
with_python = PYO3_PYTHON="$(interpreter)" LD_LIBRARY_PATH="$(libpython)$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}"
pip_install = install --quiet --disable-pip-version-check
say         = @printf '\033[1m▸ %s\033[0m\n'

.PHONY: help build wheel test test-rust test-python demo lint fmt bench clean openbao installed

help: ## this list
	@printf 'mlflow-secrets-auth: a credential broker for MLflow\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\n  make test TESTS=tests/test_x.py PYTEST="-x -k name"   a part of the tests\n'
	@printf '  make demo DEMO=vault                                  the demo against a real OpenBao (needs Go)\n\n'
	@printf 'Needs Rust 1.88 and Python 3.9 or newer, make and a C compiler.\n'

build: ## compile the broker and the client for development
	cargo build --locked -p $(BROKER)
	$(with_python) cargo build --locked -p $(CLIENT)

wheel: $(TOOLS)/.ready ## build the one wheel in target/wheels
	$(say) 'Building the wheel (the first time takes some minutes)'
	@new=$$(mktemp -d target/wheels.XXXXXX) && \
		PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" PYTHONPATH=packaging/wheel PYTHONDONTWRITEBYTECODE=1 \
		$(TOOLS)/bin/python -c "import backend; backend.build_wheel('$$new')" && \
		chmod 755 $$new && rm -rf target/wheels && mv $$new target/wheels
	@ls -l target/wheels/*.whl

test: test-rust test-python ## run all tests

test-rust: ## run the tests of the Rust code alone
	$(say) 'Tests of the library and the broker'
	cargo test --locked -p $(CORE) -p $(BROKER)
	$(say) 'Tests of the client'
	$(with_python) cargo test --locked -p $(CLIENT)

test-python: $(VENV)/.tests installed openbao ## run the tests in Python alone, end to end ones included
	$(say) 'Tests in Python'
	$(VENV)/bin/python -m pytest $(PYTEST) $(TESTS)

demo: $(VENV)/.mlflow installed $(if $(filter vault,$(DEMO)),openbao) ## see it work: a server, a rotation, a dead broker
	@$(VENV)/bin/python packaging/demo/demo.py $(if $(DEMO),--$(DEMO))

lint: $(LINT)/.ready ## check form, types, licences and sources
	$(say) 'Rust: form'
	cargo fmt --all --check
	$(say) 'Rust: clippy'
	cargo clippy --locked -p $(CORE) -p $(BROKER) --all-targets -- -D warnings
	$(with_python) cargo clippy --locked -p $(CLIENT) --all-targets -- -D warnings
	$(say) 'Python: ruff and mypy'
	$(LINT)/bin/ruff check .
	$(LINT)/bin/ruff format --check .
	$(LINT)/bin/mypy --python-executable $(LINT)/bin/python
	$(say) 'Licences, banned crates, sources'
	@if cargo deny --version >/dev/null 2>&1; then \
		cargo deny --locked check --hide-inclusion-graph licenses bans sources; \
	else \
		echo 'skipped: cargo-deny is not installed (cargo install --locked cargo-deny)'; \
	fi

fmt: $(LINT)/.ready ## bring all code into form
	cargo fmt --all
	$(LINT)/bin/ruff check --fix-only --quiet .
	$(LINT)/bin/ruff format .

bench: $(VENV)/.tests installed ## measure: latency, memory, start-up
	@if [ -e tests/bench.py ]; then \
		$(VENV)/bin/python tests/bench.py; \
	else \
		cargo bench --locked -p $(CORE) -p $(BROKER); \
	fi

clean: ## remove everything that was built
	cargo clean
	rm -rf target wheel.data client-py/python/mlflow_secrets_auth/_client*.so

# The real Vault of the tests, where there is a Go to build it with.
openbao:
	@if [ -e tests/openbao/build.sh ] && { command -v go || command -v /usr/local/go/bin/go; } >/dev/null; then \
		printf '\033[1m▸ %s\033[0m\n' 'OpenBao (building it, once, takes some minutes)'; \
		sh tests/openbao/build.sh; \
	else \
		echo 'OpenBao is not built here: the tests that need it are skipped'; \
	fi

# The wheel, in the virtual environment of the tests and the demo: always the one just built.
installed: wheel $(VENV)/.mlflow
	@$(VENV)/bin/python -m pip $(pip_install) --no-index --no-deps --force-reinstall target/wheels/*.whl

# Virtual environments are made once and used again, also offline, until their requirements change.
$(TOOLS)/.ready: packaging/requirements/wheel.txt
	$(say) 'Preparing the build tools'
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip $(pip_install) -r $<
	@touch $@

$(LINT)/.ready: packaging/requirements/lint.txt
	$(say) 'Preparing the linters'
	@$(PYTHON) -m venv $(LINT)
	@$(LINT)/bin/python -m pip $(pip_install) -r $<
	@touch $@

$(VENV)/.mlflow: tests/requirements.txt
	$(say) 'Installing MLflow'
	@$(PYTHON) -m venv $(VENV)
	@grep -E '^mlflow([^a-z_-]|$$)' $< >$(VENV)/mlflow.txt || echo mlflow >$(VENV)/mlflow.txt
	@$(VENV)/bin/python -m pip $(pip_install) -r $(VENV)/mlflow.txt
	@touch $@

$(VENV)/.tests: tests/requirements.txt $(VENV)/.mlflow
	$(say) 'Installing what the tests need'
	@$(VENV)/bin/python -m pip $(pip_install) -r $<
	@touch $@
