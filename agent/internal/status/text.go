package status

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	columns = 80
	topShow = 5 // of each kind, unless verbose
	fewShow = 3 // exceptions and dropped entries, unless verbose
)

// WriteText writes the status for a person: at most 80 columns of printable ASCII, since
// a console may know nothing else; other characters come out as question marks. The first
// line begins with "Enforced" or "NOT ENFORCED". Times are shown in zone. verbose names all
// exceptions and dropped entries, where the first three are shown otherwise.
func (s *Status) WriteText(w io.Writer, zone *time.Location, verbose bool) error {
	p := &page{now: s.Now, zone: zone, verbose: verbose, few: fewShow, top: topShow}
	if verbose {
		p.few, p.top = MaxNamed, MaxNamed
	}
	p.head(s)
	p.lists(s)
	p.tables(s)
	p.hits(s)
	p.uploads(s)
	p.troubles(s)
	_, err := w.Write(p.b.Bytes())
	return err
}

// A page is text on its way to 80 columns.
type page struct {
	b        bytes.Buffer
	now      time.Time
	zone     *time.Location
	verbose  bool
	few, top int
}

func (p *page) head(s *Status) {
	needs := NeedsOwner(s)
	switch {
	case !s.Enforced:
		needs = needs[1:]
		why := s.NotEnforced
		if why == "" {
			why = "pf has not been looked at yet"
		}
		p.para(0, 2, "NOT ENFORCED: %s", why)
	default:
		text := "Enforced"
		for i := range s.Tables {
			if t := &s.Tables[i]; t.Kind == KindBlock {
				text = fmt.Sprintf("Enforced: %s in <%s>, used by %s", plural(int64(t.Kernel), "entry", "entries"), t.Name, plural(int64(t.Rules), "rule", "rules"))
			}
		}
		p.para(0, 2, "%s", text)
	}
	p.para(0, 2, "threatstopd %s, up %s", s.Version, age(s.Now.Sub(s.Started)))
	if p.verbose {
		p.para(0, 2, "Configuration %s", s.Config)
	}
	poll := &s.Poll
	text := "no poll has ended yet"
	if !poll.Last.IsZero() {
		text = fmt.Sprintf("last poll %s ago (%s, took %s)", age(s.Now.Sub(poll.Last)), p.clock(poll.Last), took(poll.Took.Duration()))
		if poll.LastGood.IsZero() {
			text += ", none was good"
		} else if poll.LastGood.Before(poll.Last) {
			text += fmt.Sprintf(", last good one %s ago (%s)", age(s.Now.Sub(poll.LastGood)), p.clock(poll.LastGood))
		}
	}
	if poll.Running {
		text += ", one is under way"
	} else if !poll.Next.IsZero() {
		text += fmt.Sprintf(", next %s (%s)", in(poll.Next.Sub(s.Now)), p.clock(poll.Next))
	}
	p.para(0, 2, "%s", strings.ToUpper(text[:1])+text[1:])
	if poll.Error != "" {
		p.para(2, 4, "it ended early: %s", poll.Error)
	}
	if len(needs) > 0 {
		p.title("Needs you")
		for _, n := range needs {
			p.para(2, 4, "- %s", n)
		}
	}
}

func (p *page) lists(s *Status) {
	p.row("Lists", "entries", "parts", "age", "server")
	for i := range s.Lists {
		l := &s.Lists[i]
		name := fmt.Sprintf("%-5s %s", l.Kind, l.Name)
		if l.Fetched.IsZero() {
			p.row("  "+name, "-", "-", "-", "")
			if l.Tried.IsZero() {
				p.para(4, 6, "not fetched yet")
			}
		} else {
			old := age(s.Now.Sub(l.Fetched))
			if s.Stale(l) {
				old += " !"
			}
			p.row("  "+name, strconv.Itoa(l.Entries), strconv.Itoa(l.Parts), old, l.Server)
		}
		if l.Error != "" {
			times := ""
			if l.Failures > 1 {
				times = fmt.Sprintf(" %d times", l.Failures)
			}
			text := fmt.Sprintf("failed%s, last %s ago: %s", times, age(s.Now.Sub(l.Tried)), l.Error)
			if l.Kept {
				text += "; the copy above is still in use"
			}
			if !l.Retry.IsZero() {
				text += fmt.Sprintf("; again %s (%s)", in(l.Retry.Sub(s.Now)), p.clock(l.Retry))
			}
			p.para(4, 6, "%s", text)
		}
	}
	if len(s.Lists) == 0 {
		p.para(2, 4, "none yet")
	}
}

