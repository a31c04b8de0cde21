package drain

import "github.com/prometheus/client_golang/prometheus"

// Metrics answer whether rows leave, and how late.
type Metrics struct {
	leader       prometheus.Gauge
	oldest       prometheus.Gauge
	published    *prometheus.CounterVec
	skipped      prometheus.Gauge
	failedPasses prometheus.Counter
	latency      prometheus.Histogram
}

// NewMetrics registers the metrics with reg; nil: with nobody.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "drain_leader", Help: "1 if this relay drains the table, 0 if it waits for another one."}),
		oldest: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "drain_oldest_pending_seconds", Help: "Age of the first row of the page at hand, by the mapping's time; 0 when nothing waits. The one to alert on."}),
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drain_published_total", Help: "Rows by what became of them: acknowledged, dead (marked) or skipped (they can never be published, and are left as they are)."}, []string{"outcome"}),
		skipped: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "drain_skipped_rows", Help: "Rows that are skipped until this relay is started again."}),
		failedPasses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "drain_failed_passes_total", Help: "Passes that ended with an error and are tried again."}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "drain_publish_latency_seconds", Help: "From a row's time to the broker's acknowledgement.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}),
	}
	for _, outcome := range []string{"acknowledged", "dead", "skipped"} {
		m.published.WithLabelValues(outcome) // from zero, so that an alert sees the first
	}
	if reg != nil {
		reg.MustRegister(m.leader, m.oldest, m.published, m.skipped, m.failedPasses, m.latency)
	}
	return m
}
