package coordinator_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

// P11: while the outbox is full, new sagas are refused. Repetitions, replies,
// cancellations and an operator's restart are not, and when messages have left,
// sagas start again by themselves.
func TestAFullOutboxRefusesStartsAndNothingElse(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	reg := prometheus.NewRegistry()
	f.c = f.coordinator(func(cfg *coordinator.Config) {
		cfg.MaxOutboxRows, cfg.Metrics = 8, coordinator.NewMetrics(reg)
	})
	start := func(k *coordinator.IdempotencyKey) (coordinator.Started, error) {
		return f.c.Start(t.Context(), coordinator.StartRequest{Definition: "order", Input: json.RawMessage(`{}`), Key: k})
	}
	first, err := start(key("first", 1))
	if err != nil {
		t.Fatal(err)
	}
	f.answer(f.only(), wire.Succeeded)
	undone, err := start(key("undone", 1))
	if err != nil {
		t.Fatal(err)
	}
	commands := f.commands()
	charge := commands[0]
	f.answer(commands[1], wire.Failed)
	if s := f.get(undone.Saga.ID); s.Status != saga.Compensated {
		t.Fatalf("the saga is %s", s.Status)
	}

	testkit.Eventually(t, "starts are refused", 20*time.Second, func() (bool, string) {
		_, err := start(nil)
		return errors.Is(err, coordinator.ErrOutboxFull), fmt.Sprint(err)
	})
	if n := f.count(`SELECT count(*) FROM saga`); n < 6 {
		t.Errorf("refused after %d sagas", n)
	}
	if _, err := start(key("new", 1)); !errors.Is(err, coordinator.ErrOutboxFull) {
		t.Errorf("a start with a new key: %v", err)
	}
	if again, err := start(key("first", 1)); err != nil || !again.Replayed || again.Saga.ID != first.Saga.ID {
		t.Errorf("a repetition: %+v, %v", again, err)
	}
	f.do(f.c.Cancel(t.Context(), first.Saga.ID, coordinator.Operation{Reason: "r", Actor: "a"}))
	f.commands()
	f.answer(charge, wire.Succeeded)
	f.answer(f.only(), wire.Succeeded) // the refund
	f.answer(f.only(), wire.Succeeded) // the release
	if s := f.get(first.Saga.ID); s.Status != saga.Compensated {
		t.Errorf("the cancelled saga is %s", s.Status)
	}
	if _, err := f.c.Restart(t.Context(), undone.Saga.ID, coordinator.Operation{Reason: "r"}, coordinator.RestartRequest{}); err != nil {
		t.Errorf("a restart: %v", err)
	}
	if full, n := metric(t, reg, "saga_outbox_full"), metric(t, reg, "saga_outbox_rows"); full != 1 || n < 8 {
		t.Errorf("saga_outbox_full is %v with %v rows", full, n)
	}

	f.published()
	testkit.Eventually(t, "starts are accepted again", 20*time.Second, func() (bool, string) {
		_, err := start(key("new", 1))
		return err == nil, fmt.Sprint(err)
	})
	f.verifyHistory()
}

// P11: bytes count as well as rows.
func TestAnOutboxIsFullOfBytesToo(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.c = f.coordinator(func(cfg *coordinator.Config) { cfg.MaxOutboxBytes = 100_000 })
	large, err := json.Marshal(map[string]string{"note": fmt.Sprintf("%050000d", 0)})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "starts are refused", 20*time.Second, func() (bool, string) {
		_, err := f.c.Start(t.Context(), coordinator.StartRequest{Definition: "order", Input: large})
		return errors.Is(err, coordinator.ErrOutboxFull), fmt.Sprint(err)
	})
}
