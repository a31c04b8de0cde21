//go:build !race

package testkit

// Race reports whether the race detector watches, which makes all slower.
const Race = false
