// Package simulation holds what random tests of sagas share: definitions,
// participants that keep the rules of docs/protocol.md, and choices, made by a
// seed or by a tool that shrinks.
//
// It promises that the same choices give the same world: nothing in it reads a
// clock, iterates a map or starts a goroutine. Only tests import it.
package simulation

import "math/rand/v2"

// Chooser makes every choice there is: [Seeded], or a generator of a test tool.
type Chooser interface {
	// Choose returns a number from 0 to n-1. The label is for people.
	Choose(label string, n int) int
}

// Seeded chooses at random, and the same again for the same seed.
type Seeded struct{ *rand.Rand }

// NewSeeded returns the choices of a seed. Streams of one seed are unrelated.
func NewSeeded(seed, stream uint64) Seeded { return Seeded{rand.New(rand.NewPCG(seed, stream))} }

// Choose implements [Chooser].
func (s Seeded) Choose(_ string, n int) int { return s.IntN(n) }

func pick[T any](c Chooser, label string, from ...T) T { return from[c.Choose(label, len(from))] }

func coin(c Chooser, label string) bool { return c.Choose(label, 2) == 1 }
