package archtest

// may says what the files of one package that are not tests may import.
type may struct {
	std    []string // of the standard library; nil: all but package testing
	ours   []string // packages of this module, by folder
	others []string // modules of others; a package in them counts
}

// Modules of others, by what they are to us.
const (
	pgx         = "github.com/jackc/pgx/v5"
	natsGo      = "github.com/nats-io/nats.go"
	natsServer  = "github.com/nats-io/nats-server/v2"
	migrate     = "github.com/golang-migrate/migrate/v4"
	prometheus  = "github.com/prometheus/client_golang"
	uuid        = "github.com/google/uuid"
	cel         = "cel.dev/cel-go"
	yaml        = "go.yaml.in/yaml/v3"
	kong        = "github.com/alecthomas/kong"
	chi         = "github.com/go-chi/chi/v5"
	kinOpenAPI  = "github.com/getkin/kin-openapi"
	oapiRuntime = "github.com/oapi-codegen/runtime"
	oapiNetHTTP = "github.com/oapi-codegen/nethttp-middleware"
	procfs      = "github.com/prometheus/procfs"
	decimal     = "github.com/govalues/decimal"
	xText       = "golang.org/x/text"
	jsonSchema  = "github.com/santhosh-tekuri/jsonschema/v6"
	errgroup    = "golang.org/x/sync" // waiting for goroutines, wherever some are started
)

// table is who may import whom. A new edge is a change of the design: add it
// here in the same commit, and say why.
var table = map[string]may{
	// The pure core. What may not be here is the point: no clock is read, no
	// socket, file or database is opened. time is for its types.
	"internal/saga": {
		std: []string{
			"bytes", "crypto/sha256", "encoding/hex", "encoding/json", "errors", "fmt", "hash/fnv", "io", "math", "reflect", "slices", "strconv", "strings", "time", "unicode/utf8",
		},
		others: []string{cel, yaml},
	},
	// The wire format, shared with the public SDK: it must drag nothing along.
	"internal/wire": {others: []string{uuid}},
	// The outbox is a product of its own and knows neither sagas nor NATS.
	"internal/outbox": {others: []string{pgx, uuid, prometheus}},
	// An outbox of another make: the same publisher, and a mapping in YAML.
	"internal/drain": {ours: []string{"internal/outbox"}, others: []string{pgx, uuid, prometheus, yaml}},
	// The bus implements the outbox's Publisher, and knows no saga.
	"internal/bus": {ours: []string{"internal/outbox", "internal/wire"}, others: []string{natsGo}},
	// Beside the core, which only carries the schema's text.
	"internal/inputschema": {others: []string{jsonSchema}},
	"internal/coordinator": {ours: []string{"internal/inputschema", "internal/outbox", "internal/saga", "internal/wire"}, others: []string{errgroup, pgx, prometheus, uuid}},
	// Requests: the root package is openapi.yaml; of saga it uses the names.
	"internal/http": {
		ours:   []string{".", "internal/coordinator", "internal/http/api", "internal/saga", "internal/telemetry", "internal/wire"},
		others: []string{chi, decimal, kinOpenAPI, oapiNetHTTP, prometheus, uuid, xText},
	},
	"internal/http/api":  {others: []string{chi, oapiRuntime}}, // generated
	"internal/embedded":  {others: []string{natsServer, pgx}},
	"internal/telemetry": {others: []string{prometheus}},
	// How the two commands are started, and the flags that they share: pgx and
	// nats.go know what a URL and a file of credentials mean.
	"internal/program": {others: []string{kong, natsGo, pgx}},
	"internal/testkit": {std: anyStd, ours: []string{"internal/embedded", "migrations"}, others: []string{pgx}},
	// The bench drives the real programs from outside, on servers that it
	// starts, answers their commands or has the shop do it, and reads from /proc
	// what they used.
	"internal/bench": {
		// bus: the relay is woken as a server wakes it.
		ours:   []string{"examples/order/shop", "internal/bus", "internal/embedded", "migrations", "participant"},
		others: []string{errgroup, natsGo, pgx, procfs},
	},
	// Random worlds for tests: nothing in them may depend on the machine.
	"internal/simulation": {std: []string{"encoding/json", "fmt", "math/rand/v2"}, ours: []string{"internal/saga"}},
	"internal/archtest":   {},
	"internal/e2e":        {},
	"deploy":              {},

	".":           {}, // openapi.yaml, embedded
	"definitions": {},
	"migrations":  {others: []string{migrate, pgx}},

	// The public SDK. wire is the one package that it shares with the engine.
	"participant": {ours: []string{"internal/wire"}, others: []string{natsGo, pgx, prometheus}},
	// An example is what a user could write: the public surface and nothing of
	// internal/. prometheus because the SDK takes a Registerer.
	"examples/order":      {ours: []string{"examples/order/shop"}, others: []string{kong, natsGo, pgx}},
	"examples/order/shop": {ours: []string{"participant"}, others: []string{natsGo, pgx, prometheus}},

	// A program wires everything, so it may know everything but the test kit.
	"cmd/server": {
		ours: []string{
			"definitions", "examples/order/shop", "internal/bench", "internal/bus", "internal/coordinator", "internal/embedded",
			"internal/http", "internal/outbox", "internal/program", "internal/saga", "internal/telemetry", "migrations",
		},
		others: []string{errgroup, natsGo, pgx, prometheus},
	},
	// The sidecar is the outbox and the bus, so that it can run beside any
	// service; see also neverReached. It installs the outbox's own migrations.
	"cmd/relay": {
		ours:   []string{"internal/bus", "internal/drain", "internal/outbox", "internal/program", "internal/telemetry", "migrations"},
		others: []string{natsGo, pgx, prometheus},
	},
}

// anyStd is the whole standard library, package testing included.
var anyStd = []string{"*"}

// onlyIn holds modules that one package of ours hides from all others.
var onlyIn = map[string]string{
	natsServer: "internal/embedded", // 12 MB that no production program needs
	migrate:    "migrations",
	cel:        "internal/saga",
	kinOpenAPI: "internal/http",
	jsonSchema: "internal/inputschema",
}

// neverReached is what a package must not have in its program, by whatever way.
var neverReached = map[string][]string{
	"cmd/relay": {
		"internal/saga", "internal/coordinator", "internal/http", "internal/embedded", "internal/testkit", "internal/bench",
		natsServer, cel, kinOpenAPI, chi,
	},
	// What users import must not pull in the engine.
	"participant":         {"internal/saga", "internal/coordinator", "internal/outbox", "internal/bus", natsServer, cel},
	"examples/order":      {"internal/saga", "internal/coordinator", "internal/outbox", "internal/bus", natsServer, cel},
	"examples/order/shop": {"internal/saga", "internal/coordinator", "internal/outbox", "internal/bus", natsServer, cel},
}
