package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"example.org/threatstopd/agent/internal/status"
)

// counters are what outlives the process, in a file of the spool directory.
type counters struct {
	Since     time.Time              `json:"since"`
	Seen      int64                  `json:"seen"`
	Matched   int64                  `json:"matched"`
	Delivered status.Volume          `json:"delivered"`
	Failures  int64                  `json:"failures"`
	Last      *status.Upload         `json:"last,omitempty"` // delivery
	Drops     map[string]status.Drop `json:"drops"`          // by reason
	History   history                `json:"history"`
}

const (
	countersFile = "counters.json"
	maxCounters  = 4 << 20
)

// loadCounters takes up what earlier processes counted; when that is not there or not
// readable, counting begins now.
func (r *Reporter) loadCounters() {
	c := &r.counters
	if err := r.dir.readJSON(countersFile, maxCounters, c); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.o.Log.Warn().Err(err).Msg("counters not readable: counting from now on")
		}
		*c = counters{Since: r.started}
	}
	if c.Drops == nil {
		c.Drops = make(map[string]status.Drop)
	}
	c.History.init()
}

// saveCounters writes them. They need not survive a power failure.
func (r *Reporter) saveCounters() {
	r.countDrops()
	r.mu.Lock()
	r.counters.History.forget(r.o.Now())
	b, err := json.Marshal(r.counters)
	r.mu.Unlock()
	if err == nil {
		err = r.dir.replace(countersFile, false, append(b, '\n'))
	}
	if err != nil {
		r.o.Log.Debug().Err(err).Msg("counters not saved")
	}
}

func add(v *status.Volume, lines int, bytes int64) {
	v.Batches++
	v.Lines += int64(lines)
	v.Bytes += bytes
}

// volume sums up the batches that have a file; their bytes are those of their files.
func volume(batches []*batch) (v status.Volume) {
	for _, b := range batches {
		if b.name != "" {
			add(&v, b.lines, b.size)
		}
	}
	return v
}

// lose counts packets or lines that are lost for one of the status.Drop… reasons. mu is held.
func (r *Reporter) lose(reason string, n int) {
	if n > 0 {
		count := r.counters.Drops[reason].Count + int64(n)
		r.counters.Drops[reason] = status.Drop{Reason: reason, Count: count, Last: r.o.Now()}
	}
}

// countDrops counts what the kernel has dropped since it was last asked.
func (r *Reporter) countDrops() {
	s, err := r.o.Source.Stats()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || s.Dropped < r.kernel.Dropped || s.Malformed < r.kernel.Malformed {
		return // closed, or another asked later
	}
	r.lose(status.DropKernel, int(s.Dropped-r.kernel.Dropped))
	r.lose(status.DropMalformed, int(s.Malformed-r.kernel.Malformed))
	r.kernel = s
}

// dropOrder is the order in which reasons for losing something are shown: that of the way. All but the
// first four are lines that should have been delivered.
var dropOrder = []string{
	status.DropKernel, status.DropMalformed, status.DropUndecoded, status.DropNoPolicy, status.DropMemory,
	status.DropUnsaved, status.DropSpoolFull, status.DropSpoolAge, status.DropSpoolDamage, status.DropRefused,
}

// Describe fills in what the reporter knows of hits and uploads. It may be called at any time
// and waits for nothing.
func (r *Reporter) Describe(h *status.Hits, u *status.Uploads) {
	r.countDrops()
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &r.counters
	h.Capturing, h.Since, h.CatchUp, h.Seen, h.Matched = true, c.Since, r.catchUp, c.Seen, c.Matched
	for _, reason := range dropOrder {
		if d := c.Drops[reason]; d.Count > 0 {
			h.Drops = append(h.Drops, d)
		}
	}
	c.History.report(r.o.Now(), 5, h)
	*u = r.up
	u.Delivered, u.Failures, u.Last = c.Delivered, c.Failures, c.Last
	for _, b := range append(slices.Clone(r.unsaved()), r.live.batch, r.files.batch) {
		if b != nil {
			u.InMemory += int64(b.lines)
		}
	}
	u.Spool, u.Aside = volume(r.queue), volume(r.aside)
	u.DiskUsed = u.Spool.Bytes + u.Aside.Bytes
	if r.diskErr != nil {
		u.SpoolError = r.diskErr.Error()
	}
}

