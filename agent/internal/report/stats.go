package report

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"time"

	"example.org/threatstopd/agent/internal/status"
)

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

// counters are what outlives the process, in a file of the spool directory.
type counters struct {
	Since     time.Time              `json:"since"`
	Seen      int64                  `json:"seen"`
	Matched   int64                  `json:"matched"`
	Delivered status.Volume          `json:"delivered"`
	Failures  int64                  `json:"failures"`
	Last      *status.Upload         `json:"last,omitempty"` // delivery
	Drops     map[string]status.Drop `json:"drops"`          // by reason
	History   spans                  `json:"history"`
}

const (
	countersFile = "counters.json"
	maxCounters  = 4 << 20
)

// loadCounters takes up what earlier processes counted; when that is not there or not
// readable, counting begins now.
func (r *Reporter) loadCounters() {
	path := filepath.Join(r.o.SpoolDir, countersFile)
	var c counters
	b, err := readOwn(path, maxCounters)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err == nil {
		err = r.history.restore(c.History)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.o.Log.Warn().Str("file", path).Err(cause(err)).Msg("counters not readable: counting from now on")
		}
		c = counters{Since: r.started}
	}
	r.base = c
	r.up.Delivered, r.up.Failures, r.up.Last = c.Delivered, c.Failures, c.Last
	r.drops = maps.Clone(c.Drops)
	if r.drops == nil {
		r.drops = make(map[string]status.Drop)
	}
}

// saveCounters writes them. They need not survive a power failure.
func (r *Reporter) saveCounters() {
	var h status.Hits
	var u status.Uploads
	r.Describe(&h, &u)
	c := counters{Since: h.Since, Seen: h.Seen, Matched: h.Matched, Delivered: u.Delivered, Failures: u.Failures, Last: u.Last,
		Drops: make(map[string]status.Drop), History: r.history.save()}
	for _, d := range h.Drops {
		c.Drops[d.Reason] = d
	}
	b, err := json.Marshal(c)
	if err == nil {
		err = r.dir.replace(countersFile, false, append(b, '\n'))
	}
	if err != nil {
		r.o.Log.Debug().Err(err).Msg("counters not saved")
	}
}

// lose counts lines that will not be delivered, for one of the status.Drop… reasons. mu is held.
func (r *Reporter) lose(reason string, lines int) {
	r.lost(reason, r.drops[reason].Count+int64(lines))
}

// lost notes that so many have been lost for a reason in all. mu is held.
func (r *Reporter) lost(reason string, count int64) {
	if count > r.drops[reason].Count {
		r.drops[reason] = status.Drop{Reason: reason, Count: count, Last: r.o.Now()}
	}
}

// dropOrder is the order in which reasons for losing something are shown: that of the way.
var dropOrder = []string{
	status.DropKernel, status.DropMalformed, status.DropUndecoded, status.DropNoPolicy, status.DropMemory,
	status.DropUnsaved, status.DropSpoolFull, status.DropSpoolAge, status.DropSpoolDamage, status.DropRefused,
}

// topShown is how many addresses, ports and lists a status names.
const topShown = 5

// Describe fills in what the reporter knows of hits and uploads. It may be called at any time
// and waits for nothing.
func (r *Reporter) Describe(h *status.Hits, u *status.Uploads) {
	live, files := r.liveLane.count(), r.gapLane.count()
	kernel, err := r.o.Source.Stats()
	r.history.report(topShown, h)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.kernel = kernel
	}
	for reason, n := range map[string]int64{
		status.DropKernel:    int64(r.kernel.Dropped),
		status.DropMalformed: int64(r.kernel.Malformed),
		status.DropUndecoded: live.Undecoded + files.Undecoded,
		status.DropNoPolicy:  live.NoPolicy,
		status.DropMemory:    live.Lost,
	} {
		r.lost(reason, r.base.Drops[reason].Count+n)
	}
	h.Capturing, h.Since, h.CatchUp = true, r.base.Since, r.catchUp
	h.Seen, h.Matched = r.base.Seen+live.Seen+files.Seen, r.base.Matched+live.Hits+files.Hits
	for _, reason := range dropOrder {
		if d := r.drops[reason]; d.Count > 0 {
			h.Drops = append(h.Drops, d)
		}
	}
	*u = r.up
	u.InMemory = max(0, live.Reported-live.Lost+files.Reported-r.left)
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
		switch d.Reason {
		case status.DropKernel, status.DropMalformed, status.DropUndecoded, status.DropNoPolicy:
		default:
			lost += d.Count
		}
	}
	r.o.Log.Info().Int64("seen", h.Seen).Int64("hits", h.Matched).Int64("delivered", u.Delivered.Lines).
		Int64("waiting", u.InMemory+u.Spool.Lines).Int64("lost", lost).Msg("status of reporting")
}
