package http

import (
	"bytes"
	"html/template"
	"io"

	"github.com/skald-saga/skald/internal/http/api"
)

var problemTemplate = template.Must(template.New("problems").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{if eq (len .) 1}}{{(index . 0).Code}}{{else}}Problems{{end}} - Skald</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:42em;margin:2em auto;padding:0 1em}</style>
{{if eq (len .) 1}}<p><a href="/problems">All problems</a></p>{{else}}<h1>Problems of the REST API</h1>{{end}}
{{range .}}<h2><a href="{{.Link}}">{{.Code}}</a></h2>
<p><strong>{{.Title}}.</strong> Status {{.Status}}.{{if .Retryable}} The same request may succeed later.{{end}}</p>
<p>{{.Description}}</p>
{{end}}</html>
`))

// problemPage is a page for people.
func problemPage(types []api.ProblemType) (io.Reader, error) {
	var b bytes.Buffer
	if err := problemTemplate.Execute(&b, types); err != nil {
		return nil, err
	}
	return &b, nil
}
