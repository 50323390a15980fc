package status

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"
)

const (
	columns = 80
	topShow = 5  // of each kind, unless verbose
	fewShow = 10 // exceptions and dropped entries, unless verbose
)

// stamp is how all times are shown.
const stamp = "2006-01-02 15:04"

// blank is a space where no line is broken.
const blank = "\x1f"

// words is what WriteText writes, as a template: a line is a paragraph, of which [wrap] makes lines
// of 80 columns. The page takes its sentences from it, too.
//
//go:embed words.tmpl
var words string

// WriteText writes the status for a person: printable ASCII, since a console may show nothing
// else (other characters become question marks), in at most 80 columns. Only the first line may
// be longer, as monitoring shows that one: it begins with "Enforced", "NOT ENFORCED", "not
// known" or "needs you", the last three with the reason. Times are shown in zone. verbose names
// all exceptions and dropped entries, otherwise the first ten are named.
func (s *Status) WriteText(w io.Writer, zone *time.Location, verbose bool) error {
	v, err := newView(s, zone, verbose)
	if err != nil {
		return err
	}
	text, err := v.words("text", v)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if len(v.Needs) > 0 {
		b.WriteString(v.Headline() + "\n")
	}
	wrap(&b, text)
	_, err = w.Write(b.Bytes())
	return err
}

// A view is a status as the templates see it: its strings are printable ASCII.
type view struct {
	*Status
	Needs   []string // what NeedsOwner returns
	Verbose bool
	sub     *template.Template
	zone    *time.Location // of the reader
}

func newView(s *Status, zone *time.Location, verbose bool) (*view, error) {
	v := &view{Status: new(Status), Verbose: verbose, zone: zone}
	b, err := json.Marshal(s)
	if err == nil {
		err = json.Unmarshal(foreign.ReplaceAllFunc(b, harmless), v.Status)
	}
	if err == nil {
		v.Needs = NeedsOwner(v.Status)
		v.sub, err = template.New("words").Funcs(v.funcs()).Parse(words)
	}
	return v, err
}

// foreign matches in JSON what is not printable ASCII, and everything behind a backslash.
var foreign = regexp.MustCompile(`\\(?:u....|.)|[^ -~]`)

// harmless replaces what a stranger may have meant for the terminal.
func harmless(b []byte) []byte {
	switch s := string(b); s {
	case `\n`, `\r`, `\t`:
		return []byte(" ")
	case `\\`, `\"`, `\u003c`, `\u003e`, `\u0026`: // < > &
		return b
	}
	return []byte("?")
}

// funcs are what the templates call beside the methods of a status.
func (v *view) funcs() template.FuncMap {
	few, top := fewShow, topShow
	if v.Verbose {
		few, top = math.MaxInt, math.MaxInt
	}
	return template.FuncMap{
		"age":     func(t time.Time) string { return age(v.Now.Sub(t)) },
		"ago":     func(t time.Time) string { return age(v.Now.Sub(t)) + " ago (" + v.clock(t) + ")" },
		"chart":   v.chart,
		"clock":   v.clock,
		"count":   plural,
		"counted": func(name string, all []Counted) string { return counted(name, all[:min(len(all), top)]) },
		"due":     v.due,
		"few":     func(n int) int { return min(n, few) },
		"lost":    func(d Drop) string { _, text := d.reason(); return text },
		"more":    func(n, named int) int { return max(0, n-named) },
		"ms":      Seconds.Duration,
		"row":     row,
		"size":    size,
		"stale":   v.Stale,
		"times":   times,
	}
}

func (v *view) clock(t time.Time) string { return t.In(v.zone).Format(stamp) }

// words executes one of the templates in words.tmpl.
func (v *view) words(name string, data any) (string, error) {
	var b strings.Builder
	err := v.sub.ExecuteTemplate(&b, name, data)
	return b.String(), err
}

// Headline is the first line where something needs the owner.
func (v *view) Headline() string {
	first, more := v.Needs[0], ""
	if n := len(v.Needs) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	switch rest, not := strings.CutPrefix(first, "not enforced: "); {
	case not:
		first = "NOT ENFORCED: " + rest
	case v.Enforced, v.Unsure != "":
		first = "needs you: " + first
	}
	return strings.TrimRight(first+more, " ")
}

// Excess returns how many entries a reload of pf.conf has too many; with room for it, a number
// that is not positive.
func (p PF) Excess() int { return p.Used + p.Reload - p.Limit }

// Counting returns when the hits began to count.
func (s *Status) Counting() time.Time {
	if s.Hits.Since.IsZero() {
		return s.Started
	}
	return s.Hits.Since
}

// ByList returns the hits of each list.
func (h *Hits) ByList() (all []Counted) {
	for _, l := range h.Lists {
		all = append(all, Counted{Key: l.List, Hits: l.Hits})
	}
	return all
}

