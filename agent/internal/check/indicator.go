package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
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

// indicator makes connections that have to be blocked, and looks for their
// records.
func (t *tester) indicator(ctx context.Context) {
	if !t.ready.pf {
		t.say(rules.Skip, "test indicator: pf cannot be asked")
		return
	}
	if !t.Config.ReloadPF {
		t.say(rules.Skip, "test indicator: the tables are not loaded by threatstopd (RELOAD_PF=no)")
		return
	}
	for _, name := range t.Indicators {
		addrs, err := lookup(ctx, &t.Options, name)
		if err != nil {
			t.say(rules.Warn, fmt.Sprintf("test indicator %s: %v", name, err), "name an address that the policy blocks and that does no harm:", "threatstopd --test ADDRESS")
			continue
		}
		for _, a := range addrs {
			label := name
			if label != a.String() {
				label += " (" + a.String() + ")"
			}
			t.blocked(ctx, label, a)
		}
	}
}

// blocked tries one address.
func (t *tester) blocked(ctx context.Context, label string, a netip.Addr) {
	what := "test indicator " + label
	switch err := t.ready.blockErr; {
	case errors.Is(err, syscall.ESRCH):
		return // the missing table is reported already
	case err != nil:
		t.fail(what, err)
		return
	}
	if e, ok := t.ready.decides(a); !ok || e.Not {
		t.say(rules.Fail, fmt.Sprintf("%s is not in table <%s>", what, t.Config.BlockTable), "threatstopd --sync-now", fmt.Sprintf("threatstopd --check %s", a))
		return
	}
	t.say(rules.OK, fmt.Sprintf("%s is in table <%s>", what, t.Config.BlockTable))

	log := t.ready.pflog
	if err := t.ready.pflogErr; err != nil {
		t.say(rules.Fail, fmt.Sprintf("%s: its record cannot be looked for: %v", what, err), "ifconfig "+t.Config.PflogIf)
	}
	record := t.ready.seen.want(a)
	dialCtx, cancel := context.WithTimeout(ctx, connectTimeout)
	c, err := t.Dial(dialCtx, "tcp", netip.AddrPortFrom(a, indicatorPort).String())
	timedOut := dialCtx.Err() != nil
	cancel()
	if err == nil {
		c.Close()
		t.say(rules.Fail, what+": a connection to it was made: it is not blocked", append([]string{"add to pf.conf, above the first rule with quick:"}, t.lines()...)...)
		return
	}
	line := ""
	if log != nil {
		select {
		case line = <-record:
		case <-time.After(seenWithin):
		case <-ctx.Done():
		}
	}
	t.connected(what, err, timedOut, line)
	switch {
	case log == nil:
	case line != "":
		t.say(rules.OK, fmt.Sprintf("%s: its record on %s: %s", what, t.Config.PflogIf, line))
	default:
		t.say(rules.Fail, fmt.Sprintf("%s: no record of it on %s within %v", what, t.Config.PflogIf, seenWithin),
			"the rules that block have to log, there: see the lines about rules above")
	}
}

// connected reports how a connection failed: as it should, if the kernel did not let
// it out. Behind a bridge that filters, or where rules return something, that can
// only be seen from the record.
func (t *tester) connected(what string, err error, timedOut bool, line string) {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.EACCES):
		t.say(rules.OK, what+": a connection to it is refused: permission denied")
	case timedOut || errors.As(err, &timeout) && timeout.Timeout():
		t.say(rules.OK, what+": a connection to it times out, as where a bridge filters")
	case errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EHOSTUNREACH):
		if line != "" {
			t.say(rules.OK, fmt.Sprintf("%s: a connection to it fails: %v", what, reason(err)))
			return
		}
		t.say(rules.Warn, fmt.Sprintf("%s: a connection to it fails: %v: that may be pf (block return), or the host itself", what, reason(err)), "look for it with: tcpdump -n -e -i "+t.Config.PflogIf)
	default:
		t.say(rules.Warn, fmt.Sprintf("%s: not known whether it is blocked: %v", what, reason(err)), "look at the routes of this host")
	}
}

// A watch reads a pflog interface until it is closed and picks out the record that is
// wanted.
type watch struct {
	mu    sync.Mutex
	addr  netip.Addr
	since time.Time
	line  chan string
}

// want returns where the line of the first blocked packet from or to a that is logged from
// now on is sent.
func (w *watch) want(a netip.Addr) <-chan string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addr, w.since, w.line = a, time.Now().Truncate(time.Microsecond), make(chan string, 1)
	return w.line
}

func (w *watch) run(log capture.Source, loc *time.Location) {
	var p capture.Packet
	for {
		data, ci, err := log.ZeroCopyReadPacketData()
		if err != nil {
			return
		}
		if p.Decode(data, ci) != nil || p.Header.Action != capture.ActionBlock {
			continue
		}
		w.mu.Lock()
		if (p.Src.Unmap() == w.addr || p.Dst.Unmap() == w.addr) && !p.Time.Before(w.since) {
			select {
			case w.line <- string(p.AppendLine(nil, loc)):
			default: // only the first is wanted
			}
		}
		w.mu.Unlock()
	}
}
