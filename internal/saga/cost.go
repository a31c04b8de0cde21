package saga

import (
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// costs says what a call costs where CEL does not know, as it does not for
// values whose type is known only when they come: then it takes one unit for
// text that is joined, a list that is searched, or two lists that are compared,
// however long they are. All values that expressions see are of that kind.
type costs struct{}

// CallCost implements cost.ActualCostEstimator. Nil leaves the cost to CEL.
func (costs) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	units := uint64(1)
	switch function {
	case operators.Add:
		if _, list := result.(traits.Lister); !list { // lists are joined without looking at them
			units += weight(result, maxCost)
		}
	case operators.In:
		if list, ok := args[1].(traits.Lister); ok {
			units += weight(list, maxCost)
		}
	case operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		units += min(weight(args[0], maxCost), weight(args[1], maxCost))
	case "size":
		if text, ok := args[0].(types.String); ok { // its characters are counted
			units += weight(text, maxCost)
		}
	default:
		return nil
	}
	return &units
}

// weight is about how long it takes to look at all of a value; at most, or a
// little more.
func weight(v ref.Val, most uint64) uint64 {
	const textPerUnit = 64
	units := uint64(1)
	switch v := v.(type) {
	case types.String:
		return units + uint64(len(v))/textPerUnit
	case types.Bytes:
		return units + uint64(len(v))/textPerUnit
	case traits.Mapper:
		for it := v.Iterator(); units < most && it.HasNext() == types.True; {
			key := it.Next()
			units += weight(key, most-units) + weight(v.Get(key), most-units)
		}
	case traits.Lister:
		for it := v.Iterator(); units < most && it.HasNext() == types.True; {
			units += weight(it.Next(), most-units)
		}
	}
	return units
}
