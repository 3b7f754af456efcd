# The menu over script/. Nothing is here that a script does not do: bare Debian has no make.
.DEFAULT_GOAL := help
.PHONY: help dev test lint deny fuzz sqlx openapi bench bench-figures bench-peers bench-k6 bench-overload bench-costs bench-compose hostile drill drill-table drill-smoke drill-local fresh image up down ci clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
dev: ## run Everbeat here, on an embedded PostgreSQL, with a simulated fleet
	./script/dev
test: ## all tests
	./script/test
lint: ## format, clippy, documentation
	./script/lint
deny: ## banned crates, licences and sources of the dependencies
	./script/deny
fuzz: ## every decoder of what callers send, for a while
	./script/fuzz
sqlx: ## write .sqlx anew after changing a migration or a query
	./script/sqlx
openapi: ## write docs/openapi anew after changing a route or a shape
	./script/openapi
bench: ## every figure that has a goal, with a summary in docs/performance.md (an hour and a half)
	./script/bench-all
bench-figures: ## figures beside an empty handler and PostgreSQL alone
	./script/bench figures
bench-peers: ## the same beside InfluxDB, FastAPI, etcd and Redis
	./script/bench-peers
bench-k6: ## the k6 scripts, with their thresholds
	./script/bench-k6
bench-overload: ## goodput and latency at twice and five times the capacity
	./script/bench-overload
bench-costs: ## what a request costs in CPU, WAL and storage, written to docs/capacity.md
	./script/bench-costs
bench-compose: ## durable readings on the compose deployment beside pgbench on its primary (needs Docker)
	./script/bench-compose
hostile: ## honest devices beside enemies of every kind, written to docs/security.md
	./script/hostile
drill: ## break the compose deployment on purpose and judge it (needs Docker)
	./script/drill
drill-table: ## take the runs of drill-report/ into docs/drill.md
	./script/drill-table drill-report/report.json
drill-smoke: ## the quick set of it
	./script/drill-smoke
drill-local: ## the drill on processes of this machine, without Docker
	./script/drill --local
fresh: ## prove the two commands in a bare Debian container (needs Docker)
	./script/fresh
image: ## build the container image (needs Docker)
	./script/image
up: ## the highly available deployment in containers (needs Docker)
	./script/up
down: ## stop it; its data stays
	./script/down
ci: ## everything that must hold
	./.ci/run
clean: ## remove what was built
	cargo clean
