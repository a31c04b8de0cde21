package bench

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// Sizes of the plot, in pixels.
const (
	panelWidth  = 300
	panelHeight = 200
	margin      = 40
)

// Plot draws the series of a report as bars, one panel for each, as SVG.
func (r *Report) Plot(to io.Writer) error {
	var names []string
	series := map[string][]Scale{}
	for _, p := range r.Scale {
		if series[p.Series] == nil {
			names = append(names, p.Series)
		}
		series[p.Series] = append(series[p.Series], p)
	}
	const columns = 3
	rows := (len(names) + columns - 1) / columns
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n",
		columns*panelWidth, rows*panelHeight)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	for i, name := range names {
		fmt.Fprintf(&b, `<g transform="translate(%d %d)">`+"\n", i%columns*panelWidth, i/columns*panelHeight)
		panel(&b, name, series[name])
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(to, b.String())
	return err
}

func panel(b *strings.Builder, name string, points []Scale) {
	most := 1.0
	for _, p := range points {
		most = max(most, p.Sagas)
	}
	fmt.Fprintf(b, `<text x="%d" y="16" font-weight="bold">sagas a second by %s</text>`+"\n", margin/2, html.EscapeString(name))
	const floor = panelHeight - margin/2 - 5
	step := float64(panelWidth-margin) / float64(len(points))
	for i, p := range points {
		height := p.Sagas / most * (floor - margin)
		x := margin/2 + float64(i)*step
		fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="#4477aa"/>`+"\n", x+step*0.15, floor-height, step*0.7, height)
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle">%.0f</text>`+"\n", x+step/2, floor-height-4, p.Sagas)
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x+step/2, floor+14, html.EscapeString(p.X))
	}
}
