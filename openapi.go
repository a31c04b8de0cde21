// Package skald holds the contracts of Skald as they are published: the REST
// API and the messages. Programs serve these very bytes.
package skald

import "embed"

//go:embed *api.yaml
var contracts embed.FS

// OpenAPI is the contract of the REST API, openapi.yaml.
func OpenAPI() []byte { return contract("openapi.yaml") }

// AsyncAPI is the contract of the messages, asyncapi.yaml.
func AsyncAPI() []byte { return contract("asyncapi.yaml") }

func contract(name string) []byte {
	b, err := contracts.ReadFile(name)
	if err != nil {
		return nil
	}
	return b
}
