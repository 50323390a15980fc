package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sort"
	"strings"
	"syscall"
	"time"

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

// Check writes to w what is known of an address: what the lists say of it, as the
// policy servers have them now; what excepts it; what the tables in the kernel
// say, with the entry that decides and its counters; and the latest records of it
// in pflogd's files.
//
// The answer is that of the kernel's block table, for that is what happens to
// packets; where pf cannot be asked it is that of the policy.
func Check(ctx context.Context, a netip.Addr, o Options, env Env, w io.Writer) (Answer, error) {
	c := &checker{o: o, env: env, w: w, addr: a.Unmap().WithZone(""), block: pfioctl.Table{Name: o.Config.BlockTable}, allow: pfioctl.Table{Name: o.Config.AllowTable}}
	if !c.addr.IsValid() {
		return CannotTell, errors.New("no address")
	}
	answer := c.kernel()
	c.prepare()
	if env.Confine != nil {
		if err := env.Confine(nil); err != nil {
			return CannotTell, err
		}
	}
	inPolicy := c.policy(ctx)
	c.hits()
	switch {
	case answer == CannotTell:
		answer = inPolicy
	case inPolicy != CannotTell && inPolicy != answer:
		c.say("note", "the table is not what the lists are now; `threatstopd --sync-now` brings it there")
	}
	words := map[Answer]string{Blocked: "%s is blocked\n", NotBlocked: "%s is not blocked\n", CannotTell: "%s: cannot tell\n"}
	if _, err := fmt.Fprintf(w, words[answer], c.addr); err != nil {
		return answer, err
	}
	return answer, ctx.Err()
}

type checker struct {
	o            Options
	env          Env
	w            io.Writer
	addr         netip.Addr
	block, allow pfioctl.Table

	logs    []*os.File // pflogd's files
	logsErr error
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

// counters tells what was counted of the entry that decides.
func (c *checker) counters(pf *pfioctl.PF, t pfioctl.Table, entry pfioctl.Addr) {
	all, err := pf.AddrStats(t)
	if err != nil {
		c.say("counters", "%v", err)
		return
	}
	// The kernel lists them by family and address, the longest prefix first.
	i := sort.Search(len(all), func(i int) bool {
		p := all[i].Prefix
		if n := p.Addr().Compare(entry.Prefix.Addr()); n != 0 {
			return n > 0
		}
		return p.Bits() <= entry.Prefix.Bits()
	})
	if i == len(all) || all[i].Prefix != entry.Prefix {
		return // it went between the two questions
	}
	s := all[i]
	since := s.Cleared.In(c.env.Local).Format(time.DateTime)
	if !s.Counted {
		c.say("counters", "%s: none: no packet since %s, or the table has no counters", entry, since)
		return
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
	c.say("counters", "%s: %s since %s", entry, strings.Join(words, ", "), since)
}

// policy tells what the lists have of the address now.
func (c *checker) policy(ctx context.Context) Answer {
	client, err := dnsfetch.New(c.o.Fetch)
	if err != nil {
		c.say("policy", "%v", err)
		return CannotTell
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
		return CannotTell
	}
	never, warnings := src.Facts(host)
	for _, w := range warnings {
		c.say("warning", "%s", w)
	}
	x := policy.Explain(c.addr, src.Inputs(), policy.Exceptions(never), c.o.Policy)
	for _, l := range x.Lists {
		c.list(l)
	}
	for _, e := range x.Except {
		c.say("excepted", "never blocked: %s (%s)", pfioctl.Addr{Prefix: e.Prefix}, e.Why)
	}
	if src.Failed() {
		return CannotTell
	}
	if !x.Blocked {
		c.say("policy", "does not block it")
		return NotBlocked
	}
	for _, l := range x.Lists {
		if l.On {
			c.say("policy", "blocks it: entry %s of list %s", pfioctl.Addr{Prefix: l.Entry}, l.Name)
			break
		}
	}
	return Blocked
}

// fetcher fetches lists and looks up names in this process.
type fetcher struct {
	*dnsfetch.Client
	lookup func(context.Context, string) ([]netip.Addr, error)
}

func (f fetcher) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	return f.lookup(ctx, name)
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

// hits shows the latest records of the address.
func (c *checker) hits() {
	if c.logsErr != nil {
		c.say("hits", "%v", c.logsErr)
		return
	}
	var last []string
	count, read := 0, 0
	for _, f := range c.logs {
		n, lines, err := c.search(f, &read)
		f.Close()
		count += n
		last = append(last, lines...)
		last = last[max(len(last)-maxHits, 0):]
		if err != nil && !errors.Is(err, io.EOF) {
			c.say("hits", "%s: %v", f.Name(), err)
		}
	}
	if read > maxRecords {
		c.say("hits", "only the first %d records were looked at", maxRecords)
	}
	if count == 0 {
		c.say("hits", "none in pflogd's files")
		return
	}
	c.say("hits", "%d in pflogd's files, the latest:", count)
	for _, line := range last {
		fmt.Fprintf(c.w, "  %s\n", line)
	}
}

// search returns how many records of a file have the address, and the last lines
// of them.
func (c *checker) search(f *os.File, read *int) (count int, last []string, err error) {
	r, err := capture.NewFileReader(f)
	if err != nil {
		return 0, nil, err
	}
	var p capture.Packet
	for *read <= maxRecords {
		data, ci, err := r.ZeroCopyReadPacketData()
		if err != nil {
			return count, last, err
		}
		*read++
		if p.Decode(data, ci) != nil || p.Src.Unmap() != c.addr && p.Dst.Unmap() != c.addr {
			continue
		}
		count++
		day := p.Time.In(c.env.Local).AppendFormat(nil, "2006-01-02 ")
		last = append(last, string(p.AppendLine(day, c.env.Local)))
		last = last[max(len(last)-maxHits, 0):]
	}
	return count, last, nil
}
