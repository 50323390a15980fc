package status

import (
	"bytes"
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
	"time"
)

//go:embed page.html
var pageText string

// page answers GET /: the status as one document that loads nothing else.
func (s *server) page(w http.ResponseWriter, _ *http.Request) {
	st := s.Status()
	b, err := st.page(s.Location)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, style, _ := bytes.Cut(b, []byte("<style>"))
	style, _, _ = bytes.Cut(style, []byte("</style>"))
	hash := sha256.Sum256(style)
	w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-"+
		base64.StdEncoding.EncodeToString(hash[:])+"'")
	w.Header().Set("Referrer-Policy", "no-referrer")
	answer(w, "text/html; charset=utf-8", func(w io.Writer) error { _, err := w.Write(b); return err })
}

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

// page returns the document, with times in zone.
func (s *Status) page(zone *time.Location) ([]byte, error) {
	v, err := newView(s, zone, false)
	if err != nil {
		return nil, err
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
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, v)
	return b.Bytes(), err
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

// Heading is the state in one to three words, Class its color.
func (v *view) Heading() string { heading, _ := v.state(); return heading }
func (v *view) Class() string   { _, class := v.state(); return class }

func (v *view) state() (heading, class string) {
	switch {
	case v.NotEnforced != "":
		return "NOT ENFORCED", "bad"
	case v.Enforced && len(v.Needs) == 0:
		return "Enforced", "good"
	case v.Enforced, v.Unsure != "" && len(v.Needs) > 0:
		return "Needs you", "warn"
	case v.Unsure == "" && v.Poll.Last.IsZero():
		return "Starting", "unknown"
	}
	return "Not known", "unknown"
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

// A meter shows how much of a limit is used, and how much More would be, in percent.
type meter struct {
	Used, More float64
	Over       bool
	Label      string
}

// newMeter returns nil when there is no limit.
func newMeter(used, more, limit int64) *meter {
	if limit <= 0 {
		return nil
	}
	percent := func(n int64) float64 { return min(100, max(0, 100*float64(n)/float64(limit))) }
	return &meter{percent(used), percent(used + more), used+more > limit, fmt.Sprintf("%.0f percent are used", percent(used))}
}

// Room is of pf's table entries.
func (v *view) Room() *meter {
	return newMeter(int64(v.PF.Used), int64(v.PF.Reload), int64(v.PF.Limit))
}

// Spool is of SPOOL_MAX.
func (v *view) Spool() *meter { return newMeter(v.Uploads.DiskUsed, 0, v.Uploads.DiskMax) }

// A plot is a bar chart, in the units of its viewBox.
type plot struct {
	Width, Height, Left, Before, Bottom, Tick float64
	Wide                                      float64 // of a bar
	Most                                      int64
	Rows, Columns                             []mark // of the axes
	Bars                                      []column
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
func (v *view) Hours() plot { return newPlot(v.Hits.Hourly, time.Hour, 12, "Jan 2 15:04", stamp) }

// Days is the plot of the last days, which begin at midnight UTC.
func (v *view) Days() plot {
	return newPlot(Series{v.Hits.Daily.From.UTC(), v.Hits.Daily.Counts}, 24*time.Hour, 7, "Jan 2", time.DateOnly)
}

// newPlot draws a series whose columns are each so long; each so many of them have a label of the form
// label, and all have a title.
func newPlot(s Series, long time.Duration, each int, label, title string) plot {
	p := plot{Width: 360, Height: 160, Left: 40, Before: 36, Bottom: 136, Tick: 140}
	const above = 8.0 // the axis
	if len(s.Counts) > 0 {
		p.Most = slices.Max(s.Counts)
		p.Wide = (p.Width - p.Left) / float64(len(s.Counts))
	}
	top := roundUp(p.Most)
	at := func(n int64) float64 { return p.Bottom - (p.Bottom-above)*float64(n)/float64(top) }
	for _, n := range []int64{0, top / 2, top} {
		p.Rows = append(p.Rows, mark{at(n), short(n)})
	}
	for i, n := range s.Counts {
		x, t := p.Left+float64(i)*p.Wide, s.From.Add(time.Duration(i)*long)
		if i%each == 0 && x < p.Width-40 { // with room for its label
			p.Columns = append(p.Columns, mark{x, t.Format(label)})
		}
		if n > 0 {
			y := min(at(n), p.Bottom-1) // any hit is visible
			p.Bars = append(p.Bars, column{x, y, p.Bottom - y, t.Format(title) + ": " + plural(n, "hit", "hits")})
		}
	}
	p.Wide = max(1, p.Wide-1)
	return p
}

// roundUp returns the least 2, 4, 6, 8 or 10 times a power of ten that n is not more than.
func roundUp(n int64) int64 {
	for unit := int64(1); unit < 1<<59; unit *= 10 {
		for _, top := range []int64{2, 4, 6, 8} {
			if n <= top*unit {
				return top * unit
			}
		}
	}
	return n
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
