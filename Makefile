# `make demo` and `make test` are all that a fresh machine needs; both work for
# root and for a user with sudo.

CARGO ?= cargo
BELLJAR = target/release/belljar

.PHONY: all demo test test-vm bench fuzz lint docs golden image deb deps install clean

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

# The tests on a Debian 13 under qemu: tests/vm/README.md.
test-vm:
	@tests/vm/suite

# STARTUP_BENCH, BACKENDS_BENCH, HOST_BENCH, GATEWAY_BENCH: options of the four, for example `-n 1`, one round.
bench: $(BELLJAR)
	@tests/deps crun bubblewrap podman runc python3 iproute2 openssl mitmproxy squid-openssl
	@python3 benches/startup.py $(BELLJAR) $(STARTUP_BENCH)
	@python3 benches/backends.py $(BELLJAR) $(BACKENDS_BENCH)
	@python3 benches/host.py $(BELLJAR) $(HOST_BENCH)
	@$(CARGO) build --release --quiet --example loadgen
	@python3 benches/gateway.py $(BELLJAR) $(GATEWAY_BENCH)

# Each target for BELLJAR_FUZZ_SECONDS (default 15).
fuzz:
	@fuzz/run

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --quiet --all-targets -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck -x -P SCRIPTDIR tests/vm/boot tests/vm/build tests/vm/inside tests/vm/jobs tests/vm/power tests/vm/power-begin tests/vm/power-look tests/vm/put tests/vm/run tests/vm/stop tests/vm/suite tests/vm/cases/*.sh tests/run tests/deps tests/youki tests/package contrib/debian/postinst contrib/debian/prerm contrib/debian/postrm tests/world/world.sh fuzz/run .ci/run oci/build; else echo "SKIPPED: shellcheck is not installed"; fi

docs:
	$(CARGO) run --quiet --example manpages

# Renews the golden bundles in oci/ after a change that is meant, as both callers.
golden:
	@new=$$(mktemp -d) && chmod 1777 $$new && BELLJAR_GOLDEN=$$new tests/run bundle && cp $$new/*.json oci/; code=$$?; rm -rf $$new; exit $$code

# The agent image: localhost/belljar-agent:latest, and an archive in target/agent-image.
image:
	@oci/build

# A Debian package in target/debian. cargo-deb comes from crates.io.
CARGO_DEB = target/tools/bin/cargo-deb
deb: $(BELLJAR)
	@$(CARGO_DEB) --version >/dev/null 2>&1 || { echo "building cargo-deb, once" >&2; $(CARGO) install --quiet --locked --root target/tools cargo-deb@3.8.0; }
	@$(CARGO_DEB) --quiet --no-build

install: $(BELLJAR)
	$(CARGO) install --path . --locked

clean:
	$(CARGO) clean
