package participant

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	commands *prometheus.CounterVec
	panics   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, service string) (*metrics, error) {
	labels := prometheus.Labels{"participant": service}
	m := &metrics{
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "participant_commands_total", Help: "Commands by what was answered, or why there was no answer.", ConstLabels: labels}, []string{"outcome"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "participant_handler_panics_total", Help: "Handlers that panicked.", ConstLabels: labels}),
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(reg.Register(m.commands), reg.Register(m.panics))
}