// LogStatus logs one line about reporting.
func (r *Reporter) LogStatus() {
	var h status.Hits
	var u status.Uploads
	r.Describe(&h, &u)
	lost := int64(0)
	for _, d := range h.Drops {
		if slices.Index(dropOrder, d.Reason) >= 4 {
			lost += d.Count
		}
	}
	r.o.Log.Info().Int64("seen", h.Seen).Int64("hits", h.Matched).Int64("delivered", u.Delivered.Lines).
		Int64("waiting", u.InMemory+u.Spool.Lines).Int64("lost", lost).Msg("status of reporting")
}

// A history knows who hit most in the last hour and day, how many hits each hour and day had, and how
// many each list ever had. Its memory is bounded: Lists has those of the policies. The others have a
// span for each slot, hour and day, which are numbered from 1970.
type history struct {
	Lists map[string]int64 `json:"lists"`
	Slots map[int64]span   `json:"slots"`
	Hours map[int64]span   `json:"hours"`
	Days  map[int64]span   `json:"days"`
}

// A series is one of these maps, and how many spans of what length it keeps; only the newest detailed
// have more than the number of hits. Each includes the span that is being filled.
type series struct {
	spans          map[int64]span
	length         time.Duration
	kept, detailed int64
}

// series returns those of slots, hours and days.
func (h *history) series() [3]series {
	return [3]series{
		{h.Slots, 10 * time.Minute, 7, 7},
		{h.Hours, time.Hour, status.HistoryHours, 25},
		{h.Days, aDay, status.HistoryDays, 0},
	}
}

// A span counts the hits of a slot, an hour or a day, and of the most frequent addresses, ports and lists.
type span struct {
	Hits int64      `json:"hits"`
	Top  [3]counter `json:"top,omitzero"`
}

const keptKeys = 100 // of each kind in a span: all with more than such a part of its hits are among them

// A counter counts the most frequent keys of a stream in bounded memory (Misra and Gries,
// Finding Repeated Elements): a key came Counts[key] times at least, and at most Missed times
// more; so did one that is not kept.
type counter struct {
	Counts map[string]int64 `json:"counts"`
	Missed int64            `json:"missed"`
}

func (c *counter) add(key string) {
	if c.Counts == nil {
		c.Counts = make(map[string]int64)
	}
	if _, ok := c.Counts[key]; ok || len(c.Counts) < keptKeys {
		c.Counts[key]++
		return
	}
	// Each hit is taken off again at most once, so this takes constant time on average.
	c.Missed++
	for k := range c.Counts {
		if c.Counts[k]--; c.Counts[k] == 0 {
			delete(c.Counts, k)
		}
	}
}

func (h *history) init() {
	for _, m := range []*map[int64]span{&h.Slots, &h.Hours, &h.Days} {
		if *m == nil {
			*m = make(map[int64]span)
		}
	}
	if h.Lists == nil {
		h.Lists = make(map[string]int64)
	}
}

// hit counts a packet: its listed address, its protocol and destination port, the list that
// has the address, and when it was logged. Hits may come late, as when files are read: what is older
// than the history goes back counts for its list only; one from the future counts as of now.
func (h *history) hit(addr netip.Addr, proto uint8, port uint16, list string, at, now time.Time) {
	h.Lists[list]++
	if at.After(now) {
		at = now
	}
	keys := [3]string{addr.Unmap().WithZone("").String(), portName(proto, port), list}
	for _, x := range h.series() {
		n, newest := x.number(at), x.number(now)
		if n <= newest-x.kept {
			continue // too old
		}
		s, ok := x.spans[n]
		if !ok {
			h.forget(now)
		}
		s.Hits++
		for i := range s.Top {
			if n > newest-x.detailed && keys[i] != "" {
				s.Top[i].add(keys[i])
			}
		}
		x.spans[n] = s
	}
}