func (p *page) tables(s *Status) {
	p.row("Tables", "policy", "in pf", "rules", "")
	for i := range s.Tables {
		t := &s.Tables[i]
		kernel := strconv.Itoa(t.Kernel)
		if t.Kernel < 0 {
			kernel = "none"
		}
		p.row("  "+fmt.Sprintf("%-5s %s", t.Kind, t.Name), strconv.Itoa(t.Policy), kernel, strconv.Itoa(t.Rules), "")
		if !t.Loaded {
			p.para(4, 6, "only the file is written (RELOAD_PF=no)")
		}
		if t.Error != "" {
			p.para(4, 6, "failed: %s", t.Error)
		}
		if h := t.Held; h != nil {
			until := ""
			if !h.Until.IsZero() {
				until = fmt.Sprintf(" (%s)", in(h.Until.Sub(s.Now)))
			}
			p.para(4, 6, "HELD BACK: %s%s", h.Why, until)
		}
		if !t.Updated.IsZero() {
			p.para(4, 6, "changed %s ago (%s): %s", age(s.Now.Sub(t.Updated)), p.clock(t.Updated), t.Change)
		}
		p.excepted(t)
		p.dropped(t)
		if d := &t.Drift; d.Mended > 0 {
			p.para(4, 6, "changed by others, and put right, %s: last %s ago (%s), %s", times(int64(d.Mended)), age(s.Now.Sub(d.Last)), p.clock(d.Last), d.Change)
		}
		if t.File != "" {
			if t.FileWritten.IsZero() {
				p.para(4, 6, "%s: not written yet", t.File)
			} else {
				p.para(4, 6, "%s: %s, %s old", t.File, plural(int64(t.FileEntries), "entry", "entries"), age(s.Now.Sub(t.FileWritten)))
			}
		}
	}
	if pf := &s.PF; pf.Limit > 0 {
		room := "it fits"
		if !pf.fits() {
			room = fmt.Sprintf("%d TOO MANY", pf.Used+pf.Reload-pf.Limit)
		}
		p.para(2, 4, "pf has %d of %d table entries, and a reload takes %d more: %s", pf.Used, pf.Limit, pf.Reload, room)
	}
}

func (p *page) excepted(t *Table) {
	for i, x := range t.Excepted {
		if i == p.few {
			break
		}
		of := ""
		if len(x.Lists) > 0 {
			of = ", of " + strings.Join(x.Lists, ", ")
		}
		var n []string
		if x.Inside > 0 {
			n = append(n, plural(int64(x.Inside), "entry", "entries")+" inside it")
		}
		if x.Around > 0 {
			n = append(n, plural(int64(x.Around), "entry", "entries")+" around it")
		}
		prefix := x.Prefix.String()
		if x.Prefix.IsSingleIP() {
			prefix = x.Prefix.Addr().String()
		}
		p.para(4, 6, "excepted %s (%s): %s%s", prefix, x.Why, strings.Join(n, ", "), of)
	}
	if n := t.ExceptedCount - min(len(t.Excepted), p.few); n > 0 {
		p.para(4, 6, "and %d more exceptions", n)
	}
}

func (p *page) dropped(t *Table) {
	for i, d := range t.Dropped {
		if i == p.few {
			break
		}
		p.para(4, 6, "dropped %s of %s: %s", d.Entry, d.List, d.Why)
	}
	if n := t.DroppedCount - min(len(t.Dropped), p.few); n > 0 {
		p.para(4, 6, "and %d more dropped entries", n)
	}
}

