package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"example.org/threatstopd/agent/internal/fetch"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/sources"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/pfioctl"
)

// An Answer is what Check finds.
type Answer uint8

const (
	NotBlocked Answer = iota
	Blocked
	CannotTell
)

// maxHits is how many records of an address Check shows, the latest; maxRecords
// bounds how many it looks through.
const (
	maxHits    = 10
	maxRecords = 20_000_000
)

// Check writes to w what is known of each address: what the lists say of it, as the
// policy servers have them now; what excepts it; what the tables in the kernel
// say, with the entry that decides and its counters; and the latest records of it
// in pflogd's files.
//
// The answer is that of the kernel's block table, for that is what happens to
// packets; where pf cannot be asked it is that of the policy. For several addresses
// it is CannotTell if it is that for one of them, else NotBlocked if one is not blocked.
func Check(ctx context.Context, addrs []netip.Addr, o Options, env Env, w io.Writer) (Answer, error) {
	c := &checker{o: o, env: env, w: w, block: pfioctl.Table{Name: o.Config.BlockTable}, allow: pfioctl.Table{Name: o.Config.AllowTable}}
	var all []*checker
	for _, a := range addrs {
		one := *c
		one.addr, one.w = a.Unmap().WithZone(""), &bytes.Buffer{}
		if !a.IsValid() {
			return CannotTell, errors.New("no address")
		}
		one.answer = one.kernel()
		all = append(all, &one)
	}
	c.prepare()
	if env.Confine != nil {
		if err := env.Confine(nil); err != nil {
			return CannotTell, err
		}
	}
	lists, never := c.fetch(ctx)
	c.hits(all)
	worst := Blocked
	for i, one := range all {
		inPolicy := CannotTell
		if lists != nil {
			inPolicy = one.policy(lists, never)
		}
		if one.answer == CannotTell {
			one.answer = inPolicy
		} else if inPolicy != CannotTell && inPolicy != one.answer {
			one.say("note", "the table is not what the lists are now; `threatstopd --sync-now` brings it there")
		}
		one.showHits()
		words := map[Answer]string{Blocked: "%s is blocked\n", NotBlocked: "%s is not blocked\n", CannotTell: "%s: cannot tell\n"}
		fmt.Fprintf(one.w, words[one.answer], one.addr)
		if i > 0 {
			fmt.Fprintln(w)
		}
		if _, err := w.Write(one.w.(*bytes.Buffer).Bytes()); err != nil {
			return one.answer, err
		}
		if worst != CannotTell && one.answer != Blocked {
			worst = one.answer
		}
	}
	return worst, ctx.Err()
}

// checker checks one address; what concerns all is checked by one without an address.
type checker struct {
	o            Options
	env          Env
	w            io.Writer
	addr         netip.Addr
	answer       Answer
	block, allow pfioctl.Table

	logs    []*os.File // pflogd's files
	logsErr error
	count   int      // of the records of the address
	last    []string // lines of the latest
}

// prepare gets ready what is needed when the process is confined: with it what strangers
// have sent is read.
func (c *checker) prepare() {
	c.env.Host = once(c.env.Host)
	if err := c.env.FlushPflogd(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		c.say("hits", "%v: the latest may be missing", err)
	}
	c.logs, c.logsErr = c.env.Logs()
	_ = time.Now().In(c.env.Local).String() // reads the zone's file
}

func (c *checker) say(what, format string, args ...any) {
	fmt.Fprintf(c.w, "%-9s %s\n", what+":", fmt.Sprintf(format, args...))
}

// kernel asks the tables in force.
func (c *checker) kernel() Answer {
	pf, err := c.env.OpenPF()
	if err != nil {
		c.say("pf", "cannot be asked: %v", err)
		return CannotTell
	}
	defer pf.Close()
	answer := c.table(pf, c.block)
	c.table(pf, c.allow)
	status, err := pf.Status()
	switch {
	case err == nil && !status.Running:
		c.say("pf", "is disabled: nothing is blocked")
		return NotBlocked
	case errors.Is(err, pfioctl.ErrUnknownRelease) && answer == Blocked:
		c.say("pf", "%s: `pfctl -si` shows whether it is enabled", pf.Notice())
		return CannotTell
	}
	return answer
}

// table asks one table, which entry decides, and what the kernel counted of it.
func (c *checker) table(pf *pfioctl.PF, t pfioctl.Table) Answer {
	r, err := pf.Test(t, c.addr)
	switch {
	case errors.Is(err, syscall.ESRCH):
		c.say("table", "<%s> is not there", t.Name)
		return NotBlocked
	case err != nil:
		c.say("table", "<%s>: %v", t.Name, err)
		return CannotTell
	case len(r) != 1 || !r[0].Found:
		c.say("table", "<%s>: not in it", t.Name)
		return NotBlocked
	}
	answer := NotBlocked
	if r[0].Match {
		answer = Blocked
		c.say("table", "<%s>: in it, by %s", t.Name, r[0].Entry)
	} else {
		c.say("table", "<%s>: not in it, by %s", t.Name, r[0].Entry)
	}
	c.counters(pf, t, r[0].Entry)
	return answer
}

// counters prints what was counted of the entry that decides.
func (c *checker) counters(pf *pfioctl.PF, t pfioctl.Table, entry pfioctl.Addr) {
	all, err := pf.AddrStats(t)
	if err != nil {
		c.say("counters", "%v", err)
		return
	}
	defer all.Close()
	for s := range all.All() {
		if s.Prefix == entry.Prefix {
			c.say("counters", "%s: %s", entry, c.counted(s))
			return
		}
	}
	// It went between the two questions.
}