// forget drops what is too old, and what is in the future because the clock was set back: it
// cannot be distinguished from what will be.
func (h *history) forget(now time.Time) {
	for _, x := range h.series() {
		newest := x.number(now)
		maps.DeleteFunc(x.spans, func(n int64, s span) bool {
			if n <= newest-x.detailed {
				x.spans[n] = span{Hits: s.Hits}
			}
			return n > newest || n <= newest-x.kept
		})
	}
}

// number returns which span a time falls into.
func (x series) number(t time.Time) int64 { return t.Unix() / int64(x.length/time.Second) }

// from returns when the oldest of the newest n spans begins, and its number.
func (x series) from(now time.Time, n int64) (time.Time, int64) {
	first := x.number(now) - n + 1
	return time.Unix(first*int64(x.length/time.Second), 0).UTC(), first
}

// report fills in the lists, and Hourly and Daily, and Hour and Day with n keys of each kind.
func (h *history) report(now time.Time, n int, hits *status.Hits) {
	h.forget(now)
	for _, name := range slices.Sorted(maps.Keys(h.Lists)) {
		if c := h.Lists[name]; c > 0 || name != noList {
			hits.Lists = append(hits.Lists, status.ListHits{List: name, Hits: c})
		}
	}
	all := h.series()
	hits.Hour, hits.Day = all[0].top(now, n), all[1].top(now, n)
	hits.Hourly, hits.Daily = all[1].counts(now), all[2].counts(now)
}

// counts returns the hits of each span.
func (x series) counts(now time.Time) status.Series {
	from, first := x.from(now, x.kept)
	s := status.Series{From: from, Counts: make([]int64, x.kept)}
	for n, c := range x.spans {
		s.Counts[n-first] = c.Hits
	}
	return s
}

// top returns the n most frequent keys of each kind in the detailed spans.
func (x series) top(now time.Time, n int) (t status.Top) {
	from, first := x.from(now, x.detailed)
	t.From = from
	for i, to := range []*[]status.Counted{&t.Addresses, &t.Ports, &t.Lists} {
		sum, missed := make(map[string]int64), int64(0)
		t.Hits = 0
		for at, s := range x.spans {
			if at < first {
				continue
			}
			t.Hits += s.Hits
			missed += s.Top[i].Missed
			for k, c := range s.Top[i].Counts {
				sum[k] += c
			}
		}
		keys := slices.SortedFunc(maps.Keys(sum), func(a, b string) int {
			return cmp.Or(cmp.Compare(sum[b], sum[a]), cmp.Compare(a, b))
		})
		for _, k := range keys[:min(n, len(keys))] {
			*to = append(*to, status.Counted{Key: k, Hits: sum[k], Slack: missed})
		}
	}
	return t
}

// protocols are the names of protocols (IANA, protocol numbers); the first four have ports.
var protocols = map[uint8]string{
	6: "tcp", 17: "udp", 132: "sctp", 136: "udplite",
	1: "icmp", 2: "igmp", 4: "ipip", 41: "ipv6", 47: "gre",
	50: "esp", 51: "ah", 58: "icmp6", 89: "ospf", 103: "pim", 112: "carp",
}

// portName returns "22/tcp", "icmp" or "proto 99"; "" for protocol 0.
func portName(proto uint8, port uint16) string {
	name := cmp.Or(protocols[proto], "proto "+strconv.Itoa(int(proto)))
	switch {
	case proto == 0:
		return ""
	case port != 0 || slices.Contains([]uint8{6, 17, 132, 136}, proto):
		return strconv.Itoa(int(port)) + "/" + name
	}
	return name
}
