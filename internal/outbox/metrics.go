package outbox

import "github.com/prometheus/client_golang/prometheus"

// Metrics answer whether messages leave, and how late.
type Metrics struct {
	oldest       prometheus.Gauge
	published    *prometheus.CounterVec
	parked       prometheus.Gauge
	failedPasses prometheus.Counter
	turns        *prometheus.CounterVec
	latency      prometheus.Histogram
	lanes        prometheus.Gauge
	takeovers    prometheus.Counter
}

// NewMetrics registers the metrics with reg; nil: with nobody.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		oldest: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_oldest_pending_seconds", Help: "Age of the oldest row of the page at hand; 0 when nothing waits. The one to alert on."}),
		parked: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_parked_rows", Help: "Rows that wait apart because no stream takes their subject, or it is full, and those of their keys behind them."}),
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_published_total", Help: "Rows that left the outbox, acknowledged, dead or parked; parked ones are counted again when they go."}, []string{"outcome"}),
		failedPasses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "outbox_failed_passes_total", Help: "Passes that ended with an error and are tried again."}),
		turns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_ring_turns_total", Help: "Attempts to turn the ring of four parts when it was time: turned, skipped (somebody still needs the next part) or failed."}, []string{"outcome"}),
		lanes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_lanes", Help: "Lanes of the outbox that this relay publishes; 0 while it only waits for others to end."}),
		takeovers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "outbox_lanes_taken_total", Help: "Lanes that this relay took because nobody held them."}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "outbox_publish_latency_seconds", Help: "From the insert of a row to the broker's acknowledgement.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}),
	}
	for _, outcome := range []string{"acknowledged", "dead", "parked"} {
		m.published.WithLabelValues(outcome) // from zero, so that an alert sees the first
	}
	for _, outcome := range []string{"turned", "skipped", "failed"} {
		m.turns.WithLabelValues(outcome)
	}
	if reg != nil {
		reg.MustRegister(m.oldest, m.parked, m.published, m.failedPasses, m.turns, m.latency, m.lanes, m.takeovers)
	}
	return m
}
