package shop_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/examples/order/shop"
	"github.com/skald-saga/skald/internal/testkit"
)

func TestAShopThatLacksATableIsNotInstalled(t *testing.T) {
	t.Parallel()
	pool := testkit.Pool(t, testkit.EmptyDatabaseURL(t))
	want := func(when string, want bool) {
		t.Helper()
		if got, err := shop.Installed(t.Context(), pool); err != nil || got != want {
			t.Errorf("%s: installed is %t (%v), want %t", when, got, err, want)
		}
	}
	want("an empty database", false)
	if err := shop.Install(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	want("after Install", true)
	rows, err := pool.Query(t.Context(), `
		SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) == 0 {
		t.Fatalf("tables %v, %v", tables, err)
	}
	for _, table := range tables {
		schema, name, _ := strings.Cut(table, ".")
		rename(t, pool, schema+"."+name, "hidden")
		want("without "+table, false)
		rename(t, pool, schema+".hidden", name)
	}
	want("with all of them again", true)
}

func rename(t *testing.T, pool *pgxpool.Pool, table, to string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), "ALTER TABLE "+table+" RENAME TO "+to); err != nil {
		t.Fatal(err)
	}
}
