package http

import (
	stdhttp "net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics count requests.
type metrics struct {
	duration *prometheus.HistogramVec
	panics   prometheus.Counter
}

// newMetrics registers the metrics with reg; nil: with nobody.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_duration_seconds", Help: "Requests by operation and class of status; waits that clients asked for included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18)}, []string{"operation", "class"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "http_panics_total", Help: "Requests that met a mistake of ours."}),
	}
	if reg != nil {
		reg.MustRegister(m.duration, m.panics)
	}
	return m
}

// observe measures requests. What matched no operation is counted as "none":
// a label must not be made of what clients send.
func (m *metrics) observe(c *contract) func(stdhttp.Handler) stdhttp.Handler {
	return func(next stdhttp.Handler) stdhttp.Handler {
		return stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
			begin := time.Now()
			next.ServeHTTP(w, r)
			status := stdhttp.StatusOK
			if ww, ok := w.(middleware.WrapResponseWriter); ok && ww.Status() != 0 {
				status = ww.Status()
			}
			operation := c.operation(r).id
			if operation == "" {
				operation = "none"
			}
			class := strconv.Itoa(status/100) + "xx"
			if r.Context().Err() != nil {
				class = "gone" // the client left before the answer: nobody's failure
			}
			m.duration.WithLabelValues(operation, class).Observe(time.Since(begin).Seconds())
		})
	}
}
