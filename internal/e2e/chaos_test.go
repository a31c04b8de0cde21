package e2e

import (
	"testing"
	"time"
)

// P1, P2, P3, P5, P8: the server process is killed at random moments.
func TestOrdersSurviveKillingTheServer(t *testing.T) {
	t.Parallel()
	s := start(t, "skald")
	c := s.during(8, s.server.restart)
	s.settle(2 * time.Minute)
	s.audit(c)
	s.listen()
}

// P9: the relay process is killed at random moments.
func TestOrdersSurviveKillingTheRelay(t *testing.T) {
	t.Parallel()
	s := start(t, "skald")
	c := s.during(8, s.relay.restart)
	s.settle(2 * time.Minute)
	s.audit(c)
	s.listen()
}

// P5: the participants' process is killed at random moments.
func TestOrdersSurviveKillingTheParticipants(t *testing.T) {
	t.Parallel()
	s := start(t, "skald")
	c := s.during(8, s.participants.restart)
	s.settle(2 * time.Minute)
	s.audit(c)
	s.listen()
}

// P4: the whole JetStream store is deleted, again and again, while sagas are
// in flight.
func TestOrdersSurviveNATSForgettingEverything(t *testing.T) {
	t.Parallel()
	s := start(t, "skald")
	c := s.during(3, func() {
		s.nats.Halt()
		if err := s.nats.Wipe(); err != nil {
			t.Error(err)
		}
		if err := s.nats.Start(); err != nil {
			t.Error(err)
		}
	})
	s.settle(3 * time.Minute)
	s.audit(c)
}

// P1, P4, P9: Postgres is stopped in immediate mode, as in a crash, and started
// again, under load.
func TestOrdersSurviveACrashOfPostgres(t *testing.T) {
	t.Parallel()
	s := start(t, "skald")
	c := s.during(3, func() {
		s.postgres.Kill()
		if err := s.postgres.Start(t.Context()); err != nil {
			t.Error(err)
		}
	})
	s.settle(3 * time.Minute)
	s.audit(c)
	s.listen()
}
