package daemon

import (
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/status"
)

// remind is how often a trouble that lasts is logged again.
const remind = 24 * time.Hour

// troubles logs each trouble once, counts how often it came again, and logs when it is resolved: a log
// that repeats itself every minute is not read.
type troubles struct {
	log  zerolog.Logger
	open map[string]*trouble
}

type trouble struct {
	status.Trouble
	Logged time.Time
}

// is notes a trouble. It is logged when it is new, when its text has changed, and once a day. needsOwner
// says that it will not pass by itself.
func (t *troubles) is(key, text string, needsOwner bool) {
	now := time.Now()
	x := t.open[key]
	if x == nil {
		x = &trouble{Trouble: status.Trouble{Since: now}}
		t.open[key] = x
	}
	x.Last, x.NeedsOwner = now, needsOwner
	x.Count++
	if x.Text == text && now.Sub(x.Logged) < remind {
		return
	}
	event := t.log.Warn()
	if x.Text == text {
		event = event.Time("since", x.Since).Int64("times", x.Count)
	}
	event.Str("trouble", key).Msg(text)
	x.Text, x.Logged = text, now
}

// over notes that there is no such trouble any more.
func (t *troubles) over(key string) {
	x := t.open[key]
	if x == nil {
		return
	}
	delete(t.open, key)
	t.log.Info().Str("trouble", key).Int64("times", x.Count).Str("lasted", time.Since(x.Since).Round(time.Second).String()).Msg("resolved: " + x.Text)
}

// check is is, or over when text is empty.
func (t *troubles) check(key, text string, needsOwner bool) {
	if text == "" {
		t.over(key)
	} else {
		t.is(key, text, needsOwner)
	}
}

// list returns the troubles there are, the oldest first.
func (t *troubles) list() (all []status.Trouble) {
	for _, x := range t.open {
		all = append(all, x.Trouble)
	}
	slices.SortFunc(all, func(a, b status.Trouble) int { return a.Since.Compare(b.Since) })
	return all
}

// forget resolves the troubles with what is not configured any more: those whose key has one of the
// prefixes and is none of keys.
func (t *troubles) forget(prefixes, keys []string) {
	for key := range t.open {
		if !slices.Contains(keys, key) && slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) }) {
			t.over(key)
		}
	}
}
