package check

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"example.org/threatstopd/agent/internal/rules"
	"example.org/threatstopd/capture"
)

const (
	// indicatorPort is connected to: it is enough that something is sent.
	indicatorPort = 80
	// connectTimeout is long enough for an answer, where one comes.
	connectTimeout = 3 * time.Second
	// seenWithin is how soon a blocked packet must be on the pflog interface.
	seenWithin = 2 * time.Second
)

// indicators makes connections that have to be blocked, and looks for their records.
func (t *tester) indicators(ctx context.Context) {
	switch {
	case !t.asked:
		t.say(rules.Skip, nil, "test indicator: pf cannot be asked")
		return
	case t.noSource:
		t.say(rules.Skip, nil, "test indicator: nothing can be asked from SOURCE_ADDRESS")
		return
	case !t.Config.ReloadPF:
		t.say(rules.Skip, nil, "test indicator: the tables are not loaded by threatstopd (RELOAD_PF=no)")
		return
	case errors.Is(t.blockErr, syscall.ESRCH):
		return // the missing table is reported already
	case t.blockErr != nil:
		t.fail("test indicator", t.blockErr)
		return
	}
	for _, name := range t.Indicators {
		addrs, err := t.addresses(ctx, name)
		if err != nil {
			t.say(rules.Warn, []string{"name an address that the policy blocks and that does no harm:", "threatstopd --test ADDRESS"},
				"test indicator %s: %v", name, err)
		}
		for _, a := range addrs {
			what := "test indicator " + name
			if name != a.String() {
				what += " (" + a.String() + ")"
			}
			t.indicator(ctx, what, a)
		}
	}
}

// indicator tries one address.
func (t *tester) indicator(ctx context.Context, what string, a netip.Addr) {
	d := decision{net: netip.PrefixFrom(a, a.BitLen())}
	for _, e := range t.entries {
		d.add(e.Prefix, e.Not)
	}
	if answer, _ := d.answer(); answer != Blocked {
		t.say(rules.Fail, []string{"threatstopd --sync-now", "threatstopd --check " + a.String()},
			"%s is not in table <%s>", what, t.Config.BlockTable)
		return
	}
	t.ok("%s is in table <%s>", what, t.Config.BlockTable)
	if t.logErr != nil {
		t.say(rules.Fail, []string{"ifconfig " + t.Config.PflogIf}, "%s: its record cannot be looked for: %v", what, t.logErr)
	}

	for len(t.hits) > 0 {
		<-t.hits
	}
	began := time.Now().Truncate(time.Microsecond)
	dialCtx, cancel := context.WithTimeout(ctx, connectTimeout)
	c, err := t.Dial(dialCtx, "tcp", netip.AddrPortFrom(a, indicatorPort).String())
	timedOut := dialCtx.Err() != nil
	cancel()
	if err == nil {
		c.Close()
		t.say(rules.Fail, t.lines(), "%s: a connection to it was made: it is not blocked", what)
		return
	}
	line := t.record(ctx, a, began)
	t.connected(what, err, timedOut, line != "")
	switch {
	case t.log == nil:
	case line != "":
		t.ok("%s: its record on %s: %s", what, t.Config.PflogIf, line)
	default:
		t.say(rules.Fail, []string{"the rules that block have to log, there: see the lines about rules above"},
			"%s: no record of it on %s within %v", what, t.Config.PflogIf, seenWithin)
	}
}

// connected reports how a connection failed: as it should, if the kernel did not let it out. Behind a bridge
// that filters, or where rules return something, that can only be seen from the record.
func (t *tester) connected(what string, err error, timedOut, logged bool) {
	var timeout net.Error
	is := func(e error) bool { return errors.Is(err, e) }
	back := is(syscall.ECONNREFUSED) || is(syscall.ECONNRESET) || is(syscall.EHOSTUNREACH)
	switch {
	case is(syscall.EACCES):
		t.ok("%s: a connection to it is refused: permission denied", what)
	case timedOut || errors.As(err, &timeout) && timeout.Timeout():
		t.ok("%s: a connection to it times out, as where a bridge filters", what)
	case back && logged:
		t.ok("%s: a connection to it fails: %v", what, reason(err))
	case back:
		t.say(rules.Warn, []string{"look for it with: tcpdump -n -e -i " + t.Config.PflogIf},
			"%s: a connection to it fails: %v: that may be pf (block return), or the host itself", what, reason(err))
	default:
		t.say(rules.Warn, []string{"look at the routes of this host"}, "%s: not known whether it is blocked: %v", what, reason(err))
	}
}

// A hit is the record of a packet that was blocked.
type hit struct {
	src, dst netip.Addr
	time     time.Time
	line     string
}

// record returns the line of a blocked packet from or to a, logged since then, or "" if none comes.
func (t *tester) record(ctx context.Context, a netip.Addr, since time.Time) string {
	if t.log == nil {
		return ""
	}
	timeout := time.After(seenWithin)
	for {
		select {
		case h := <-t.hits:
			if (h.src == a || h.dst == a) && !h.time.Before(since) {
				return h.line
			}
		case <-timeout:
			return ""
		case <-ctx.Done():
			return ""
		}
	}
}

// watch sends the blocked packets of a pflog interface to hits, as many as there is room for, until it is closed.
func watch(log capture.Source, hits chan<- hit, loc *time.Location) {
	var p capture.Packet
	for {
		data, ci, err := log.ZeroCopyReadPacketData()
		if err != nil {
			return
		}
		if p.Decode(data, ci) != nil || p.Header.Action != capture.ActionBlock {
			continue
		}
		select {
		case hits <- hit{p.Src.Unmap(), p.Dst.Unmap(), p.Time, string(p.AppendLine(nil, loc))}:
		default:
		}
	}
}
