package status

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"time"
)

// WriteMetrics writes the figures of the status in the text format of Prometheus, version
// 0.0.4. What has no value, such as the time of something that has not happened, is missing.
func (s *Status) WriteMetrics(w io.Writer) error {
	m := &metrics{}
	m.one("build_info", "Constant 1, with the version.", 1, "version", s.Version)
	m.time("start_time_seconds", "When the daemon started.", s.Started)
	m.time("reported_timestamp_seconds", "When the main process last reported.", s.Reported)
	if s.NotKnown == "" && s.Unsure == "" {
		m.one("enforced", "1 if pf acts on the policy, else 0; missing while that is not known.", truth(s.Enforced))
	}
	m.one("needs_owner", "How many things need the owner, as --status lists them.", float64(len(NeedsOwner(s))))
	m.one("troubles", "How many troubles last.", float64(len(s.Troubles)))

	m.time("poll_last_timestamp_seconds", "When the last poll of the policy ended.", s.Poll.Last)
	m.time("poll_last_good_timestamp_seconds", "When a poll last brought the tables to what the servers have.", s.Poll.LastGood)
	m.time("poll_next_timestamp_seconds", "When the next poll begins.", s.Poll.Next)
	m.one("poll_duration_seconds", "How long the last poll took.", s.Poll.Took.Duration().Seconds())

	s.listMetrics(m)
	s.tableMetrics(m)
	if !s.PF.Unknown {
		m.one("pf_running", "1 if pf is enabled, else 0; missing while that is not known.", truth(s.PF.Running))
	}
	m.one("pf_entries", "Entries in all tables of pf.", float64(s.PF.Used))
	if s.PF.Limit > 0 {
		m.one("pf_entries_limit", "The limit table-entries of pf.", float64(s.PF.Limit))
		m.one("pf_entries_reload", "Entries that a reload of pf.conf needs beside those in the tables.", float64(s.PF.Reload))
	}
	s.hitMetrics(m)
	s.uploadMetrics(m)
	_, err := w.Write(m.b.Bytes())
	return err
}

func (s *Status) listMetrics(m *metrics) {
	each := func(name, help string, value func(*List) float64) {
		m.family(name, "gauge", help)
		for i := range s.Lists {
			m.sample(name, value(&s.Lists[i]), "kind", s.Lists[i].Kind, "list", s.Lists[i].Name)
		}
	}
	each("list_entries", "Entries of the copy of a list that is in use.", func(l *List) float64 { return float64(l.Entries) })
	each("list_parts", "Parts that it was made of.", func(l *List) float64 { return float64(l.Parts) })
	each("list_failures", "Attempts to fetch it that failed in a row.", func(l *List) float64 { return float64(l.Failures) })
	each("list_stale", "1 if it is older than STALE_AFTER allows, else 0.", func(l *List) float64 { return truth(s.Stale(l)) })
	m.family("list_fetched_timestamp_seconds", "gauge", "When it was fetched.")
	for i := range s.Lists {
		if l := &s.Lists[i]; !l.Fetched.IsZero() {
			m.sample("list_fetched_timestamp_seconds", seconds(l.Fetched), "kind", l.Kind, "list", l.Name)
		}
	}
}

func (s *Status) tableMetrics(m *metrics) {
	each := func(name, kind, help string, value func(*Table) float64) {
		m.family(name, kind, help)
		for i := range s.Tables {
			m.sample(name, value(&s.Tables[i]), "kind", s.Tables[i].Kind, "table", s.Tables[i].Name)
		}
	}
	each("table_policy_entries", "gauge", "Entries of the policy that was last enforced.", func(t *Table) float64 { return float64(t.Policy) })
	each("table_kernel_entries", "gauge", "Entries that pf has in the table; -1 if it has no such table.", func(t *Table) float64 { return float64(t.Kernel) })
	each("table_rules", "gauge", "Loaded rules that refer to it.", func(t *Table) float64 { return float64(t.Rules) })
	each("table_excepted", "gauge", "Exceptions that met entries of the lists.", func(t *Table) float64 { return float64(t.ExceptedCount) })
	each("table_dropped", "gauge", "Entries of the lists that were refused.", func(t *Table) float64 { return float64(t.DroppedCount) })
	each("table_held_back", "gauge", "1 if a policy is held back, else 0.", func(t *Table) float64 { return truth(t.Held != nil) })
	each("table_failed", "gauge", "1 if the last policy could not be enforced, else 0.", func(t *Table) float64 { return truth(t.Error != "") })
	each("table_drift_mended_total", "counter", "Repairs after something else had changed the table.", func(t *Table) float64 { return float64(t.Drift.Mended) })
}

