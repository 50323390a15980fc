package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"example.org/threatstopd/agent/internal/fetch"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/rules"
	"example.org/threatstopd/agent/internal/sources"
	"example.org/threatstopd/dnsfetch"
)

// servers asks each policy server: whether it can be reached, and whether it gives the lists. All of them come
// from the first that does, the others are asked for one.
func (t *tester) servers(ctx context.Context) {
	var lists *sources.Sources
	for _, server := range t.Fetch.Servers {
		if ctx.Err() != nil {
			return
		}
		if got := t.ask(ctx, server, lists != nil); lists == nil {
			lists = got
		}
		if t.noSource {
			t.say(rules.Fail, []string{"change or remove it in " + t.File}, "%v: the policy cannot be updated", fetch.SourceError{Addr: t.Fetch.Source})
			return
		}
	}
	if lists == nil {
		do := "see the lines above"
		if t.refused {
			do = "a new device takes 15 minutes to an hour until the servers know it; they know it by its public address"
		}
		t.say(rules.Fail, []string{do}, "no policy server gives all lists: the policy cannot be updated")
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
	for _, u := range t.unseen {
		t.say(rules.Warn, []string{"name the resolvers that are missed in NEVER_BLOCK"}, "resolvers: %s", u)
	}
	lists.Names(ctx, fetcher{lookup: t.Lookup})
	never, warnings := lists.Facts(host)
	for _, w := range warnings {
		t.say(rules.Warn, []string{"check the name, and the resolver (/etc/resolv.conf)"}, "policy: %s", w)
	}
	p, err := policy.Build(lists.Inputs(), policy.Exceptions(never), t.Policy)
	if err != nil {
		t.fail("policy", err)
		return
	}
	if t.policy = p; p.Block.Len() == 0 {
		t.say(rules.Fail, []string{"look at BLOCK_LISTS in " + t.File}, "policy: it blocks nothing: an empty table is not enforced")
		return
	}
	t.ok("policy: %s to block, %d to allow", entryCount(p.Block.Len()), p.Allow.Len())
}

// serverLevel is how bad it is that one server does not work: not much, where there are others.
func (t *tester) serverLevel() rules.Level {
	if len(t.Fetch.Servers) > 1 {
		return rules.Warn
	}
	return rules.Fail
}

// reason leaves out of a network error what was reported already.
func reason(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	return err
}

// ask fetches all lists from a server, or with one just the first block list, and returns them if all
// have come, do not exist or are empty.
func (t *tester) ask(ctx context.Context, server string, one bool) *sources.Sources {
	o, want := t.Fetch, t.Sources
	o.Servers = []string{server}
	client, err := dnsfetch.New(o)
	if err != nil {
		t.fail("policy server "+server, err)
		return nil
	}
	if one {
		want.Allow, want.Block = nil, want.Block[:1]
	}
	src := sources.New(want)
	for _, l := range src.Lists() {
		got, err := client.Fetch(ctx, dnsfetch.Request{Name: l.Name, AllowEmpty: l.Kind == policy.Allow})
		src.Take(sources.Result{Kind: l.Kind, Name: l.Name, List: got, Err: err}, t.Now())
		if l.Err == nil {
			text := fmt.Sprintf("%s: %s in %s (%s), %d bytes from %s in %v", l.Key(), entryCount(l.Len()),
				count(l.Parts, "part", "parts"), l.Layout, l.Bytes, l.Server, l.Elapsed.Round(time.Millisecond))
			for _, f := range l.Failed {
				text += "; " + f.Reason()
			}
			t.ok("%s", text)
			continue
		}
		e := (*dnsfetch.Error)(nil)
		if t.noSource = errors.As(err, &e) && e.Kind == dnsfetch.KindSource; t.noSource {
			return nil
		}
		do, all := "look at the name in "+t.File+": it must be as the service gives it", false
		switch {
		case errors.Is(err, dnsfetch.ErrEmpty):
			do = "the others are enforced; take it out of " + t.File + " if the service does not fill it any more"
		case errors.Is(err, dnsfetch.ErrRefused):
			do, all, t.refused = "the servers do not know this host's public address, or not yet", true, true
		case errors.Is(err, dnsfetch.ErrLookup):
			do, all = "give its address in DNS_SERVERS, or look at the resolver (/etc/resolv.conf)", true
		case e != nil && e.Kind == dnsfetch.KindUnreached:
			do, all = "let TCP to ports 53 and 5353 of it out, here and at any firewall on the way", true
		}
		t.say(t.serverLevel(), []string{do}, "policy server %s: %v", server, err)
		if all || ctx.Err() != nil {
			return nil // the other lists would fail, too
		}
	}
	if src.Failed() {
		return nil
	}
	return src
}
