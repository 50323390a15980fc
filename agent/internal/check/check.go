package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/sources"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/pfioctl"
)

// Answer is what Check finds.
type Answer uint8

const (
	NotBlocked Answer = iota
	Blocked
	InPart // some addresses of a network are blocked, others are not
	CannotTell
)

// MarshalText returns the word for an answer in JSON.
func (a Answer) MarshalText() ([]byte, error) {
	return []byte([...]string{"not blocked", "blocked", "blocked in part", "unknown"}[a]), nil
}

// maxHits is how many records of an address Check shows, the latest; maxRecords
// bounds how many it looks through.
const (
	maxHits    = 10
	maxRecords = 20_000_000
)

// A note is a statement about an address.
type note struct {
	About string `json:"about"`
	Text  string `json:"text"`
}

type notes []note

func (n *notes) say(about, format string, args ...any) {
	*n = append(*n, note{about, fmt.Sprintf(format, args...)})
}

func (n notes) write(w io.Writer) {
	for _, x := range n {
		fmt.Fprintf(w, "%-9s %s\n", x.About+":", x.Text)
	}
}

// A subject is an address or a network, and what is known of it.
type subject struct {
	Name   string   `json:"address"`
	Answer Answer   `json:"answer"`
	Notes  notes    `json:"notes"`
	Hits   int      `json:"hits"`   // records in pflogd's files
	Latest []string `json:"latest"` // lines of the latest
	net    netip.Prefix
}

// write writes what is known as text.
func (s *subject) write(w io.Writer) {
	s.Notes.write(w)
	hits := "none in pflogd's files"
	if s.Hits > 0 {
		hits = fmt.Sprintf("%d in pflogd's files, the latest:", s.Hits)
	}
	notes{{"hits", hits}}.write(w)
	for _, line := range s.Latest {
		fmt.Fprintf(w, "  %s\n", line)
	}
	fmt.Fprintf(w, "%s%s\n", s.Name, [...]string{" is not blocked", " is blocked", " is blocked in part", ": not known"}[s.Answer])
}

// A checker checks subjects. Its own notes concern all of them.
type checker struct {
	Options
	notes
	subjects []*subject
}

// Check writes to w what is known of each address or network: what the tables in the
// kernel say of it, with the entry that decides and its counters; what the lists say,
// as the policy servers have them now; what excepts it; and the latest records of it in
// pflogd's files.
//
// The answer is that of the kernel's block table, for that is what happens to
// packets; where pf cannot be asked it is that of the policy. For several it is
// CannotTell if it is that for one of them, else that of the last that is not blocked.
func Check(ctx context.Context, nets []netip.Prefix, o Options, w io.Writer) (Answer, error) {
	c := &checker{Options: o, notes: notes{}}
	for _, n := range nets {
		if !n.IsValid() {
			return CannotTell, errors.New("no address")
		}
		c.subjects = append(c.subjects, &subject{Name: pfioctl.Addr{Prefix: n}.String(), Latest: []string{}, net: n})
	}
	c.kernel()
	c.settle()
	if err := o.FlushPflogd(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		c.say("hits", "%v: the latest may be missing", err)
	}
	logs, logsErr := o.Logs()
	if o.Confine != nil {
		if err := o.Confine(nil); err != nil {
			return CannotTell, err
		}
	}
	c.policy(ctx)
	if logsErr != nil {
		c.say("hits", "%v", logsErr)
	}
	c.hits(logs)
	worst := Blocked
	for _, s := range c.subjects {
		if worst != CannotTell && s.Answer != Blocked {
			worst = s.Answer
		}
	}
	return worst, errors.Join(c.write(w), ctx.Err())
}

