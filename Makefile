# `make demo` and `make test` are all that a fresh machine needs; both work for
# root and for a user with sudo.

CARGO ?= cargo
BELLJAR = target/release/belljar

.PHONY: all demo test bench lint docs deps install clean

all: $(BELLJAR)

# cargo decides what has changed.
.PHONY: $(BELLJAR)
$(BELLJAR):
	$(CARGO) build --release --quiet

deps:
	@tests/deps crun

demo: deps $(BELLJAR)
	@$(BELLJAR) demo

test:
	@tests/run

bench: $(BELLJAR)
	@tests/deps crun bubblewrap podman python3
	@python3 benches/startup.py $(BELLJAR)

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --quiet --all-targets -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck tests/run tests/deps .ci/run; else echo "SKIPPED: shellcheck is not installed"; fi

docs:
	$(CARGO) run --quiet --example manpages

install: $(BELLJAR)
	$(CARGO) install --path . --locked

clean:
	$(CARGO) clean
