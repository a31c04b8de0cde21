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
	offered      *prometheus.CounterVec
	page         prometheus.Histogram
	fenced       prometheus.Counter
	skips        *prometheus.CounterVec
	guard        prometheus.Histogram
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
	m.more()
	for _, outcome := range []string{"acknowledged", "dead", "parked"} {
		m.published.WithLabelValues(outcome) // from zero, so that an alert sees the first
	}
	for _, outcome := range []string{"turned", "skipped", "failed"} {
		m.turns.WithLabelValues(outcome)
	}
	if reg != nil {
		reg.MustRegister(m.oldest, m.parked, m.published, m.failedPasses, m.turns, m.latency, m.lanes, m.takeovers,
			m.offered, m.page, m.fenced, m.skips, m.guard)
	}
	return m
}

// more are the metrics that tell why something is slow or done again.
func (m *Metrics) more() {
	m.offered = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "outbox_offered_total", Help: "What the broker made of rows each time they were offered: acknowledged, duplicate (it had the row), unknown (no answer), blocked (by the state of a stream), poison, or again (not taken, or held back behind one that was not)."}, []string{"outcome"})
	for _, outcome := range []string{"acknowledged", "duplicate", "unknown", "blocked", "poison", "again"} {
		m.offered.WithLabelValues(outcome)
	}
	m.page = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "outbox_page_rows", Help: "Rows that are read and published together.", Buckets: prometheus.ExponentialBuckets(1, 2, 10)})
	m.fenced = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "outbox_fenced_total", Help: "Pages that were left to another relay, because it had moved the position or our lease had run out."})
	m.skips = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "outbox_ring_skips_total", Help: "Attempts to turn the ring that were put off: another relay was at it, the next part was too young, or somebody was in it."}, []string{"reason"})
	for _, reason := range skipReasons {
		m.skips.WithLabelValues(reason)
	}
	m.guard = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "outbox_guard_seconds", Help: "How long rows that were visible waited until they were on disk.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 12)})
}

// skipReasons are the labels of what keeps the ring from turning.
var skipReasons = map[turning]string{atWork: "another_relay", tooYoung: "too_young", inUse: "in_use"}

// offer counts what became of rows.
func (m *Metrics) offer(results []Result) {
	for _, res := range results {
		outcome := "again"
		switch {
		case res.Err == nil && res.Duplicate:
			outcome = "duplicate"
		case res.Err == nil:
			outcome = "acknowledged"
		case res.Unknown:
			outcome = "unknown"
		case res.Blocked:
			outcome = "blocked"
		case res.Poison:
			outcome = "poison"
		}
		m.offered.WithLabelValues(outcome).Inc()
	}
}

// stateGauges are what [State] sets.
type stateGauges struct{ ring, dead, writerSeconds, writerAge, snapshotAge prometheus.Gauge }

func newStateGauges() stateGauges {
	return stateGauges{
		ring: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_ring_bytes", Help: "What the outbox takes on disk, indexes included."}),
		dead: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_dead_rows", Help: "Dead letters that nobody has purged or sent again."}),
		writerSeconds: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_oldest_writer_seconds", Help: "Since when the oldest open transaction that has written, or a prepared one, is open, in any database of the cluster."}),
		writerAge: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_oldest_writer_transactions", Help: "How many transactions have begun since the oldest one that has written and is open."}),
		snapshotAge: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_oldest_snapshot_transactions", Help: "How many transactions have begun since the oldest snapshot that somebody holds: a session, a prepared transaction or a replication slot. Postgres cannot tidy up what is younger."}),
	}
}

func (g stateGauges) all() []prometheus.Gauge {
	return []prometheus.Gauge{g.ring, g.dead, g.writerSeconds, g.writerAge, g.snapshotAge}
}