func (p *page) hits(s *Status) {
	h := &s.Hits
	switch {
	case h.Mode == "no":
		p.title("Hits are not looked at (UPLOAD=no)")
		return
	case h.Capturing:
		p.title("Hits on %s: %d of %d packets in %s", h.Interface, h.Matched, h.Seen, age(s.Now.Sub(s.Started)))
	default:
		p.title("Hits on %s: NOT READ, %d of %d packets in %s", h.Interface, h.Matched, h.Seen, age(s.Now.Sub(s.Started)))
	}
	if h.Error != "" {
		p.para(2, 4, "%s", h.Error)
	}
	if n := len(h.Hourly.Counts); n > 0 {
		counts := h.Hourly.Counts[max(0, n-HistoryHours):]
		p.line("  |%s| at most %d an hour", bar(counts), highest(counts))
		from := h.Hourly.From.Add(time.Duration(n-len(counts)) * time.Hour)
		left, right := p.clock(from), p.clock(from.Add(time.Duration(len(counts)-1)*time.Hour))
		p.line("   %s%s%s", left, strings.Repeat(" ", max(1, len(counts)-len(left)-len(right))), right)
	}
	p.spanTop("last hour", &h.Hour)
	p.spanTop("last day", &h.Day)
	var words []string
	for _, l := range h.Lists {
		if l.Hits > 0 {
			words = append(words, fmt.Sprintf("%s (%d)", l.List, l.Hits))
		}
	}
	if len(words) > 0 {
		p.items(2, "by list", words)
	}
	for _, d := range h.Drops {
		if d.Count > 0 {
			last := ""
			if !d.Last.IsZero() {
				last = fmt.Sprintf(", last %s ago", age(s.Now.Sub(d.Last)))
			}
			p.para(2, 4, "lost %d: %s%s", d.Count, d.text(), last)
		}
	}
	if h.CatchUp != "" {
		p.para(2, 4, "catching up with pflogd's files: %s", h.CatchUp)
	}
}

func (p *page) spanTop(name string, t *Top) {
	p.line("  %-9s %s", name, plural(t.Hits, "hit", "hits"))
	for _, kind := range []struct {
		name string
		of   []Counted
	}{{"addresses", t.Addresses}, {"ports", t.Ports}, {"lists", t.Lists}} {
		var words []string
		for i, c := range kind.of {
			if i == p.top {
				break
			}
			more := ""
			if c.Slack > 0 {
				more = "+"
			}
			words = append(words, fmt.Sprintf("%s (%d%s)", c.Key, c.Hits, more))
		}
		if len(words) > 0 {
			p.items(4, kind.name, words)
		}
	}
}

func (p *page) uploads(s *Status) {
	u := &s.Uploads
	if u.Server == "" {
		p.title("Uploads: none")
	} else {
		last := "nothing yet"
		if l := u.Last; l != nil {
			last = fmt.Sprintf("last %s ago (%s)", age(s.Now.Sub(l.At)), p.clock(l.At))
			if l.Lines > 0 {
				last += fmt.Sprintf(", %s, %s in %s", plural(l.Lines, "line", "lines"), size(l.Bytes), took(l.Took.Duration()))
			}
		}
		next := ""
		if !u.Next.IsZero() {
			next = fmt.Sprintf(", next %s (%s)", in(u.Next.Sub(s.Now)), p.clock(u.Next))
		}
		p.title("Uploads to %s", u.Server)
		p.para(2, 4, "%s%s", last, next)
		if u.Error != "" {
			since := ""
			if !u.FailingSince.IsZero() {
				since = fmt.Sprintf(" for %s (since %s)", age(s.Now.Sub(u.FailingSince)), p.clock(u.FailingSince))
			}
			p.para(2, 4, "failing%s: %s", since, u.Error)
		}
		p.para(2, 4, "%s delivered; waiting: %d in memory, %d in the spool (%s of %s)", plural(u.Delivered.Lines, "line", "lines"),
			u.InMemory, u.Spool.Lines, size(u.DiskUsed), size(u.DiskMax))
	}
	if u.Aside.Batches > 0 {
		p.para(2, 4, "set aside, as the server refused them: %s of %s", plural(u.Aside.Batches, "batch", "batches"), plural(u.Aside.Lines, "line", "lines"))
	}
}

func (p *page) troubles(s *Status) {
	if len(s.Troubles) == 0 {
		p.title("Troubles: none")
		return
	}
	p.title("Troubles")
	for _, t := range s.Troubles {
		often := ""
		if t.Count > 1 {
			often = ", " + times(t.Count)
		}
		p.para(2, 4, "since %s%s: %s", p.clock(t.Since), often, t.Text)
	}
}

// title begins a part.
func (p *page) title(format string, args ...any) {
	p.b.WriteByte('\n')
	p.para(0, 2, format, args...)
}

// row writes a line of a list or of a table, or its heading: a name, three figures, and a
// word that goes onto a line of its own where it is too long.
func (p *page) row(name, a, b, c, rest string) {
	name, rest = ascii(name), ascii(rest)
	if !strings.HasPrefix(name, " ") {
		p.b.WriteByte('\n')
	}
	const wide = 36
	if len(name) > wide {
		p.para(2, 8, "%s", strings.TrimSpace(name))
		name = ""
	}
	line := fmt.Sprintf("%-*s %8s %6s %7s", wide, name, a, b, c)
	if rest != "" && len(line)+2+len(rest) <= columns {
		line += "  " + rest
		rest = ""
	}
	p.line("%s", line)
	if rest != "" {
		p.para(4, 6, "from %s", rest)
	}
}

