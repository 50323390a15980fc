package daemon

import (
	"os"
	"strings"
	"sync"
	"time"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/update"
	"example.org/threatstopd/pfioctl"
)

// state is what a life knows of itself, for whoever asks.
type state struct {
	mu       sync.Mutex
	schedule schedule
	polling  bool
	inForce  inForce
	last     *update.Outcome // the last poll
	lastGood time.Time       // when one last brought everything to what the servers have
	lists    []listState     // as of the last poll, in its order
	tables   map[policy.Kind]*tableState
	seen     apply.Glance
}

// listState is a list over several polls.
type listState struct {
	update.List
	key      string // "block list basic.example.net"
	tried    time.Time
	fetched  time.Time // zero: not since the start
	failures int
}

// tableState is a table over several polls.
type tableState struct {
	apply.Table               // of the last poll
	set         *policy.Set   // last enforced; nil before
	change      pfioctl.Delta // what that changed, when it last changed something
	updated     time.Time     // and when
	written     time.Time     // when the persist file was last replaced
	checked     time.Time     // when it was last compared entry for entry
	mended      int
	drift       apply.Result // of the last mending
	driftAt     time.Time
}

func (s *state) untilPoll() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, min(time.Until(s.schedule.next), time.Minute))
}

func (s *state) pollDue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.schedule.due()
}

func (s *state) retrying() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.schedule.retry
}

func (s *state) setPolling(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.polling = on
}

func (s *state) setGlance(g apply.Glance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = g
}

func (s *state) setChecked(k policy.Kind, res apply.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[k]
	t.checked = time.Now()
	if res.FileWritten {
		t.written = t.checked
	}
	if res.Steps > 0 {
		t.mended++
		t.drift, t.driftAt = res, t.checked
	}
}

func (s *state) listStates() []listState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists
}

// outcome takes in what a poll did, logs it, and plans the next one.
func (l *life) outcome(out *update.Outcome) {
	fetchFailed := l.takeLists(out)
	before := l.takeTables(out)
	l.state.mu.Lock()
	l.last = out
	if out.OK() {
		l.lastGood = time.Now()
	}
	// A policy that was held back, or that pf refused, is not asked for sooner
	// than usual: it would be the same.
	l.schedule.done(!fetchFailed)
	next := l.schedule.next
	l.state.mu.Unlock()

	l.logOutcome(out, next)
	if l.states != nil && before != nil {
		l.killStates(before)
	}
	if _, err := l.glance(); err != nil {
		l.trouble.is("pf", err.Error(), true)
	}
}

// takeLists keeps what became of the lists, and reports whether one failed.
func (l *life) takeLists(out *update.Outcome) (failed bool) {
	before := make(map[string]listState)
	for _, x := range l.listStates() {
		before[x.key] = x
	}
	now := time.Now()
	var all []listState
	for _, got := range out.Lists {
		x := before[got.Kind.String()+" list "+got.Name]
		x.List, x.key, x.tried = got, got.Kind.String()+" list "+got.Name, now
		if got.Err != nil {
			failed = true
			x.failures++
			l.trouble.is(x.key, got.Err.Error(), false)
		} else {
			x.failures, x.fetched = 0, now
			l.trouble.over(x.key)
			l.trouble.over("stale " + x.key)
		}
		all = append(all, x)
	}
	l.state.mu.Lock()
	l.lists = all
	l.state.mu.Unlock()
	l.trouble.check("update", errText(out.Err), false)
	return failed || out.Err != nil
}

