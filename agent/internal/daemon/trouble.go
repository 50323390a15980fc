package daemon

import (
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// remind is how often a trouble that lasts is told again.
const remind = 24 * time.Hour

// troubles tells each trouble once, counts how often it came again, and tells
// when it is over: a log that says the same every minute is not read.
type troubles struct {
	log zerolog.Logger

	mu   sync.Mutex
	open map[string]*trouble
}

type trouble struct {
	text              string
	since, last, told time.Time
	count             int64
	needsOwner        bool
}

func newTroubles(log zerolog.Logger) *troubles {
	return &troubles{log: log, open: make(map[string]*trouble)}
}

// is notes that there is a trouble. It is logged when it is new, when its text
// has changed, and once a day. needsOwner says that it will not pass by itself.
func (t *troubles) is(key, text string, needsOwner bool) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.open[key]
	if x == nil {
		x = &trouble{since: now}
		t.open[key] = x
	}
	x.last, x.needsOwner = now, needsOwner
	x.count++
	if x.text == text && now.Sub(x.told) < remind {
		return
	}
	event := t.log.Warn()
	if x.text == text {
		event = event.Time("since", x.since).Int64("times", x.count)
	}
	event.Str("trouble", key).Msg(text)
	x.text, x.told = text, now
}

// over notes that there is no such trouble any more.
func (t *troubles) over(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.open[key]
	if x == nil {
		return
	}
	delete(t.open, key)
	t.log.Info().Str("trouble", key).Int64("times", x.count).Str("lasted", time.Since(x.since).Round(time.Second).String()).Msg("over: " + x.text)
}

// check is is or over.
func (t *troubles) check(key, text string, needsOwner bool) {
	if text == "" {
		t.over(key)
	} else {
		t.is(key, text, needsOwner)
	}
}

// list returns the troubles there are, the oldest first.
func (t *troubles) list() []trouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []trouble
	for _, x := range t.open {
		all = append(all, *x)
	}
	slices.SortFunc(all, func(a, b trouble) int { return a.since.Compare(b.since) })
	return all
}
