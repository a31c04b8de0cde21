// Package api is generated from openapi.yaml: the types of requests and
// responses, and the interface that package http implements. It holds no
// logic of its own; change openapi.yaml and generate it again.
package api

//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config codegen.yaml ../../../openapi.yaml
