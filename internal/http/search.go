package http

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/saga"
)

// searchOf reads what a list of sagas is to hold, and the same as a cursor
// remembers it. open are the parameters whose names are not fixed.
func searchOf(p api.ListSagasParams, open map[string]string) (coordinator.SagaFilter, url.Values) {
	f, filter := coordinator.SagaFilter{}, url.Values{}
	if p.Status != nil {
		var words []string
		for _, status := range *p.Status {
			f.Statuses = append(f.Statuses, saga.Status(status))
			words = append(words, string(status))
		}
		filter.Set("status", listed(words))
	}
	for name, text := range map[string]struct {
		given *string
		to    *string
	}{"definition": {p.Definition, &f.Definition}, "lock": {p.Lock, &f.Lock}, "step": {p.Step, &f.Step}, "error_code": {p.ErrorCode, &f.ErrorCode}} {
		if text.given != nil {
			*text.to = *text.given
			filter.Set(name, *text.given)
		}
	}
	if p.Version != nil {
		f.Version = int(*p.Version)
		filter.Set("version", strconv.Itoa(f.Version))
	}
	for name, end := range map[string]struct {
		given *time.Time
		to    *time.Time
	}{
		"created_from": {p.CreatedFrom, &f.Created.From}, "created_to": {p.CreatedTo, &f.Created.To},
		"updated_from": {p.UpdatedFrom, &f.Updated.From}, "updated_to": {p.UpdatedTo, &f.Updated.To},
	} {
		if end.given != nil {
			*end.to = *end.given
			filter.Set(name, end.given.UTC().Format(time.RFC3339Nano))
		}
	}
	if p.Key != nil {
		f.Found = append(f.Found, coordinator.ByKey(*p.Key))
		filter.Set("key", *p.Key)
	}
	for name, value := range open {
		filter.Set(name, value)
		if label, ok := strings.CutPrefix(name, "label."); ok {
			f.Found = append(f.Found, coordinator.ByLabel(label, value))
		} else {
			f.Found = append(f.Found, coordinator.ByInput(strings.TrimPrefix(name, "attr."), value))
		}
	}
	return f, filter
}
