package bench_test

import (
	"testing"

	"github.com/skald-saga/skald/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
