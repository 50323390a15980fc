package status

import (
	"bytes"
	_ "embed"
	"io"
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
	const prefix = "threatstopd_"
	figure := number(value)
	if figure == "" {
		return ""
	}
	name = prefix + name
	if name != m.last {
		kind := "gauge"
		if strings.HasSuffix(name, "_total") {
			kind = "counter"
		}
		m.b.WriteString("# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n")
		m.last = name
	}
	for i := 0; i < len(labels); i += 2 {
		sep := "{"
		if i > 0 {
			sep = ","
		}
		name += sep + labels[i] + `="` + labelValue.Replace(strings.ToValidUTF8(labels[i+1], "?")) + `"`
	}
	if len(labels) > 0 {
		name += "}"
	}
	if !m.seen[name] {
		m.seen[name] = true
		m.b.WriteString(name + " " + figure + "\n")
	}
	return ""
}

// number formats a value: 1 for true, seconds for a time or a duration, "" for no time.
func number(value any) string {
	var f float64
	switch v := value.(type) {
	case int:
		f = float64(v)
	case int64:
		f = float64(v)
	case bool:
		if v {
			f = 1
		}
	case Seconds:
		f = v.Duration().Seconds()
	case time.Time:
		if v.IsZero() {
			return ""
		}
		f = float64(v.UnixMilli()) / 1000
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}
