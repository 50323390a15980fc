package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"example.org/threatstopd/agent/policy"
	"example.org/threatstopd/dnsfetch"
)

// A fetched list, and what it is for.
type fetched struct {
	kind policy.Kind
	name string
	*dnsfetch.List
}

// servers asks each policy server: whether it can be reached, and whether it gives
// the lists. All of them come from the first that does, the others are asked for one.
func (t *tester) servers(ctx context.Context) {
	var lists []fetched
	for _, server := range t.o.Fetch.Servers {
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
		t.say(Fail, "no policy server gives all lists: the policy cannot be updated", t.afterRefusal()...)
		return
	}
	fmt.Fprintln(t.w, "DNS Server is ready.")
	p, warnings, err := build(ctx, &t.o, &t.env, lists)
	for _, w := range warnings {
		t.say(Warn, "policy: "+w, "check the name, and the resolver (/etc/resolv.conf)")
	}
	if err != nil {
		t.fail("policy", err)
		return
	}
	t.policy = p
	if p.Block.Len() == 0 {
		t.say(Fail, "policy: it blocks nothing: an empty table is not enforced", "look at BLOCK_LISTS in "+t.o.File)
		return
	}
	t.say(OK, fmt.Sprintf("policy: %s to block, %d to allow", entries(p.Block.Len()), p.Allow.Len()))
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
	if t.o.Fetch.Ports != nil {
		ports = t.o.Fetch.Ports
	}
	if h, p, err := net.SplitHostPort(server); err == nil {
		if n, err := strconv.ParseUint(p, 10, 16); err == nil {
			host, ports = h, []uint16{uint16(n)}
		}
	}
	addrs, err := lookup(ctx, &t.env, host)
	if err != nil {
		t.say(t.serverLevel(), fmt.Sprintf("policy server %s: %v", server, err), "give its address in DNS_SERVERS, or look at the resolver (/etc/resolv.conf)")
		return false
	}
	var good, bad []string
	for _, a := range addrs {
		for _, port := range ports {
			to := netip.AddrPortFrom(a, port).String()
			began := t.env.Now()
			c, err := t.dial(ctx, to)
			if err != nil {
				bad = append(bad, fmt.Sprintf("%s: %v", to, reason(err)))
				continue
			}
			c.Close()
			good = append(good, fmt.Sprintf("%s in %v", to, t.env.Now().Sub(began).Round(time.Millisecond)))
		}
	}
	switch {
	case len(good) == 0:
		t.say(t.serverLevel(), fmt.Sprintf("policy server %s: no TCP connection: %s", server, strings.Join(bad, "; ")),
			"let TCP to ports 53 and 5353 of it out, here and at any firewall on the way")
		return false
	case len(bad) > 0:
		t.say(OK, fmt.Sprintf("policy server %s: connects to %s (not to %s)", server, strings.Join(good, ", "), strings.Join(bad, "; ")))
	default:
		t.say(OK, fmt.Sprintf("policy server %s: connects to %s", server, strings.Join(good, ", ")))
	}
	return true
}

// serverLevel is how bad it is that one server does not work: not much, where
// there are others.
func (t *tester) serverLevel() Level {
	if len(t.o.Fetch.Servers) > 1 {
		return Warn
	}
	return Fail
}

func (t *tester) dial(ctx context.Context, to string) (net.Conn, error) {
	timeout := t.o.Fetch.Timeout
	if timeout == 0 {
		timeout = dnsfetch.DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return t.env.Dial(ctx, "tcp", to)
}

// reason leaves out of a network error what was said already.
func reason(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	return err
}

func lookup(ctx context.Context, env *Env, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	addrs, err := env.Lookup(ctx, host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("has no address")
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, err
}

// ask fetches all lists from a server, or with one just the first, and returns
// them if all have come.
func (t *tester) ask(ctx context.Context, server string, one bool) []fetched {
	o := t.o.Fetch
	o.Servers = []string{server}
	client, err := dnsfetch.New(o)
	if err != nil {
		t.fail("policy server "+server, err)
		return nil
	}
	defer client.Close()
	var lists []fetched
	complete := true
	for _, want := range wanted(&t.o) {
		if one && want.kind != policy.Block {
			continue
		}
		l, err := client.Fetch(ctx, dnsfetch.Request{Name: want.name, AllowEmpty: want.kind == policy.Allow})
		if err != nil {
			complete = false
			t.refused = t.refused || errors.Is(err, dnsfetch.ErrRefused)
			do := "look at the name in " + t.o.File + ": it must be as the service gives it"
			if errors.Is(err, dnsfetch.ErrRefused) {
				do = "the servers do not know this host's public address, or not yet"
			}
			t.say(t.serverLevel(), err.Error(), do)
			if errors.Is(err, dnsfetch.ErrRefused) || ctx.Err() != nil {
				break // the others would be, too
			}
			continue
		}
		t.say(OK, fmt.Sprintf("%s list %s: %s in %s (%s), %d bytes from %s in %v",
			want.kind, l.Name, entries(l.Len()), counted(l.Parts, "part"), l.Layout, l.Bytes, l.Server, l.Elapsed.Round(time.Millisecond)))
		lists = append(lists, fetched{want.kind, want.name, l})
		if one {
			break
		}
	}
	if !complete {
		return nil
	}
	return lists
}

// wanted returns the lists of the policy, allow lists first.
func wanted(o *Options) []fetched {
	var all []fetched
	for _, name := range o.Config.AllowLists {
		all = append(all, fetched{kind: policy.Allow, name: name})
	}
	for _, name := range o.Config.BlockLists {
		all = append(all, fetched{kind: policy.Block, name: name})
	}
	return all
}

// exceptions returns what the policy never blocks, as an update finds it, and
// what could not be found.
func exceptions(ctx context.Context, o *Options, env *Env) ([]policy.Exception, []string, error) {
	facts, err := env.Host()
	if err != nil {
		return nil, nil, err
	}
	facts.NeverBlock = o.Config.NeverBlock
	var warnings []string
	for _, h := range o.Reach {
		addrs, err := lookup(ctx, env, h.Host)
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("%s %s: %v: it may be blocked", h.Role, h.Host, err))
		}
		for _, a := range addrs {
			facts.Servers = append(facts.Servers, policy.Server{Role: h.Role + " " + h.Host, Addr: a})
		}
	}
	return policy.Exceptions(facts), warnings, nil
}

// build makes the policy of lists.
func build(ctx context.Context, o *Options, env *Env, lists []fetched) (*policy.Policy, []string, error) {
	never, warnings, err := exceptions(ctx, o, env)
	if err != nil {
		return nil, nil, err
	}
	b := policy.NewBuilder(o.Policy)
	for _, l := range lists {
		id := b.List(l.name, l.kind)
		for e := range l.All() {
			b.Add(id, e.Prefix, e.Not)
		}
	}
	for _, x := range never {
		b.Except(x.Prefix, x.Why)
	}
	p, err := b.Build()
	return p, warnings, err
}
