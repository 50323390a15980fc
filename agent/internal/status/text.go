package status

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	columns  = 80
	topShow  = 5  // of each kind, unless verbose
	fewShow  = 10 // exceptions and dropped entries, unless verbose
	barHours = 48
)

// stamp is how all times are shown.
const stamp = "2006-01-02 15:04"

// WriteText writes the status for a person: printable ASCII, since a console may show nothing
// else (other characters become question marks), in at most 80 columns. Only the first line may
// be longer, as monitoring shows that one: it begins with "Enforced", "NOT ENFORCED", "not
// known" or "needs you", the last three with the reason. Times are shown in zone. verbose names
// all exceptions and dropped entries, otherwise the first ten are named.
func (s *Status) WriteText(w io.Writer, zone *time.Location, verbose bool) error {
	p := &page{now: s.Now, zone: zone, verbose: verbose, few: fewShow, top: topShow}
	if verbose {
		p.few, p.top = math.MaxInt, math.MaxInt
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
	enforced := "Enforced"
	for i := range s.Tables {
		if t := &s.Tables[i]; t.Kind == KindBlock {
			enforced = fmt.Sprintf("Enforced: %s in <%s>, used by %s", plural(int64(t.Kernel), "entry", "entries"), t.Name,
				plural(int64(t.Rules), "rule", "rules"))
		}
	}
	if s.Unsure != "" {
		enforced = "Not known whether the policy is enforced: " + s.Unsure
	}
	if len(needs) == 0 {
		p.para(0, 2, "%s", enforced)
	} else {
		first, more := needs[0], ""
		if needs = needs[1:]; len(needs) > 0 {
			more = fmt.Sprintf(" (and %d more)", len(needs))
		}
		switch rest, not := strings.CutPrefix(first, "not enforced: "); {
		case not:
			first = "NOT ENFORCED: " + rest
		case s.Enforced, s.Unsure != "":
			first = "needs you: " + first
		}
		p.b.WriteString(strings.ReplaceAll(ascii(first+more), string(blank), " ") + "\n")
		if s.Enforced || s.Unsure != "" {
			p.para(0, 2, "%s", enforced)
		}
	}
	if s.PF.Notice != "" && s.Unsure == "" {
		p.para(0, 2, "%s", s.PF.Notice)
	}
	p.para(0, 2, "threatstopd %s, up %s", s.Version, age(s.Now.Sub(s.Started)))
	if p.verbose {
		p.para(0, 2, "Configuration %s", s.Config)
	}
	p.poll(s)
	if len(needs) > 0 {
		title := "Needs you"
		if s.Enforced || s.Unsure != "" {
			title += ", too"
		}
		p.title("%s", title)
		for _, n := range needs {
			p.para(2, 4, "- %s", n)
		}
	}
}

func (p *page) poll(s *Status) {
	poll := &s.Poll
	text := "No poll has ended yet"
	if !poll.Last.IsZero() {
		text = fmt.Sprintf("Last poll %s, took %v", p.ago(poll.Last), poll.Took.Duration().Round(time.Millisecond))
		if poll.LastGood.IsZero() {
			text += ", none was good"
		} else if poll.LastGood.Before(poll.Last) {
			text += ", last good one " + p.ago(poll.LastGood)
		}
	}
	switch {
	case !poll.Applying.IsZero():
		text += fmt.Sprintf(", applying a policy since %s (%s)", p.clock(poll.Applying), age(s.Now.Sub(poll.Applying)))
	case poll.Running:
		text += ", one is under way"
	case !poll.Next.IsZero():
		text += ", next " + p.in(poll.Next)
	}
	p.para(0, 2, "%s", text)
	if poll.Error != "" {
		p.para(2, 4, "it ended early: %s", poll.Error)
	}
}

func (p *page) lists(s *Status) {
	p.row("Lists", "entries", "parts", "age", "server")
	for i := range s.Lists {
		l := &s.Lists[i]
		name := fmt.Sprintf("  %-5s %s", l.Kind, l.Name)
		switch old := age(s.Now.Sub(l.Fetched)); {
		case l.Fetched.IsZero():
			p.row(name, "-", "-", "-", "")
		case s.Stale(l):
			p.row(name, strconv.Itoa(l.Entries), strconv.Itoa(l.Parts), old+" !", l.Server)
		default:
			p.row(name, strconv.Itoa(l.Entries), strconv.Itoa(l.Parts), old, l.Server)
		}
		switch {
		case l.Error != "":
			text := "failed " + times(int64(l.Failures), p.ago(l.Tried)) + ": " + l.Error
			if l.Kept {
				text += "; the copy above is still in use"
			}
			if !l.Retry.IsZero() {
				text += "; again " + p.in(l.Retry)
			}
			p.para(4, 6, "%s", text)
		case l.Tried.IsZero() && l.Fetched.IsZero():
			p.para(4, 6, "not fetched yet")
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
		p.row(fmt.Sprintf("  %-5s %s", t.Kind, t.Name), strconv.Itoa(t.Policy), kernel, strconv.Itoa(t.Rules), "")
		if !t.Loaded {
			p.para(4, 6, "only the file is written (RELOAD_PF=no)")
		}
		if t.Error != "" {
			p.para(4, 6, "failed: %s", t.Error)
		}
		if t.Held != nil {
			p.para(4, 6, "HELD BACK: %s", t.Held.Why)
		}
		if !t.Updated.IsZero() {
			p.para(4, 6, "changed %s: %s", p.ago(t.Updated), t.Change)
		}
		named := min(len(t.Excepted), p.few)
		for _, x := range t.Excepted[:named] {
			p.para(4, 6, "excepted %s", x)
		}
		p.more(t.ExceptedCount-named, "exceptions")
		named = min(len(t.Dropped), p.few)
		for _, d := range t.Dropped[:named] {
			p.para(4, 6, "dropped %s of %s: %s", d.Entry, d.List, d.Why)
		}
		p.more(t.DroppedCount-named, "dropped entries")
		if d := &t.Drift; d.Mended > 0 {
			p.para(4, 6, "changed by others and repaired %s: %s", times(int64(d.Mended), p.ago(d.Last)), d.Change)
		}
		switch {
		case t.File == "":
		case t.FileWritten.IsZero():
			p.para(4, 6, "%s: not written yet", t.File)
		default:
			p.para(4, 6, "%s: %s, written %s", t.File, plural(int64(t.FileEntries), "entry", "entries"), p.ago(t.FileWritten))
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

// more is the line for what is not named.
func (p *page) more(n int, what string) {
	if n > 0 {
		p.para(4, 6, "and %d more %s", n, what)
	}
}

// String is the exception in one line.
func (x Excepted) String() string {
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
	text := fmt.Sprintf("%s (%s): %s", prefix, x.Why, strings.Join(n, ", "))
	if len(x.Lists) > 0 {
		text += ", of " + strings.Join(x.Lists, ", ")
	}
	return text
}

func (p *page) hits(s *Status) {
	h := &s.Hits
	if h.Mode == "no" {
		p.title("Hits are not counted (UPLOAD=no)")
		return
	}
	since, not := h.Since, ""
	if since.IsZero() {
		since = s.Started
	}
	if !h.Capturing {
		not = "NOT READ, "
	}
	p.title("Hits on %s: %s%d of %d packets since %s", h.Interface, not, h.Matched, h.Seen, p.clock(since))
	if h.Error != "" {
		p.para(2, 4, "%s", h.Error)
	}
	if n := len(h.Hourly.Counts); n > 0 {
		counts := h.Hourly.Counts[max(0, n-barHours):]
		p.line("  |%s| at most %d an hour", bar(counts), slices.Max(counts))
		from := h.Hourly.From.Add(time.Duration(n-len(counts)) * time.Hour)
		left, right := p.clock(from), p.clock(from.Add(time.Duration(len(counts)-1)*time.Hour))
		p.line("   %s%s%s", left, strings.Repeat(" ", max(1, len(counts)-len(left)-len(right))), right)
	}
	for _, span := range []struct {
		name string
		top  *Top
	}{{"hour", &h.Hour}, {"day", &h.Day}} {
		p.line("  last %-4s %s", span.name, plural(span.top.Hits, "hit", "hits"))
		p.counted(4, "addresses", span.top.Addresses)
		p.counted(4, "ports", span.top.Ports)
		p.counted(4, "lists", span.top.Lists)
	}
	var lists []Counted
	for _, l := range h.Lists {
		lists = append(lists, Counted{Key: l.List, Hits: l.Hits})
	}
	p.counted(2, "by list", lists)
	for _, d := range h.Drops {
		if d.Count > 0 {
			last := ""
			if !d.Last.IsZero() {
				last = ", last " + p.ago(d.Last)
			}
			p.para(2, 4, "lost %d: %s%s", d.Count, d.text(), last)
		}
	}
	if h.CatchUp != "" {
		p.para(2, 4, "catching up with pflogd's files: %s", h.CatchUp)
	}
}

// counted writes keys and how often they came, as far as that is more than never.
func (p *page) counted(indent int, name string, all []Counted) {
	text := ""
	for _, c := range all[:min(len(all), p.top)] {
		if c.Hits <= 0 {
			continue
		}
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf("%s%c(%d", c.Key, blank, c.Hits)
		if c.Slack > 0 {
			text += "+"
		}
		text += ")"
	}
	if text != "" {
		const wide = 11
		p.para(indent, indent+wide, "%s%s%s", name, strings.Repeat(string(blank), wide-len(name)), text)
	}
}

func (p *page) uploads(s *Status) {
	u := &s.Uploads
	if u.Server == "" {
		p.title("Uploads: none")
		return
	}
	p.title("Uploads to %s", u.Server)
	text := "nothing yet"
	if l := u.Last; l != nil {
		text = "last " + p.ago(l.At)
		if l.Lines > 0 {
			text += fmt.Sprintf(", %s, %s in %v", plural(l.Lines, "line", "lines"), size(l.Bytes), l.Took.Duration().Round(time.Millisecond))
		}
	}
	if !u.Next.IsZero() {
		text += ", next " + p.in(u.Next)
	}
	p.para(2, 4, "%s", text)
	if u.Error != "" {
		since := ""
		if !u.FailingSince.IsZero() {
			since = " since " + p.clock(u.FailingSince)
		}
		p.para(2, 4, "failing%s: %s", since, u.Error)
	}
	p.para(2, 4, "%s delivered; waiting: %d in memory, %d in the spool (%s of %s)", plural(u.Delivered.Lines, "line", "lines"),
		u.InMemory, u.Spool.Lines, size(u.DiskUsed), size(u.DiskMax))
	if u.Aside.Batches > 0 {
		p.para(2, 4, "refused by the server and set aside: %s of %s", plural(u.Aside.Batches, "batch", "batches"),
			plural(u.Aside.Lines, "line", "lines"))
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
			often = fmt.Sprintf(", %d times", t.Count)
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
// word, on lines of their own where they are too long.
func (p *page) row(name, a, b, c, rest string) {
	name, rest = ascii(name), ascii(rest)
	if !strings.HasPrefix(name, " ") {
		p.b.WriteByte('\n')
	}
	const wide = 36
	if len(name) > wide {
		p.para(2, 8, "%s", name)
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

// blank is a space where no line is broken.
const blank = '\x1f'

// para writes a paragraph: its first line indented by first, the others by more.
func (p *page) para(first, more int, format string, args ...any) {
	line, indent := "", first
	for w := range strings.FieldsSeq(ascii(fmt.Sprintf(format, args...))) {
		if line != "" && indent+len(line)+1+len(w) > columns {
			p.line("%*s%s", indent, "", line)
			line, indent = "", more
		}
		if line != "" {
			line += " "
		}
		for line += w; indent+len(line) > columns; indent = more {
			cut := columns - indent
			p.line("%*s%s", indent, "", line[:cut])
			line = line[cut:]
		}
	}
	p.line("%*s%s", indent, "", line)
}

// line writes one line, cut at 80 columns.
func (p *page) line(format string, args ...any) {
	text := strings.ReplaceAll(ascii(fmt.Sprintf(format, args...)), string(blank), " ")
	p.b.WriteString(strings.TrimRight(text[:min(len(text), columns)], " "))
	p.b.WriteByte('\n')
}

func (p *page) clock(t time.Time) string { return t.In(p.zone).Format(stamp) }

// ago shows a time in the past.
func (p *page) ago(t time.Time) string {
	return fmt.Sprintf("%s ago (%s)", age(p.now.Sub(t)), p.clock(t))
}

// in shows when something is due.
func (p *page) in(t time.Time) string {
	if !t.After(p.now) {
		return "now"
	}
	return fmt.Sprintf("in %s (%s)", age(t.Sub(p.now)), p.clock(t))
}

// times shows how often something happened, and when it did last.
func times(n int64, last string) string {
	if n <= 1 {
		return last
	}
	return fmt.Sprintf("%d times, last %s", n, last)
}

// String is what changed, as in a log line.
func (c Change) String() string {
	return fmt.Sprintf("%d added, %d deleted, %d changed", c.Added, c.Deleted, c.Changed)
}

// bar draws counts, a column each, from no hits to the most. Any hit is visible.
func bar(counts []int64) string {
	const levels = " .:-=+*#%@"
	b := make([]byte, len(counts))
	for i, n := range counts {
		level := 0
		if n > 0 {
			level = int(math.Ceil(float64(n) / float64(slices.Max(counts)) * float64(len(levels)-1)))
		}
		b[i] = levels[min(level, len(levels)-1)]
	}
	return string(b)
}

// age shows a duration, rounded down, in one or two units. Negative ones, as a clock that was
// set makes them, are 0s.
func age(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, d)/time.Second)
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

func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatInt(n, 10) + " " + many
}

// size shows bytes in units of 1024, as SPOOL_MAX does.
func size(n int64) string {
	for _, unit := range []string{"B", "K", "M"} {
		if n < 10<<10 {
			return strconv.FormatInt(n, 10) + unit
		}
		n >>= 10
	}
	return strconv.FormatInt(n, 10) + "G"
}

// ascii makes a text fit for any console: a stranger may have meant it for the terminal.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case (r < ' ' || r > '~') && r != blank:
			return '?'
		}
		return r
	}, s)
}
