package status

import (
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"
)

// metricsText has every metric and where its value is.
//
//go:embed metrics.tmpl
var metricsText string

// WriteMetrics writes the figures of the status in the text format of Prometheus, version
// 0.0.4. What has no value, such as the time of something that has not happened, is missing.
func (s *Status) WriteMetrics(w io.Writer) error {
	m := &metrics{seen: make(map[string]bool)}
	t, err := template.New("metrics").Funcs(template.FuncMap{
		"m":     m.sample,
		"stale": s.Stale,
		"reasons": func() (names []string) {
			for _, r := range reasons {
				names = append(names, r.name)
			}
			return names
		},
	}).Parse(metricsText)
	if err == nil {
		err = t.Execute(io.Discard, struct { // m writes
			*Status
			Needs []string
		}{s, NeedsOwner(s)})
	}
	if err == nil {
		_, err = w.Write(m.b.Bytes())
	}
	return err
}

// metrics is the text: families, each with its samples.
type metrics struct {
	b    bytes.Buffer
	last string          // family
	seen map[string]bool // names with labels
}

// labelValue escapes what would end the value (Exposition formats, text format details).
var labelValue = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// sample writes a value with its labels, name and value in turn; the first one begins a family,
// a counter if its name ends in _total. The first sample counts for each set of labels: a second
// one would make the whole text invalid. It returns "".
func (m *metrics) sample(name, help string, value any, labels ...string) string {
	figure := number(value)
	if figure == "" {
		return ""
	}
	name = "threatstopd_" + name
	if name != m.last {
		kind := "gauge"
		if strings.HasSuffix(name, "_total") {
			kind = "counter"
		}
		fmt.Fprintf(&m.b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
		m.last = name
	}
	var pairs []string
	for pair := range slices.Chunk(labels, 2) {
		pairs = append(pairs, pair[0]+`="`+labelValue.Replace(strings.ToValidUTF8(pair[1], "?"))+`"`)
	}
	if pairs != nil {
		name += "{" + strings.Join(pairs, ",") + "}"
	}
	if !m.seen[name] {
		m.seen[name] = true
		m.b.WriteString(name + " " + figure + "\n")
	}
	return ""
}

// number formats a value: 1 for true, seconds for a time or a duration, "" for no time.
func number(value any) string {
	var seconds float64
	switch v := value.(type) {
	case bool:
		if v {
			return "1"
		}
		return "0"
	case Seconds:
		seconds = float64(v)
	case time.Time:
		if v.IsZero() {
			return ""
		}
		seconds = float64(v.UnixMilli()) / 1000
	default:
		return fmt.Sprint(v)
	}
	return strconv.FormatFloat(seconds, 'f', -1, 64)
}
