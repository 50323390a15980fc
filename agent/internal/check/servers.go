package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/rules"
	"example.org/threatstopd/agent/internal/sources"
	"example.org/threatstopd/dnsfetch"
)

// servers asks each policy server: whether it can be reached, and whether it gives
// the lists. All of them come from the first that does, the others are asked for one.
func (t *tester) servers(ctx context.Context) {
	var lists *sources.Sources
	for _, server := range t.Fetch.Servers {
		if ctx.Err() != nil {
			return
		}
		reached := t.connect(ctx, server)
		if !reached {
			continue
		}
		if got := t.ask(ctx, server, lists != nil); lists == nil {
			lists = got
		}
	}
	if lists == nil {
		t.say(rules.Fail, "no policy server gives all lists: the policy cannot be updated", t.afterRefusal()...)
		return
	}
	if !t.JSON {
		fmt.Fprintln(t.w, "DNS Server is ready.")
	}
	host, err := t.Host()
	if err != nil {
		t.fail("policy", err)
		return
	}
	for _, u := range t.ready.unseen {
		t.say(rules.Warn, "resolvers: "+u, "name the resolvers that are missed in NEVER_BLOCK")
	}
	lists.Names(ctx, fetcher{lookup: t.Lookup})
	never, warnings := lists.Facts(host)
	for _, w := range warnings {
		t.say(rules.Warn, "policy: "+w, "check the name, and the resolver (/etc/resolv.conf)")
	}
	p, err := lists.Build(never, t.Policy)
	if err != nil {
		t.fail("policy", err)
		return
	}
	t.policy = p
	if p.Block.Len() == 0 {
		t.say(rules.Fail, "policy: it blocks nothing: an empty table is not enforced", "look at BLOCK_LISTS in "+t.File)
		return
	}
	t.say(rules.OK, fmt.Sprintf("policy: %s to block, %d to allow", entryCount(p.Block.Len()), p.Allow.Len()))
}

func (t *tester) afterRefusal() []string {
	if t.refused {
		return []string{"a new device takes 15 minutes to an hour until the servers know it; they know it by its public address"}
	}
	return []string{"see the lines above"}
}

// dnsPorts are those that a policy server without a port is asked on.
var dnsPorts = []uint16{53, 5353}

// connect makes a TCP connection to each address and port of a server, and reports
// whether one could be made.
func (t *tester) connect(ctx context.Context, server string) bool {
	host, ports := server, dnsPorts
	if t.Fetch.Ports != nil {
		ports = t.Fetch.Ports
	}
	if h, p, err := net.SplitHostPort(server); err == nil {
		if n, err := strconv.ParseUint(p, 10, 16); err == nil {
			host, ports = h, []uint16{uint16(n)}
		}
	}
	addrs, err := lookup(ctx, &t.Options, host)
	if err != nil {
		t.say(t.serverLevel(), fmt.Sprintf("policy server %s: %v", server, err), "give its address in DNS_SERVERS, or look at the resolver (/etc/resolv.conf)")
		return false
	}
	var good, bad []string
	for _, a := range addrs {
		for _, port := range ports {
			to := netip.AddrPortFrom(a, port).String()
			began := t.Now()
			c, err := t.dial(ctx, to)
			if err != nil {
				bad = append(bad, fmt.Sprintf("%s: %v", to, reason(err)))
				continue
			}
			c.Close()
			good = append(good, fmt.Sprintf("%s in %v", to, t.Now().Sub(began).Round(time.Millisecond)))
		}
	}
	switch {
	case len(good) == 0:
		t.say(t.serverLevel(), fmt.Sprintf("policy server %s: no TCP connection: %s", server, strings.Join(bad, "; ")),
			"let TCP to ports 53 and 5353 of it out, here and at any firewall on the way")
		return false
	case len(bad) > 0:
		t.say(rules.OK, fmt.Sprintf("policy server %s: connects to %s (not to %s)", server, strings.Join(good, ", "), strings.Join(bad, "; ")))
	default:
		t.say(rules.OK, fmt.Sprintf("policy server %s: connects to %s", server, strings.Join(good, ", ")))
	}
	return true
}

// serverLevel is how bad it is that one server does not work: not much, where
// there are others.
func (t *tester) serverLevel() rules.Level {
	if len(t.Fetch.Servers) > 1 {
		return rules.Warn
	}
	return rules.Fail
}

func (t *tester) dial(ctx context.Context, to string) (net.Conn, error) {
	timeout := t.Fetch.Timeout
	if timeout == 0 {
		timeout = dnsfetch.DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return t.Dial(ctx, "tcp", to)
}

// reason leaves out of a network error what was said already.
func reason(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	return err
}

func lookup(ctx context.Context, o *Options, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	addrs, err := o.Lookup(ctx, host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("has no address")
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, err
}

// ask fetches all lists from a server, or with one just the first block list, and returns them if all
// have come or do not exist.
func (t *tester) ask(ctx context.Context, server string, one bool) *sources.Sources {
	o := t.Fetch
	o.Servers = []string{server}
	client, err := dnsfetch.New(o)
	if err != nil {
		t.fail("policy server "+server, err)
		return nil
	}
	want := t.Sources
	if one {
		want.Allow, want.Block = nil, want.Block[:1]
	}
	src := sources.New(want)
	for _, l := range src.Lists() {
		got, err := client.Fetch(ctx, dnsfetch.Request{Name: l.Name, AllowEmpty: l.Kind == policy.Allow})
		src.Take(sources.Result{Kind: l.Kind, Name: l.Name, List: got, Err: err}, t.Now())
		refused := errors.Is(err, dnsfetch.ErrRefused)
		t.refused = t.refused || refused
		switch {
		case l.Err == nil:
			t.say(rules.OK, fmt.Sprintf("%s list %s: %s in %s (%s), %d bytes from %s in %v",
				l.Kind, l.Name, entryCount(l.Len()), counted(l.Parts, "part"), l.Layout, l.Bytes, l.Server, l.Elapsed.Round(time.Millisecond)))
		case refused:
			t.say(t.serverLevel(), err.Error(), "the servers do not know this host's public address, or not yet")
		default:
			t.say(t.serverLevel(), err.Error(), "look at the name in "+t.File+": it must be as the service gives it")
		}
		if refused || ctx.Err() != nil {
			return nil // the others would be refused, too
		}
	}
	if src.Failed() {
		return nil
	}
	return src
}