// counted returns what was counted of an entry, and since when.
func (c *checker) counted(s pfioctl.AddrStats) string {
	since := s.Cleared.In(c.env.Local).Format(time.DateTime)
	if !s.Counted {
		return fmt.Sprintf("none: no packet since %s, or the table has no counters", since)
	}
	var words []string
	for dir, name := range []string{"in", "out"} {
		for op, what := range []string{"blocked", "matched", "passed"} {
			if n := s.Packets[dir][op]; n > 0 {
				words = append(words, fmt.Sprintf("%s %s %d packets (%d bytes)", name, what, n, s.Bytes[dir][op]))
			}
		}
	}
	if words == nil {
		words = []string{"no packet"}
	}
	return fmt.Sprintf("%s since %s", strings.Join(words, ", "), since)
}

// fetch returns the lists as they are now and what is never blocked, or nil.
func (c *checker) fetch(ctx context.Context) (*sources.Sources, policy.Facts) {
	client, err := dnsfetch.New(c.o.Fetch)
	if err != nil {
		c.say("policy", "%v", err)
		return nil, policy.Facts{}
	}
	defer client.Close()
	src := sources.New(c.o.Sources)
	src.Fetch(ctx, fetcher{client, c.env.Lookup}, sources.Progress{Done: func(r sources.Result) {
		if r.Err != nil {
			c.say("list", "%v", r.Err)
		}
	}})
	host, err := c.env.Host()
	if err != nil {
		c.say("policy", "what it never blocks is not known: %v", err)
		return nil, policy.Facts{}
	}
	never, warnings := src.Facts(host)
	for _, w := range warnings {
		c.say("warning", "%s", w)
	}
	return src, never
}

// policy reports what the lists mean for the address, and why.
func (c *checker) policy(src *sources.Sources, never policy.Facts) Answer {
	x := policy.Explain(c.addr, src.Inputs(), policy.Exceptions(never), c.o.Policy)
	why := ""
	for _, l := range x.Lists {
		c.list(l)
		switch {
		case x.Blocked && l.On && l.Kind == policy.Block:
			why = fmt.Sprintf(": entry %s of list %s", pfioctl.Addr{Prefix: l.Entry}, l.Name)
		case !x.Blocked && l.On && l.Kind == policy.Allow:
			why = fmt.Sprintf(": entry %s of allow list %s", pfioctl.Addr{Prefix: l.Entry}, l.Name)
		case !x.Blocked && why == "" && !l.On && len(l.Dropped) > 0:
			why = fmt.Sprintf(": entry %s of list %s is dropped: %s", pfioctl.Addr{Prefix: l.Dropped[0].Prefix}, l.Name, l.Dropped[0].Why)
		}
	}
	for _, e := range x.Except {
		c.say("excepted", "never blocked: %s (%s)", pfioctl.Addr{Prefix: e.Prefix}, e.Why)
	}
	switch {
	case src.Failed():
		return CannotTell
	case x.Blocked:
		c.say("policy", "blocks it%s", why)
		return Blocked
	}
	c.say("policy", "does not block it%s", why)
	return NotBlocked
}

// fetcher fetches lists and looks up names in this process.
type fetcher struct {
	*dnsfetch.Client
	lookup func(context.Context, string) ([]netip.Addr, error)
}

func (f fetcher) Lookup(ctx context.Context, names []string) []sources.Name {
	return fetch.LookUp(ctx, names, f.lookup)
}

// list prints what one list says of the address.
func (c *checker) list(l policy.Answer) {
	text := "not on it"
	if l.On {
		text = "on it"
	}
	if l.Entry.IsValid() {
		text += ", by " + pfioctl.Addr{Prefix: l.Entry, Not: !l.On}.String()
	}
	c.say("list", "%s list %s: %s", l.Kind, l.Name, text)
	for _, d := range l.Dropped {
		c.say("list", "%s list %s: entry %s is dropped: %s", l.Kind, l.Name, pfioctl.Addr{Prefix: d.Prefix, Not: d.Not}, d.Why)
	}
}

// hits looks for records of the addresses in pflogd's files.
func (c *checker) hits(all []*checker) {
	if c.logsErr != nil {
		c.say("hits", "%v", c.logsErr)
		return
	}
	byAddr := make(map[netip.Addr]*checker)
	for _, one := range all {
		byAddr[one.addr] = one
	}
	read := 0
	for _, f := range c.logs {
		if err := search(f, byAddr, &read); err != nil && !errors.Is(err, io.EOF) {
			c.say("hits", "%s: %v", f.Name(), err)
		}
		f.Close()
	}
	if read > maxRecords {
		c.say("hits", "only the first %d records were looked at", maxRecords)
	}
}

// search adds the records of a file to those of the addresses that they have.
func search(f *os.File, byAddr map[netip.Addr]*checker, read *int) error {
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
		src, dst := byAddr[p.Src.Unmap()], byAddr[p.Dst.Unmap()]
		if src != nil {
			src.add(&p)
		}
		if dst != nil && dst != src {
			dst.add(&p)
		}
	}
	return nil
}

func (c *checker) add(p *capture.Packet) {
	c.count++
	day := p.Time.In(c.env.Local).AppendFormat(nil, "2006-01-02 ")
	c.last = append(c.last, string(p.AppendLine(day, c.env.Local)))
	c.last = c.last[max(len(c.last)-maxHits, 0):]
}

// showHits prints the latest records of the address.
func (c *checker) showHits() {
	if c.count == 0 {
		c.say("hits", "none in pflogd's files")
		return
	}
	c.say("hits", "%d in pflogd's files, the latest:", c.count)
	for _, line := range c.last {
		fmt.Fprintf(c.w, "  %s\n", line)
	}
}
