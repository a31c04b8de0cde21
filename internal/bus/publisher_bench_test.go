package bus

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/testkit"
)

// What decided when rows leave as batches (docs/decisions).
func BenchmarkPublish(b *testing.B) {
	for _, server := range []struct {
		name     string
		replicas int
		always   bool
	}{{"R1", 1, false}, {"R1 sync always", 1, true}, {"R3", 3, false}, {"R3 sync always", 3, true}} {
		var url string
		cfg := embedded.NATSConfig{SyncAlways: server.always}
		if server.replicas == 1 {
			url = testkit.NATSWith(b, cfg).URL()
		} else {
			c, err := embedded.StartNATSCluster(3, cfg)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = c.Stop() })
			url = c.URL()
		}
		nc := connect(b, url)
		js := jetStream(b, nc)
		testkit.Eventually(b, "a stream", 30*time.Second, func() (bool, string) {
			_, err := js.CreateOrUpdateStream(b.Context(), jetstream.StreamConfig{
				Name: "S", Subjects: []string{"s.>"}, Replicas: server.replicas, AllowAtomicPublish: true,
				MaxBytes: 256 << 20,
			})
			return err == nil, fmt.Sprint(err)
		})
		for _, rows := range []int{2, 10, 50, 500} {
			for _, perKey := range []int{1, 5} {
				for name, how := range map[string]Method{"async": Async, "batch": Batch, "auto": Auto} {
					if rows < perKey {
						continue
					}
					b.Run(fmt.Sprintf("%s/rows=%d/perkey=%d/%s", server.name, rows, perKey, name), func(b *testing.B) {
						p, err := NewPublisher(nc)
						if err != nil {
							b.Fatal(err)
						}
						p.Method = how
						for b.Loop() {
							page := make([]outbox.Row, rows)
							for i := range page {
								page[i] = row(strconv.Itoa(i/perKey), "s.a")
								page[i].Payload = make([]byte, 300)
							}
							for _, res := range p.Publish(b.Context(), page) {
								if res.Err != nil {
									b.Fatal(res.Err)
								}
							}
						}
						b.ReportMetric(float64(rows*b.N)/b.Elapsed().Seconds(), "rows/s")
					})
				}
			}
		}
	}
}