// items writes a heading and words behind it, which are broken between lines only.
func (p *page) items(indent int, name string, words []string) {
	const wide = 10
	line := fmt.Sprintf("%*s%-*s", indent, "", wide, name)
	for i, w := range words {
		w = ascii(w)
		if i < len(words)-1 {
			w += ","
		}
		if len(line)+1+len(w) > columns && strings.TrimSpace(line) != "" {
			p.line("%s", line)
			line = strings.Repeat(" ", indent+wide)
		}
		for len(line)+1+len(w) > columns {
			cut := columns - len(line) - 1
			p.line("%s %s", line, w[:cut])
			line, w = strings.Repeat(" ", indent+wide), w[cut:]
		}
		line += " " + w
	}
	p.line("%s", line)
}

// para writes a paragraph: its first line indented by first, the others by more.
func (p *page) para(first, more int, format string, args ...any) {
	text := ascii(fmt.Sprintf(format, args...))
	line := strings.Repeat(" ", first)
	empty := true
	for w := range strings.FieldsSeq(text) {
		if !empty && len(line)+1+len(w) > columns {
			p.line("%s", line)
			line, empty = strings.Repeat(" ", more), true
		}
		if !empty {
			line += " "
		}
		for len(line)+len(w) > columns {
			cut := columns - len(line)
			p.line("%s%s", line, w[:cut])
			line, w = strings.Repeat(" ", more), w[cut:]
		}
		line += w
		empty = false
	}
	p.line("%s", line)
}

// line writes one line, cut at 80 columns.
func (p *page) line(format string, args ...any) {
	text := ascii(fmt.Sprintf(format, args...))
	p.b.WriteString(strings.TrimRight(text[:min(len(text), columns)], " "))
	p.b.WriteByte('\n')
}

// clock shows a time: of today without the date.
func (p *page) clock(t time.Time) string {
	t, now := t.In(p.zone), p.now.In(p.zone)
	switch {
	case t.Year() == now.Year() && t.YearDay() == now.YearDay():
		return t.Format("15:04")
	case t.Sub(now).Abs() < 300*24*time.Hour:
		return t.Format("Jan _2 15:04")
	}
	return t.Format("2006-01-02 15:04")
}

// String says it as a log line does.
func (c Change) String() string {
	return fmt.Sprintf("%d added, %d deleted, %d changed", c.Added, c.Deleted, c.Changed)
}

// levels of the history bar, from no hits to the most. A console may know ASCII only.
const levels = " .:-=+*#%@"

// bar draws counts, a column each. Any hit is seen.
func bar(counts []int64) string {
	most := highest(counts)
	b := make([]byte, len(counts))
	for i, n := range counts {
		level := 0
		if n > 0 {
			level = int(math.Ceil(float64(n) / float64(most) * float64(len(levels)-1)))
		}
		b[i] = levels[min(level, len(levels)-1)]
	}
	return string(b)
}

func highest(counts []int64) int64 {
	most := int64(0)
	for _, n := range counts {
		most = max(most, n)
	}
	return most
}

// age shows a duration in its two largest units, rounded down, in one from three days on.
// Negative ones, as a clock that was set makes them, are 0s.
func age(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
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

// in shows when something is due.
func in(d time.Duration) string {
	if d <= 0 {
		return "now"
	}
	return "in " + age(d)
}

// took shows how long something took.
func took(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return age(d)
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatInt(n, 10) + " " + many
}

func times(n int64) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return strconv.FormatInt(n, 10) + " times"
}

// size shows bytes with a power of 1024, as SPOOL_MAX has them.
func size(n int64) string {
	switch {
	case n < 10<<10:
		return strconv.FormatInt(n, 10) + "B"
	case n < 10<<20:
		return strconv.FormatInt(n>>10, 10) + "K"
	case n < 10<<30:
		return strconv.FormatInt(n>>20, 10) + "M"
	}
	return strconv.FormatInt(n>>30, 10) + "G"
}

// ascii makes a text fit for any console: what a stranger wrote might be meant for the
// terminal.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, s)
}