func (c *checker) write(w io.Writer) error {
	if c.JSON {
		return WriteJSON(w, struct {
			Notes   notes      `json:"notes"`
			Checked []*subject `json:"checked"`
		}{c.notes, c.subjects})
	}
	var b strings.Builder
	c.notes.write(&b)
	for i, s := range c.subjects {
		if i > 0 {
			b.WriteByte('\n')
		}
		s.write(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// kernel answers by the tables in force.
func (c *checker) kernel() {
	pf, err := c.OpenPF()
	if err != nil {
		for _, s := range c.subjects {
			s.Answer = CannotTell
			s.Notes.say("pf", "cannot be asked: %v", err)
		}
		return
	}
	defer pf.Close()
	for _, t := range []pfioctl.Table{c.block(), c.allow()} {
		entries, err := pf.AddrStats(t)
		for _, s := range c.subjects {
			if answer := s.table(t, entries, err, c.Local); t == c.block() {
				s.Answer = answer
			}
		}
		if err == nil {
			entries.Close()
		}
	}
	status, err := pf.Status()
	for _, s := range c.subjects {
		switch {
		case err == nil && !status.Running:
			s.Notes.say("pf", "is disabled: nothing is blocked")
			s.Answer = NotBlocked
		case errors.Is(err, pfioctl.ErrUnknownRelease) && s.Answer != NotBlocked:
			s.Notes.say("pf", "%s: `pfctl -si` shows whether it is enabled", pf.Notice())
			s.Answer = CannotTell
		}
	}
}

// table answers by one table: by its entry that decides, and by those inside the network.
func (s *subject) table(t pfioctl.Table, entries *pfioctl.List[pfioctl.AddrStats], err error, zone *time.Location) Answer {
	switch {
	case errors.Is(err, syscall.ESRCH):
		s.Notes.say("table", "<%s> is not there", t.Name)
		return NotBlocked
	case err != nil:
		s.Notes.say("table", "<%s>: %v", t.Name, err)
		return CannotTell
	}
	d := decision{net: s.net}
	var decides pfioctl.AddrStats
	for e := range entries.All() {
		if d.add(e.Prefix, e.Not) {
			decides = e
		}
	}
	answer, text := d.answer()
	s.Notes.say("table", "<%s>: %s", t.Name, text)
	if d.by.Prefix.IsValid() {
		s.Notes.say("counters", "%s: %s", d.by, counters(decides, zone))
	}
	return answer
}

// A decision is what the entries of a table mean for a network. by is the entry that decides, the longest that
// contains the network.
type decision struct {
	net                netip.Prefix
	by                 pfioctl.Addr
	included, excluded int // entries for parts of the network
}

// add takes an entry into account, and reports whether it decides so far.
func (d *decision) add(p netip.Prefix, not bool) (decides bool) {
	switch {
	case p.Bits() <= d.net.Bits():
		decides = p.Contains(d.net.Addr()) && (!d.by.Prefix.IsValid() || p.Bits() > d.by.Prefix.Bits())
		if decides {
			d.by = pfioctl.Addr{Prefix: p, Not: not}
		}
	case !d.net.Contains(p.Addr()):
	case not:
		d.excluded++
	default:
		d.included++
	}
	return decides
}

// answer returns the answer, and in words.
func (d *decision) answer() (answer Answer, text string) {
	answer, text, others := NotBlocked, "not in it", d.included
	if d.by.Prefix.IsValid() && !d.by.Not {
		answer, text, others = Blocked, "in it", d.excluded
	}
	if d.by.Prefix.IsValid() {
		text += ", by " + d.by.String()
	}
	if others > 0 {
		answer, text = InPart, text+", except for "+entryCount(others)+" inside"
	}
	return answer, text
}

// counters returns what was counted of an entry, and since when.
func counters(e pfioctl.AddrStats, zone *time.Location) string {
	since := e.Cleared.In(zone).Format(time.DateTime)
	if !e.Counted {
		return fmt.Sprintf("none: no packet since %s, or the table has no counters", since)
	}
	var words []string
	for dir, name := range []string{"in", "out"} {
		for op, what := range []string{"blocked", "matched", "passed"} {
			if n := e.Packets[dir][op]; n > 0 {
				words = append(words, fmt.Sprintf("%s %s %d packets (%d bytes)", name, what, n, e.Bytes[dir][op]))
			}
		}
	}
	if words == nil {
		words = []string{"no packet"}
	}
	return strings.Join(words, ", ") + " since " + since
}

// policy fetches the lists, and answers by the policy that they make now where the kernel gave no
// answer.
func (c *checker) policy(ctx context.Context) {
	client, err := dnsfetch.New(c.Fetch)
	if err != nil {
		c.say("policy", "%v", err)
		return
	}
	src := sources.New(c.Sources)
	src.Fetch(ctx, fetcher{client, c.Lookup}, sources.Progress{Done: func(r sources.Result) {
		if r.Err != nil {
			c.say("list", "%v", r.Err)
		}
	}})
	host, err := c.Host()
	if err != nil {
		c.say("policy", "what it never blocks is not known: %v", err)
		return
	}
	never, warnings := src.Facts(host)
	for _, w := range warnings {
		c.say("warning", "%s", w)
	}
	var p *policy.Policy
	if !src.Failed() {
		if p, err = policy.Build(src.Inputs(), policy.Exceptions(never), c.Policy); err != nil {
			c.say("policy", "%v", err)
		}
	}
	for _, s := range c.subjects {
		why := s.explain(policy.Explain(s.net, src.Inputs(), policy.Exceptions(never), c.Policy))
		if p == nil {
			continue
		}
		d := decision{net: s.net}
		for entry, not := range p.Block.All() {
			d.add(entry, not)
		}
		answer, _ := d.answer()
		s.Notes.say("policy", "%s%s", [...]string{"does not block it", "blocks it", "blocks it in part"}[answer], why[answer])
		if s.Answer == CannotTell {
			s.Answer = answer
		} else if s.Answer != answer {
			s.Notes.say("note", "the table is not what the lists are now; `threatstopd --sync-now` brings it there")
		}
	}
}

// explain notes what the lists and exceptions say, and returns the reason for each answer.
func (s *subject) explain(x policy.Explanation) (why [3]string) {
	dropped := ""
	for _, l := range x.Lists {
		text := "not on it"
		if l.On {
			text = "on it"
		}
		entry := pfioctl.Addr{Prefix: l.Entry, Not: !l.On}
		if l.Entry.IsValid() {
			text += ", by " + entry.String()
		}
		if l.Inside > 0 {
			text += "; it has " + entryCount(l.Inside) + " inside"
		}
		s.Notes.say("list", "%s list %s: %s", l.Kind, l.Name, text)
		for _, d := range l.Dropped {
			entry := pfioctl.Addr{Prefix: d.Prefix, Not: d.Not}
			s.Notes.say("list", "%s list %s: entry %s is dropped: %s", l.Kind, l.Name, entry, d.Why)
			if !l.On && dropped == "" {
				dropped = fmt.Sprintf(": entry %s of list %s is dropped: %s", entry, l.Name, d.Why)
			}
		}
		switch {
		case l.On && l.Kind == policy.Block:
			why[Blocked] = fmt.Sprintf(": entry %s of list %s", entry, l.Name)
		case l.On:
			why[NotBlocked] = fmt.Sprintf(": entry %s of allow list %s", entry, l.Name)
		}
	}
	for _, e := range x.Except {
		s.Notes.say("excepted", "never blocked: %s (%s)", pfioctl.Addr{Prefix: e.Prefix}, e.Why)
	}
	if why[NotBlocked] == "" {
		why[NotBlocked] = dropped
	}
	return why
}

// hits looks for records of the subjects in pflogd's files, and closes them.
func (c *checker) hits(logs []*os.File) {
	read := 0
	for _, f := range logs {
		if err := c.search(f, &read); err != nil && !errors.Is(err, io.EOF) {
			c.say("hits", "%s: %v", f.Name(), err)
		}
		f.Close()
	}
	if read > maxRecords {
		c.say("hits", "only the first %d records were looked at", maxRecords)
	}
}

// search adds the records of a file to the subjects that they concern.
func (c *checker) search(f *os.File, read *int) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil { // the header was read when the files were sorted
		return err
	}
	r, err := capture.NewFileReader(f)
	if err != nil {
		return err
	}
	var p capture.Packet
	for *read <= maxRecords {
		data, ci, err := r.ZeroCopyReadPacketData()
		if err != nil {
			return err
		}
		if *read++; p.Decode(data, ci) != nil {
			continue
		}
		src, dst := p.Src.Unmap(), p.Dst.Unmap()
		for _, s := range c.subjects {
			if s.net.Contains(src) || s.net.Contains(dst) {
				s.Hits++
				day := p.Time.In(c.Local).AppendFormat(nil, "2006-01-02 ")
				s.Latest = append(s.Latest, string(p.AppendLine(day, c.Local)))
				s.Latest = s.Latest[max(len(s.Latest)-maxHits, 0):]
			}
		}
	}
	return nil
}
