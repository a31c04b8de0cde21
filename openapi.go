// Package skald holds the contracts of Skald as they are published: the REST
// API and the messages. Programs serve these very bytes.
package skald

import _ "embed" // the contracts

//go:embed openapi.yaml
var openAPI string

//go:embed asyncapi.yaml
var asyncAPI string

// OpenAPI is the contract of the REST API, openapi.yaml.
func OpenAPI() []byte { return []byte(openAPI) }

// AsyncAPI is the contract of the messages, asyncapi.yaml.
func AsyncAPI() []byte { return []byte(asyncAPI) }
