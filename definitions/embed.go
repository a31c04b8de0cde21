// Package definitions holds the saga definitions that ship with Skald.
package definitions

import "embed"

// Files are the definitions, one a file.
//
//go:embed *.yaml
var Files embed.FS
