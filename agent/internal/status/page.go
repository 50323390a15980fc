package status

import (
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

//go:embed page.html
var pageText string

// pagePolicy is the Content-Security-Policy of the page: it loads nothing, and has one style.
var pagePolicy = sync.OnceValue(func() string {
	_, style, _ := strings.Cut(pageText, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	hash := sha256.Sum256([]byte(style))
	return "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-" +
		base64.StdEncoding.EncodeToString(hash[:]) + "'"
})

// hosts refuses a request over TCP for a name other than localhost: with a name of its own that leads
// here, a site could have a browser read the status (DNS rebinding).
func hosts(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		_, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if err != nil && !strings.EqualFold(host, "localhost") {
			http.Error(w, "the Host of the request must be an IP address or localhost", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// WritePage writes the status as an HTML document, with times in zone.
func (s *Status) WritePage(w io.Writer, zone *time.Location) error {
	v, err := newView(s, zone, false)
	if err != nil {
		return err
	}
	funcs := v.funcs()
	funcs["words"] = v.words
	funcs["lines"] = v.lines
	funcs["ticks"] = func(s string) []string { return strings.Split(s, "`") }
	funcs["odd"] = func(i int) bool { return i%2 == 1 }
	funcs["first"] = func(all []Counted) []Counted { return all[:min(len(all), topShow)] }
	funcs["span"] = func(d Seconds) string { return age(d.Duration()) }
	t, err := template.New("page").Funcs(funcs).Parse(pageText)
	if err != nil {
		return err
	}
	return t.Execute(w, v)
}

// lines returns the lines of one of the templates in words.tmpl.
func (v *view) lines(name string, data any) (all []string, err error) {
	text, err := v.words(name, data)
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all, err
}

// Heading is the state in one to three words.
func (v *view) Heading() string {
	switch {
	case v.NotEnforced != "":
		return "NOT ENFORCED"
	case v.Enforced && len(v.Needs) == 0:
		return "Enforced"
	case v.Enforced, v.Unsure != "" && len(v.Needs) > 0:
		return "Needs you"
	case v.Unsure == "" && v.Poll.Last.IsZero():
		return "Starting"
	}
	return "Not known"
}

// Class is its color.
func (v *view) Class() string {
	return cmp.Or(map[string]string{"NOT ENFORCED": "bad", "Enforced": "good", "Needs you": "warn"}[v.Heading()], "unknown")
}

// Reason is why the policy is not enforced, or why that is not known; else "".
func (v *view) Reason() string {
	if v.Enforced || v.Unsure != "" || len(v.Needs) == 0 {
		return ""
	}
	_, reason, _ := strings.Cut(v.Needs[0], ": ")
	return reason
}

// Others are the needs without the one that is the Reason.
func (v *view) Others() []string {
	if v.Reason() != "" {
		return v.Needs[1:]
	}
	return v.Needs
}

// A plot is a bar chart, in the units of the template's viewBox.
type plot struct {
	Wide          float64 // of a bar
	Most          int64
	Rows, Columns []mark // of the axes
	Bars          []column
}

// A mark is a line of an axis.
type mark struct {
	At    float64
	Label string
}

// A column is a bar of a plot.
type column struct {
	X, Y, Height float64
	Title        string
}

// Hours is the plot of the last hours.
func (v *view) Hours() plot {
	return newPlot(v.Hits.Hourly.From.In(v.zone), v.Hits.Hourly.Counts, time.Hour, 12, "Jan 2 15:04", stamp)
}

// Days is the plot of the last days, which begin at midnight UTC.
func (v *view) Days() plot {
	return newPlot(v.Hits.Daily.From.UTC(), v.Hits.Daily.Counts, 24*time.Hour, 7, "Jan 2", time.DateOnly)
}

// newPlot draws counts of so long each; each so many of them have a label of the form label, and all have
// a title.
func newPlot(from time.Time, counts []int64, long time.Duration, each int, label, title string) plot {
	const left, right, above, bottom = 40.0, 360.0, 8.0, 136.0 // of the bars
	p := plot{Most: slices.Max(append(counts, 0)), Wide: (right - left) / float64(max(1, len(counts)))}
	top := max(2, p.Most+p.Most%2)
	at := func(n int64) float64 { return bottom - (bottom-above)*float64(n)/float64(top) }
	for _, n := range []int64{0, top / 2, top} {
		p.Rows = append(p.Rows, mark{at(n), short(n)})
	}
	for i, n := range counts {
		x, t := left+float64(i)*p.Wide, from.Add(time.Duration(i)*long)
		if i%each == 0 && x < right-left { // with room for its label
			p.Columns = append(p.Columns, mark{x, t.Format(label)})
		}
		if n > 0 {
			y := min(at(n), bottom-1) // any hit is visible
			p.Bars = append(p.Bars, column{x, y, bottom - y, t.Format(title) + ": " + plural(n, "hit", "hits")})
		}
	}
	p.Wide = max(1, p.Wide-1)
	return p
}

// short is a number for an axis.
func short(n int64) string {
	for _, unit := range []string{"", "k", "M"} {
		if n < 10_000 {
			return fmt.Sprint(n, unit)
		}
		n /= 1000
	}
	return fmt.Sprint(n, "G")
}