// takeTables keeps what became of the tables, and puts the new policy in force
// for matching. It returns what was in force before, nil when the block table
// was not changed, or is set for the first time.
func (l *life) takeTables(out *update.Outcome) (before *policy.Set) {
	var tables []apply.Table
	for _, t := range out.Tables {
		key := "table " + t.Table.String()
		switch {
		case t.Err != nil:
			l.trouble.is(key, apply.Explain(t.Err), true)
			// When only the persist file failed the new policy is in force,
			// and must not be mended back to the old one.
			if t.InPF() {
				tables = append(tables, t)
			}
		case !t.Decision.Allowed():
			l.trouble.is(key, "held back: "+t.Decision.Why, true)
		default:
			l.trouble.over(key)
			tables = append(tables, t)
		}
	}
	l.trouble.check("warning", strings.Join(out.Warnings, "; "), false)
	l.state.mu.Lock()
	defer l.state.mu.Unlock()
	now := time.Now()
	for _, t := range out.Tables {
		x := l.tables[t.Kind]
		if x == nil {
			x = &tableState{}
			if l.tables == nil {
				l.tables = make(map[policy.Kind]*tableState)
			}
			l.tables[t.Kind] = x
		}
		if t.Steps > 0 {
			x.updated, x.change = now, t.Delta
		}
		if t.FileWritten {
			x.written = now
		}
		if t.InPF() {
			x.checked, x.set = now, t.Set
		}
		if x.written.IsZero() {
			if st, err := os.Stat(l.setup.Update.Target(t.Kind).File); err == nil {
				x.written = st.ModTime()
			}
		}
		x.Table = t
	}
	for _, t := range out.Tables {
		// With an error too: the table may be set, and only its file not.
		if t.Kind == policy.Block && t.Load && t.Steps > 0 {
			l.inForce.changed = true
		}
	}
	for _, t := range tables {
		l.inForce.put(t)
	}
	if block := l.inForce.table(policy.Block); block != nil && l.inForce.set != block.Set {
		if l.inForce.changed && l.inForce.polled {
			before = l.inForce.set
		}
		l.inForce.set, l.inForce.polled, l.inForce.changed = block.Set, true, false
		l.inForce.own = ownAddresses(out.Facts)
		l.report.Policy(l.inForce.set, l.inForce.own)
	}
	return before
}

// put makes t the table of its kind, in the order in which tables are set.
func (f *inForce) put(t apply.Table) {
	var tables []apply.Table
	for _, x := range f.tables {
		if x.Kind != t.Kind {
			tables = append(tables, x)
		}
	}
	if t.Kind == policy.Allow {
		f.tables = append([]apply.Table{t}, tables...)
	} else {
		f.tables = append(tables, t)
	}
}

func (f *inForce) table(k policy.Kind) *apply.Table {
	for i := range f.tables {
		if f.tables[i].Kind == k {
			return &f.tables[i]
		}
	}
	return nil
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return apply.Explain(err)
}

// logOutcome is the one event of a poll.
func (l *life) logOutcome(out *update.Outcome, next time.Time) {
	event := l.o.Log.Info()
	if !out.OK() {
		event = l.o.Log.Warn()
	}
	entries, server := 0, ""
	for _, x := range out.Lists {
		if x.List != nil {
			entries += x.List.Len()
			server = x.Server
		}
	}
	event = event.Int("lists", len(out.Lists)).Int("entries", entries)
	if server != "" {
		event = event.Str("server", server)
	}
	for _, t := range out.Tables {
		if t.Kind == policy.Allow {
			event = event.Int("allowed", t.InForce)
			continue
		}
		event = event.Int("blocked", t.InForce).Int("excepted", len(out.Policy.Report.Excepted)).
			Int("added", t.Delta.Added).Int("deleted", t.Delta.Deleted).Int("changed", t.Delta.Changed)
	}
	text := "policy enforced"
	switch {
	case out.Err != nil:
		text = "policy not updated"
	case keptBack(out):
		text = "policy kept back"
	case !out.OK():
		text = "policy enforced with earlier copies of lists that failed"
	case unchanged(out):
		text = "policy unchanged"
	}
	event.Str("took", out.Elapsed.Round(time.Millisecond).String()).Time("next", next).Msg(text)
}

func keptBack(out *update.Outcome) bool {
	for _, t := range out.Tables {
		if t.Err != nil || !t.Decision.Allowed() {
			return true
		}
	}
	return false
}

func unchanged(out *update.Outcome) bool {
	for _, t := range out.Tables {
		if t.Steps > 0 || t.FileWritten {
			return false
		}
	}
	return true
}

// logStatus logs a line that says how things are. The one about reporting is the
// role's.
func (l *life) logStatus() {
	l.state.mu.Lock()
	g, next := l.seen, l.schedule.next
	l.state.mu.Unlock()
	event := l.o.Log.Info().Bool("enforced", g.NotEnforced() == "").
		Int("blocked", g.Block.Entries).Int("allowed", g.Allow.Entries).
		Int("troubles", len(l.trouble.list())).Time("next", next)
	event.Msg("status")
}
