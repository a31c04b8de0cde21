package telemetry

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check returns nil if what it asks for answers.
type Check func(context.Context) error

// Health says whether a program can do its work. It is safe for concurrent use.
type Health struct {
	checks map[string]Check
	log    *slog.Logger

	mu       sync.Mutex
	draining bool
	asked    time.Time
	report   Report
}

// Report is the state of a program. Checks maps each check, and "draining"
// while the program stops, to "ok" or "failing"; the reasons are in the log.
type Report struct {
	Ready  bool
	Checks map[string]string
}

const (
	checkTimeout = 2 * time.Second
	checkEvery   = time.Second // probes more frequent than this share an answer
)

// NewHealth returns the health of a program that needs all of checks.
func NewHealth(log *slog.Logger, checks map[string]Check) *Health {
	return &Health{checks: checks, log: log}
}

// Drain makes the program unready for good: it is stopping.
func (h *Health) Drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining, h.asked = true, time.Time{}
}

// Ready asks the checks, or repeats an answer of less than a second ago.
func (h *Health) Ready(ctx context.Context) Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.asked) < checkEvery {
		return h.report
	}
	// The answer serves others too, so it must not end with the first caller.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
	defer cancel()
	r := Report{Ready: true, Checks: map[string]string{}}
	for name, check := range h.checks {
		r.Checks[name] = "ok"
		if err := check(ctx); err != nil {
			h.log.WarnContext(ctx, "not ready", "check", name, "err", err)
			r.Ready, r.Checks[name] = false, "failing"
		}
	}
	if h.draining {
		r.Ready, r.Checks["draining"] = false, "failing"
	}
	h.report, h.asked = r, time.Now()
	return r
}

// Admin serves /livez, /readyz, /metrics and /debug/pprof/: what a program
// shows on a port that only its operators reach.
func Admin(h *Health, metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		report, status, word := h.Ready(r.Context()), http.StatusOK, "ready"
		if !report.Ready {
			status, word = http.StatusServiceUnavailable, "not ready"
		}
		writeJSON(w, status, map[string]any{"status": word, "checks": report.Checks})
	})
	mux.Handle("GET /metrics", Metrics(metrics))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// Metrics serves metrics in the formats of Prometheus.
func Metrics(g prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client has gone: nobody is there to tell
}
