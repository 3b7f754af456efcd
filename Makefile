# The menu over script/. Nothing is here that a script does not do: bare Debian has no make.
.DEFAULT_GOAL := help
.PHONY: help dev test lint deny sqlx bench fresh image ci clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
dev: ## run Everbeat here, on an embedded PostgreSQL, with a simulated fleet
	./script/dev
test: ## all tests
	./script/test
lint: ## format, clippy, documentation
	./script/lint
deny: ## banned crates, licences and sources of the dependencies
	./script/deny
sqlx: ## write .sqlx anew after changing a migration or a query
	./script/sqlx
bench: ## criterion benches, and the service beside an empty handler
	./script/bench
fresh: ## prove the two commands in a bare Debian container (needs Docker)
	./script/fresh
image: ## build the container image (needs Docker)
	./script/image
ci: ## everything that must hold
	./.ci/run
clean: ## remove what was built
	cargo clean
