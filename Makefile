# Two commands: `make run` and `make test`. What they need is installed by `make setup` where it is missing.

SHELL := /bin/bash
.DEFAULT_GOAL := help
CARGO ?= cargo
STORY := --config examples/flowline.yaml

.PHONY: help setup run build test test-rust check fmt bench images reference crash fuzz

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Install what is missing on a Debian machine
	@.ci/setup

build: setup ## Build Flowline and the servers of the examples
	$(CARGO) build --release -p flowline-app -p flowline-story

run: build ## Start Flowline with the examples and everything they need
	@examples/run

test: setup ## Run every check and every test
	@.ci/test

check: ## Format, lints, licences: what is quick
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fmt: ## Format the code
	$(CARGO) fmt --all

bench: setup ## Measure, next to a floor without an engine
	$(CARGO) build --release -p flowline-app -p flowline-bench
	$(CARGO) run --release -p flowline-bench -- all

images: setup ## Build the container images from Debian packages, without a registry
	@deploy/images

reference: ## Generate the reference pages from the code
	$(CARGO) run -q -p flowline-app -- components --markdown docs/reference/components

crash: ## The long storm: a thousand kills
	FLOWLINE_KILLS=1000 FLOWLINE_MESSAGES=200000 $(CARGO) test --release -p flowline-app --test crash -- --nocapture
