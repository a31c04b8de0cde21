package coordinator

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skald-saga/skald/internal/saga"
)

// Metrics count what the coordinator does.
type Metrics struct {
	started     *prometheus.CounterVec
	ended       *prometheus.CounterVec
	stuck       *prometheus.CounterVec
	replies     *prometheus.CounterVec
	deadLetters prometheus.Counter
	refused     *prometheus.CounterVec
	outboxRows  prometheus.Gauge
	outboxBytes prometheus.Gauge
	outboxFull  prometheus.Gauge
	waiting     prometheus.Gauge
	batch       *prometheus.HistogramVec
	duration    *prometheus.HistogramVec
}

// NewMetrics registers the metrics with reg; nil: with nobody.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		started: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "saga_started_total", Help: "Sagas started."}, []string{"definition"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "saga_finished_total", Help: "Sagas that ended."}, []string{"definition", "outcome"}),
		stuck: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "saga_stuck_total", Help: "Times that a saga began to wait for an operator."}, []string{"definition"}),
		replies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "saga_replies_total", Help: "Replies by what became of them: applied, stale or dead."}, []string{"result"}),
		deadLetters: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "saga_dead_letters_total", Help: "Replies that could not be read or that answer no known saga."}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "saga_starts_refused_total", Help: "Starts refused: too many were waiting for the writer (queue), or too much in the outbox (outbox)."}, []string{"reason"}),
		outboxRows: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "saga_outbox_rows", Help: "Messages that wait in the outbox, about, when a start last made the server look."}),
		outboxBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "saga_outbox_bytes", Help: "Bytes that they take, about."}),
		outboxFull: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "saga_outbox_full", Help: "1 while no saga is started because too much waits in the outbox."}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "saga_starts_waiting", Help: "Starts in the queue of the writer."}),
		batch: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "saga_batch_size", Help: "Starts, replies or timers in one transaction.", Buckets: prometheus.ExponentialBuckets(1, 2, 10)}, []string{"kind"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "saga_duration_seconds", Help: "From start to end.", Buckets: prometheus.ExponentialBuckets(0.002, 2, 20)}, []string{"definition", "outcome"}),
	}
	if reg != nil {
		reg.MustRegister(m.started, m.ended, m.stuck, m.replies, m.deadLetters, m.refused, m.waiting, m.batch, m.duration, m.outboxRows, m.outboxBytes, m.outboxFull)
	}
	for _, reason := range []string{"queue", "outbox"} {
		m.refused.WithLabelValues(reason) // from zero, as below
	}
	return m
}

// expect makes a definition's counters begin at zero: an alert on an increase
// would miss a counter that is born with its first event.
func (m *Metrics) expect(definition string) {
	m.started.WithLabelValues(definition)
	m.stuck.WithLabelValues(definition)
	for _, status := range []saga.Status{saga.Completed, saga.Compensated} {
		m.ended.WithLabelValues(definition, string(status))
	}
}
