# Two commands matter: `make run` and `make test`. Each does its own set-up on a fresh Debian 12 with root and a Rust toolchain.

TARGET  := x86_64-unknown-linux-musl
STRATA  := target/release/strata
REPORT  := report/compare.html

.PHONY: run test build install setup peers bench lint clean

## run: set up, build, compare the layers on the embedded image, leave an HTML report
run:
	@scripts/setup.sh run
	@$(MAKE) --no-print-directory build
	@mkdir -p report
	@$(STRATA) compare --html $(REPORT)
	@echo "The report is $(REPORT): open it in a browser."

## test: set up and run every test
test:
	@scripts/setup.sh test
	@scripts/test.sh

## build: the one static command, at target/release/strata
build:
	@cargo build --release --locked -p strata
	@install -D -m 0755 target/$(TARGET)/release/strata $(STRATA).new && mv -f $(STRATA).new $(STRATA)

## install: the command, its manual pages and completions, below PREFIX (default /usr/local)
PREFIX ?= /usr/local
install: build
	install -D -m 0755 $(STRATA) $(DESTDIR)$(PREFIX)/bin/strata
	$(STRATA) manual --directory $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(STRATA) completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/strata
	$(STRATA) completions zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_strata
	$(STRATA) completions fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/strata.fish

## peers: install the programs that `strata compare --peers` and `make bench` measure beside Strata
peers:
	@scripts/peers.sh

## bench: container start and unpacking beside crun, runc and umoci, in one run
bench:
	@scripts/setup.sh bench
	@$(MAKE) --no-print-directory build
	@cargo run --quiet --release --locked -p strata-compare --bin bench -- --strata $(STRATA)

## lint: formatting and lints, warnings are errors
lint:
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --locked -- -D warnings

clean:
	@cargo clean
	@rm -rf report
