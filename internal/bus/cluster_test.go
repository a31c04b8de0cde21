package bus

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/testkit"
)

// P9, on a cluster of which servers go and leaders move while rows are under
// way: nothing is lost, each key's rows first arrive in the order of their
// commits, and what arrives twice does so under the same id.
func TestARelayOutlivesTheServersOfACluster(t *testing.T) {
	t.Parallel()
	for _, method := range []Method{Auto, Async} {
		t.Run(string(method), func(t *testing.T) {
			t.Parallel()
			const rows, keys = 3000, 40
			cluster, pool := testkit.NATSCluster(t), testkit.Postgres(t)
			nc := connect(t, cluster.URL())
			js := jetStream(t, nc)
			replicated(t, js)
			relay(t, pool, cluster.URL(), method)
			wrote := make(chan map[string][]string, 1)
			go func() { wrote <- write(t, pool, rows, keys) }()
			for i := range 4 {
				awaitStored(t, js, (i+1)*rows/6)
				if i%2 == 0 {
					stepDown(t, nc, js)
				} else {
					restart(t, cluster, js)
				}
			}
			committed := <-wrote
			awaitStored(t, js, rows)
			arrived := map[string][]string{} // by key, the first time only
			times := map[string]int{}
			batches := 0
			for _, m := range readAll(t, js) {
				id := m.Header.Get("Nats-Msg-Id")
				if times[id]++; times[id] == 1 {
					arrived[m.Header.Get("key")] = append(arrived[m.Header.Get("key")], id)
				}
				if m.Header.Get(headerBatchID) != "" {
					batches++
				}
			}
			for key, ids := range committed {
				want(t, "key "+key, arrived[key], ids...)
			}
			if len(times) != rows {
				t.Errorf("%d ids arrived, want %d", len(times), rows)
			}
			if (batches > 0) != (method == Auto) {
				t.Errorf("%d messages came in batches", batches)
			}
		})
	}
}

// replicated makes a stream S for s.> on all servers, once there is a leader to
// make it.
func replicated(t testing.TB, js jetstream.JetStream) {
	t.Helper()
	testkit.Eventually(t, "a stream", time.Minute, func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Replicas: 3, AllowAtomicPublish: true})
		return err == nil, fmt.Sprint(err)
	})
}

// relay runs one until the test ends.
func relay(t testing.TB, pool *pgxpool.Pool, url string, method Method) {
	t.Helper()
	p, err := NewPublisher(connect(t, url))
	if err != nil {
		t.Fatal(err)
	}
	p.Method = method
	r := &outbox.Relay{Pool: pool, Publisher: p, Log: testkit.Log(t)}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// write commits rows in transactions of ten, and returns their ids by key in the
// order of the commits.
func write(t testing.TB, pool *pgxpool.Pool, rows, keys int) map[string][]string {
	committed := map[string][]string{}
	for n := 0; n < rows; n += 10 {
		found, err := pool.Query(t.Context(), `
			SELECT k, outbox_append(k, 's.' || k, json_build_object('key', k)::text::json, 'x')::text
			FROM (SELECT ((i * 7) % $2)::text AS k FROM generate_series($1::int, $1 + 9) AS i) s`, n, keys)
		if err != nil {
			t.Error(err)
			return nil
		}
		for found.Next() {
			var key, id string
			if err := found.Scan(&key, &id); err != nil {
				t.Error(err)
			}
			committed[key] = append(committed[key], id)
		}
		if err := found.Err(); err != nil {
			t.Error(err)
			return nil
		}
	}
	return committed
}

func awaitStored(t testing.TB, js jetstream.JetStream, least int) {
	t.Helper()
	testkit.Eventually(t, strconv.Itoa(least)+" messages", 3*time.Minute, func() (bool, string) {
		n := count(js, "S")
		return n >= least, strconv.Itoa(n)
	})
}

// leader is the server that leads the stream, once there is one.
func leader(t testing.TB, js jetstream.JetStream) (name string) {
	t.Helper()
	testkit.Eventually(t, "a leader", time.Minute, func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, "S")
		if err != nil {
			return false, err.Error()
		}
		name = s.CachedInfo().Cluster.Leader
		return name != "", "none"
	})
	return name
}

// stepDown makes another server lead the stream.
func stepDown(t testing.TB, nc *nats.Conn, js jetstream.JetStream) {
	t.Helper()
	before := leader(t, js)
	testkit.Eventually(t, "another leader", time.Minute, func() (bool, string) {
		if now := leader(t, js); now != before {
			return true, ""
		}
		_, err := nc.Request("$JS.API.STREAM.LEADER.STEPDOWN.S", nil, 2*time.Second)
		return false, fmt.Sprint(err)
	})
}

// restart halts the server that leads, and starts it again once there is
// another.
func restart(t testing.TB, c *embedded.NATSCluster, js jetstream.JetStream) {
	t.Helper()
	before := leader(t, js)
	s, err := c.Server(before)
	if err != nil {
		t.Fatal(err)
	}
	s.Halt()
	testkit.Eventually(t, "another leader", time.Minute, func() (bool, string) { return leader(t, js) != before, before })
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
}

// readAll reads what the stream holds, oldest first, whoever leads it.
func readAll(t testing.TB, js jetstream.JetStream) (all []*jetstream.RawStreamMsg) {
	t.Helper()
	leader(t, js)
	s, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	for seq := range s.CachedInfo().State.LastSeq {
		testkit.Eventually(t, "a stored message", time.Minute, func() (bool, string) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			m, err := s.GetMsg(ctx, seq+1)
			if err == nil {
				all = append(all, m)
			}
			return err == nil, fmt.Sprint(err)
		})
	}
	return all
}