// chart draws the hits of the last hours in two lines of text.
func (v *view) chart(s Series) string {
	counts := s.Counts[max(0, len(s.Counts)-HistoryHours):]
	at := func(hour int) string { return v.clock(s.From.Add(time.Duration(hour) * time.Hour)) }
	left, right := at(len(s.Counts)-len(counts)), at(len(s.Counts)-1)
	between := strings.Repeat(" ", max(1, len(counts)-len(left)-len(right)))
	text := fmt.Sprintf("  |%s| at most %d an hour\n   %s%s%s", bar(counts), slices.Max(counts), left, between, right)
	return strings.ReplaceAll(text, " ", blank)
}

// counted is a line of keys and how often they came, as far as that is more than never.
func counted(name string, all []Counted) string {
	var named []string
	for _, c := range all {
		slack := ""
		if c.Slack > 0 {
			slack = "+"
		}
		if c.Hits > 0 {
			named = append(named, fmt.Sprintf("%s%s(%d%s)", c.Key, blank, c.Hits, slack))
		}
	}
	if named == nil {
		return ""
	}
	return fmt.Sprintf("%s\t%s", name+strings.Repeat(blank, 11-len(strings.TrimLeft(name, " "))), strings.Join(named, ", "))
}

// row is a line of a list or of a table, or its heading: a name, three figures, and a word, on
// lines of their own where they are too long.
func row(name string, a, b, c any, rest string) string {
	const wide = 36
	before, after := "", ""
	if len(name) > wide {
		before, name = "  "+strings.TrimSpace(name)+"\n", ""
	}
	line := fmt.Sprintf("%-*s %8v %6v %7v", wide, name, a, b, c)
	if rest != "" && len(line)+2+len(rest) <= columns {
		line += "  " + rest
	} else if rest != "" {
		after = "\n    from " + rest
	}
	return before + strings.ReplaceAll(line, " ", blank) + after
}

// wrap breaks each line of a text at 80 columns and leaves empty ones out. What follows a break is
// indented by two more columns, or to where the line has a tab. "# " begins a title, which has an
// empty line before it.
func wrap(b *bytes.Buffer, text string) {
	for paragraph := range strings.Lines(text) {
		indent := len(paragraph) - len(strings.TrimLeft(paragraph, " "))
		more := indent + 2
		if name, rest, ok := strings.Cut(paragraph, "\t"); ok {
			more, paragraph = len(name), name+rest
		}
		if title, ok := strings.CutPrefix(paragraph, "# "); ok {
			b.WriteByte('\n')
			paragraph = title
		}
		line := ""
		flush := func() {
			text := fmt.Sprintf("%*s%s", indent, "", strings.ReplaceAll(line, blank, " "))
			b.WriteString(strings.TrimRight(text, " ") + "\n")
			line, indent = "", more
		}
		for w := range strings.FieldsSeq(paragraph) {
			if line != "" && indent+len(line)+1+len(w) > columns {
				flush()
			} else if line != "" {
				line += " "
			}
			for line += w; indent+len(line) > columns; {
				rest := line[columns-indent:]
				line = line[:columns-indent]
				flush()
				line = rest
			}
		}
		if line != "" {
			flush()
		}
	}
}

// due shows when something is due.
func (v *view) due(t time.Time) string {
	if !t.After(v.Now) {
		return "now"
	}
	return "in " + age(t.Sub(v.Now)) + " (" + v.clock(t) + ")"
}

// times shows how often something happened, and when it did last.
func times(n int, last string) string {
	if n <= 1 {
		return last
	}
	return fmt.Sprintf("%d times, last %s", n, last)
}

// bar draws counts, a column each, from no hits to the most. Any hit is visible.
func bar(counts []int64) string {
	const levels = " .:-=+*#%@"
	b := make([]byte, len(counts))
	for i, n := range counts {
		level := 0
		if n > 0 {
			level = int(math.Ceil(float64(n) / float64(slices.Max(counts)) * float64(len(levels)-1)))
		}
		b[i] = levels[min(level, len(levels)-1)]
	}
	return string(b)
}

// age shows a duration, rounded down, in one or two units. Negative ones, as a clock that was
// set makes them, are 0s.
func age(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, d)/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 3*time.Hour && d%time.Hour >= time.Minute:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d < day:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d < 3*day && d%day >= time.Hour:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	}
	return fmt.Sprintf("%dd", d/day)
}

// plural is a number, an int or an int64, with its noun.
func plural(n any, one, many string) string {
	if text := fmt.Sprint(n); text != "1" {
		return text + " " + many
	}
	return "1 " + one
}

// size shows bytes in units of 1024, as SPOOL_MAX does.
func size(n int64) string {
	for _, unit := range []string{"B", "K", "M"} {
		if n < 10<<10 {
			return strconv.FormatInt(n, 10) + unit
		}
		n >>= 10
	}
	return strconv.FormatInt(n, 10) + "G"
}
