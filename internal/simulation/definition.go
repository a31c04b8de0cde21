package simulation

import "encoding/json"

// Definition chooses a definition - linear or a graph, with or without a pivot,
// conditions and budgets - and an input for it. With errors, some of its
// expressions fail.
func Definition(c Chooser, errors bool) (source []byte, input string, err error) {
	d := draft{Chooser: c, errors: errors, conditions: map[string]bool{}}
	n := 1 + c.Choose("steps", 6)
	d.pivot = c.Choose("pivot", n+1) - 1
	d.graph = coin(c, "graph")
	var steps []map[string]any
	for i := range n {
		steps = append(steps, d.step(i))
	}
	doc := map[string]any{"name": "random", "steps": steps}
	if deadline := pick(c, "deadline", "", "", "3s", "1m"); deadline != "" {
		doc["deadline"] = deadline
		if coin(c, "suspend") {
			doc["on_deadline"] = "suspend"
		}
	}
	if coin(c, "continue") {
		doc["on_stuck"] = "continue"
	}
	if lock := pick(c, "lock", "", "", "'k'"); lock != "" {
		doc["lock"] = lock
	}
	if most := pick(c, "max_parallel", 0, 0, 1, 2); most > 0 {
		doc["max_parallel"] = most
	}
	if source, err = json.Marshal(doc); err != nil {
		return nil, "", err
	}
	in, err := json.Marshal(d.conditions)
	return source, string(in), err
}

// draft is a definition in the making.
type draft struct {
	Chooser
	errors     bool
	pivot      int // -1: none
	graph      bool
	conditions map[string]bool
}

func (d *draft) step(i int) map[string]any {
	name := string(rune('a' + i))
	participant := pick[any](d, "participant", "p", "p", "q")
	step := map[string]any{
		"name": name, "participant": participant, "action": "do-" + name,
		"timeout": pick[any](d, "timeout", "1s", "10s"), "max_duration": pick[any](d, "max_duration", "5s", "1m"),
		"retry": map[string]any{"max_attempts": pick[any](d, "attempts", 1, 2, 3), "max": "5s"},
	}
	switch {
	case i == d.pivot:
		step["kind"] = "pivot"
	case d.pivot >= 0 && i > d.pivot:
		step["kind"] = "retriable"
		step["retry"] = map[string]any{"max_attempts": pick[any](d, "retriable attempts", 0, 1, 3)}
	default:
		step["compensation"] = pick[any](d, "compensation", "undo-"+name, "undo-"+name, "none")
		step["compensation_retry"] = map[string]any{"max_attempts": pick[any](d, "undo attempts", 1, 2, 20)}
	}
	switch special := d.Choose("special", 10); {
	case special == 0 && i != d.pivot:
		step = map[string]any{"name": name, "participant": participant, "action": "tell-" + name, "kind": "notification"}
	case special == 1 && step["compensation"] == "undo-"+name:
		step["action"] = "none"
		delete(step, "retry")
	}
	if d.graph {
		step["after"] = d.after(i)
	}
	switch what := d.Choose("expression", 10); {
	case what < 2:
		d.conditions[name] = coin(d, "when")
		step["when"] = "input." + name
	case what == 2 && d.errors:
		step["when"] = "input.nothing"
	case what == 3 && d.errors:
		step["payload"] = `"` + name + `" in steps ? steps.nothing : 1` // only the compensation fails
	}
	return step
}

// after chooses predecessors that keep the order of kinds.
func (d *draft) after(i int) []string {
	after := []string{}
	for p := range i {
		var take bool
		switch {
		case i == d.pivot:
			take = true
		case d.pivot >= 0 && i > d.pivot:
			take = p == d.pivot || p > d.pivot && coin(d, "after")
		default:
			take = coin(d, "after")
		}
		if take {
			after = append(after, string(rune('a'+p)))
		}
	}
	return after
}
