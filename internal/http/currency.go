package http

import "golang.org/x/text/currency"

// minorUnits returns how many decimals amounts of a currency have, and whether
// it is a currency that is in use (ISO 4217).
func minorUnits(code string) (digits int, known bool) {
	if !currencies[code] {
		return 0, false
	}
	if digits, exception := decimals[code]; exception {
		return digits, true
	}
	return 2, true
}

// decimals are ISO 4217's minor units where they are not 2. They are not taken
// from x/text: CLDR, its source, has the decimals that people use in daily
// life, which for some currencies are fewer.
var decimals = map[string]int{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0,
	"UGX": 0, "UYI": 0, "VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
	"BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3,
	"CLF": 4, "UYW": 4,
}

// currencies are those that are legal tender somewhere today.
var currencies = inUse()

func inUse() map[string]bool {
	codes := map[string]bool{}
	for it := currency.Query(); it.Next(); {
		codes[it.Unit().String()] = true
	}
	for _, newer := range []string{"SLE", "VED", "XCG", "ZWG"} { // than the data of x/text
		codes[newer] = true
	}
	return codes
}
