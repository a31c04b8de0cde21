// Package skald holds the contracts of Skald as they are published: the REST
// API, the messages and the form of saga definitions. Programs serve these very
// bytes.
package skald

import _ "embed" // the contracts

//go:embed openapi.yaml
var openAPI string

//go:embed asyncapi.yaml
var asyncAPI string

//go:embed definitions/saga.schema.json
var definitionSchema string

// DefinitionSchema is the JSON Schema of saga definitions.
func DefinitionSchema() []byte { return []byte(definitionSchema) }

// OpenAPI is the contract of the REST API, openapi.yaml.
func OpenAPI() []byte { return []byte(openAPI) }

// AsyncAPI is the contract of the messages, asyncapi.yaml.
func AsyncAPI() []byte { return []byte(asyncAPI) }
