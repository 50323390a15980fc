package status

import (
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// metricsType is the content type of the text format.
const metricsType = "text/plain; version=0.0.4; charset=utf-8"

// serveMetrics serves GET /metrics, and nothing else, until the listener is closed. A
// connection has one request: idle ones would keep others out.
func (s *server) serveMetrics(l net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "only GET", http.StatusMethodNotAllowed)
			return
		}
		st := s.recent()
		var b bytes.Buffer
		st.WriteMetrics(&b) // a Buffer takes everything
		w.Header().Set("Content-Type", metricsType)
		w.Header().Set("Cache-Control", "no-store")
		w.Write(b.Bytes())
	})
	h := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: s.t.request,
		ReadTimeout:       s.t.request,
		WriteTimeout:      s.t.answer,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	h.SetKeepAlivesEnabled(false)
	var (
		mu   sync.Mutex
		mute = make(map[net.Conn]struct{}) // those that have said nothing yet
	)
	h.ConnState = func(c net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if delete(mute, c); state == http.StateNew {
			mute[c] = struct{}{}
		}
	}
	s.wg.Go(func() {
		<-s.ctx.Done()
		// Shutdown would wait for these, five seconds.
		mu.Lock()
		for c := range mute {
			c.Close()
		}
		mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), s.t.answer)
		defer cancel()
		h.Shutdown(ctx)
		h.Close()
	})
	h.Serve(&limited{Listener: l, slots: make(chan struct{}, maxClients)})
}

// noRoom is the whole answer to those for whom there is no slot.
const noRoom = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\nRetry-After: 1\r\n\r\n"

// limited turns connections away while there are as many as there are slots.
type limited struct {
	net.Listener
	slots chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &slotConn{Conn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			// A new socket has room for this.
			c.SetWriteDeadline(time.Now().Add(lineTime))
			io.WriteString(c, noRoom)
			c.Close()
		}
	}
}

// slotConn is a connection that gives its slot back.
type slotConn struct {
	net.Conn
	release func()
}

func (c *slotConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// WriteMetrics writes the figures of the status in the text format of Prometheus, version
// 0.0.4. What has no value, such as the time of something that has not happened, is left
// out.
func (s *Status) WriteMetrics(w io.Writer) error {
	m := &metrics{}
	m.one("build_info", "Constant 1, with the version.", 1, "version", s.Version)
	m.time("start_time_seconds", "When the daemon started.", s.Started)
	m.one("enforced", "1 if pf acts on the policy, else 0.", truth(s.Enforced))
	m.one("needs_owner", "How many things need the owner, as --status tells them.", float64(len(NeedsOwner(s))))
	m.one("troubles", "How many troubles last.", float64(len(s.Troubles)))

	m.time("poll_last_timestamp_seconds", "When the last poll of the policy ended.", s.Poll.Last)
	m.time("poll_last_good_timestamp_seconds", "When a poll last brought the tables to what the servers have.", s.Poll.LastGood)
	m.time("poll_next_timestamp_seconds", "When the next poll begins.", s.Poll.Next)
	m.one("poll_duration_seconds", "How long the last poll took.", s.Poll.Took.Duration().Seconds())

	s.listMetrics(m)
	s.tableMetrics(m)
	m.one("pf_running", "1 if pf is enabled, else 0.", truth(s.PF.Running))
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
	each("table_drift_mended_total", "counter", "Times that others had changed it and it was put right.", func(t *Table) float64 { return float64(t.Drift.Mended) })
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
}

func (s *Status) uploadMetrics(m *metrics) {
	u := &s.Uploads
	m.count("uploaded_batches_total", "Batches that the log server took.", float64(u.Delivered.Batches))
	m.count("uploaded_lines_total", "Lines that it took.", float64(u.Delivered.Lines))
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

// metrics is text in the making: families, each with its samples.
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

// sample writes a value with its labels, name and value in turn. The same labels twice
// would spoil the whole: the first counts.
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