func (s *Status) hitMetrics(m *metrics) {
	h := &s.Hits
	m.one("capturing", "1 if the pflog interface is read, else 0.", truth(h.Capturing))
	m.count("packets_total", "Packets that pf logged.", float64(h.Seen))
	m.count("hits_total", "Packets with an address that the policy blocks.", float64(h.Matched))
	m.family("list_hits_total", "counter", "Hits by list; one whose two addresses are listed counts twice.")
	for _, l := range h.Lists {
		m.sample("list_hits_total", float64(l.Hits), "list", l.List)
	}
	m.family("lost_total", "counter", "Packets or hits that were lost, by reason.")
	for _, d := range h.Drops {
		m.sample("lost_total", float64(d.Count), "reason", d.Reason)
	}
	for _, r := range reasons {
		m.sample("lost_total", 0, "reason", r.name) // where it has no sample yet
	}
}

func (s *Status) uploadMetrics(m *metrics) {
	u := &s.Uploads
	m.count("uploaded_batches_total", "Batches that were delivered to the log server.", float64(u.Delivered.Batches))
	m.count("uploaded_lines_total", "Lines of these batches.", float64(u.Delivered.Lines))
	m.count("uploaded_bytes_total", "Bytes of these lines.", float64(u.Delivered.Bytes))
	m.count("upload_failures_total", "Attempts to upload that failed.", float64(u.Failures))
	if u.Last != nil {
		m.time("upload_last_timestamp_seconds", "When the last batch was delivered.", u.Last.At)
	}
	m.time("upload_failing_since_timestamp_seconds", "When uploads began to fail; missing while they do not.", u.FailingSince)
	m.family("waiting_lines", "gauge", "Lines that wait for their delivery.")
	m.sample("waiting_lines", float64(u.InMemory), "where", "memory")
	m.sample("waiting_lines", float64(u.Spool.Lines), "where", "spool")
	m.one("spool_batches", "Batches in the spool.", float64(u.Spool.Batches))
	m.one("spool_bytes", "Bytes of the spool's files.", float64(u.DiskUsed))
	m.one("spool_limit_bytes", "SPOOL_MAX.", float64(u.DiskMax))
	m.one("set_aside_batches", "Batches that the log server refused.", float64(u.Aside.Batches))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// prefix begins the names of all metrics.
const prefix = "threatstopd_"

// metrics is the text: families, each with its samples.
type metrics struct {
	b    bytes.Buffer
	seen map[string]bool // of the family: labels that have a sample
}

func (m *metrics) family(name, kind, help string) {
	m.b.WriteString("# HELP " + prefix + name + " " + help + "\n# TYPE " + prefix + name + " " + kind + "\n")
	m.seen = make(map[string]bool)
}

// labelValue escapes what would end the value (Exposition formats, text format details).
var labelValue = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// sample writes a value with its labels, name and value in turn. The first one counts for each
// set of labels: a second one would make the whole text invalid.
func (m *metrics) sample(name string, value float64, labels ...string) {
	var l strings.Builder
	for i := 0; i < len(labels); i += 2 {
		sep := "{"
		if i > 0 {
			sep = ","
		}
		l.WriteString(sep + labels[i] + `="` + labelValue.Replace(strings.ToValidUTF8(labels[i+1], "?")) + `"`)
	}
	if len(labels) > 0 {
		l.WriteString("}")
	}
	if m.seen[l.String()] {
		return
	}
	m.seen[l.String()] = true
	m.b.WriteString(prefix + name + l.String() + " " + strconv.FormatFloat(value, 'f', -1, 64) + "\n")
}

// one writes a gauge that has one sample.
func (m *metrics) one(name, help string, value float64, labels ...string) {
	m.family(name, "gauge", help)
	m.sample(name, value, labels...)
}

// count writes a counter that has one sample.
func (m *metrics) count(name, help string, value float64) {
	m.family(name, "counter", help)
	m.sample(name, value)
}

// time writes a gauge of a time, or nothing for none.
func (m *metrics) time(name, help string, t time.Time) {
	if !t.IsZero() {
		m.one(name, help, seconds(t))
	}
}
