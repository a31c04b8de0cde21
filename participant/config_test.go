package participant_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/participant"
)

func TestNewRefusesAConfigurationThatCannotWork(t *testing.T) {
	t.Parallel()
	nc := &nats.Conn{}
	taken := prometheus.NewRegistry()
	if _, err := participant.New(participant.Config{Service: "works", NATS: nc, Registerer: taken}); err != nil {
		t.Fatal(err)
	}
	if _, err := participant.New(participant.Config{Service: "others", NATS: nc, Registerer: taken}); err != nil {
		t.Errorf("two participants cannot share a registry: %v", err)
	}
	for name, tc := range map[string]struct {
		cfg  participant.Config
		says string
	}{
		"no service":         {participant.Config{NATS: nc}, "Service"},
		"no name":            {participant.Config{Service: "My.Works", NATS: nc}, "Service"},
		"no connection":      {participant.Config{Service: "works"}, "NATS"},
		"metrics registered": {participant.Config{Service: "works", NATS: nc, Registerer: taken}, "metrics"},
	} {
		if _, err := participant.New(tc.cfg); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, want an error that names %s", name, err, tc.says)
		}
	}
}

func TestAMistakeInTheProgramPanicsAtItsStart(t *testing.T) {
	t.Parallel()
	do := func(context.Context, pgx.Tx, participant.Command) (any, error) { return nil, nil }
	far := func(context.Context, participant.Command) (any, error) { return nil, nil }
	step := participant.Handlers{Do: do, Undo: do}
	for name, tc := range map[string]struct {
		pool     *pgxpool.Pool
		register func(*participant.Participant)
	}{
		"a name twice":               {new(pgxpool.Pool), func(p *participant.Participant) { p.Step("a", "b", step); p.Step("b", "c", step) }},
		"no name":                    {new(pgxpool.Pool), func(p *participant.Participant) { p.Step("a", "", step) }},
		"a name that is no token":    {new(pgxpool.Pool), func(p *participant.Participant) { p.Stateless("a.b", far) }},
		"no handler":                 {new(pgxpool.Pool), func(p *participant.Participant) { p.Step("a", "b", participant.Handlers{Undo: do}) }},
		"no external handler":        {new(pgxpool.Pool), func(p *participant.Participant) { p.External("a", "", participant.External{}) }},
		"no bulk handler":            {new(pgxpool.Pool), func(p *participant.Participant) { p.Bulk("a", "", participant.Bulk{}) }},
		"no stateless handler":       {nil, func(p *participant.Participant) { p.Stateless("a", nil) }},
		"an inbox without a pool":    {nil, func(p *participant.Participant) { p.Step("a", "b", step) }},
		"a far inbox without a pool": {nil, func(p *participant.Participant) { p.External("a", "", participant.External{Do: far}) }},
	} {
		p, err := participant.New(participant.Config{Service: "works", NATS: &nats.Conn{}, Pool: tc.pool})
		if err != nil {
			t.Fatal(err)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			tc.register(p)
		}()
	}
}

// Several processes of a service install the inbox when they start.
func TestInstallMayRunManyTimesAtOnce(t *testing.T) {
	t.Parallel()
	pool := testkit.Pool(t, testkit.EmptyDatabaseURL(t)+"&pool_max_conns=8")
	var installers sync.WaitGroup
	for range 16 {
		installers.Go(func() {
			if err := participant.Install(context.Background(), pool); err != nil {
				t.Error(err)
			}
		})
	}
	installers.Wait()
}
