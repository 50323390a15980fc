package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"example.org/threatstopd/.ci/nameserver"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
)

// A site with many firewalls asks the policy servers through a relay: a server that forwards questions and keeps
// the answers for as long as their TTL says. Each relay has our own server behind it, and then BIND; every list is
// fetched twice, so that the second time the answers come from its memory.
func relays(ctx context.Context, dir string, all []*nameserver.Server, upstreams []*nameserver.Server, rep *report) error {
	for _, r := range all {
		ts, err := relayTrials()
		if err != nil {
			return err
		}
		srv, err := dnstest.Start(dnstest.Options{Zone: origin})
		if err != nil {
			return err
		}
		for _, t := range ts {
			if err = srv.Set(t.list); err != nil {
				break
			}
		}
		if err == nil {
			err = relay(ctx, r, "dnstest", srv.Addr(), filepath.Join(dir, r.Name), ts, rep)
		}
		srv.Close()
		if err == nil && r.Name == "unbound" {
			err = relayOptions(ctx, r, filepath.Join(dir, r.Name+"-options"), rep)
		}
		if err == nil {
			err = relayFaults(ctx, r, filepath.Join(dir, r.Name+"-faults"), rep)
		}
		for _, s := range upstreams {
			if err == nil && s.Name == "bind9" {
				err = relayOf(ctx, r, s, filepath.Join(dir, r.Name+"-"+s.Name), ts, rep)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.Name, err)
		}
	}
	return nil
}

// relayTrials returns lists in every layout, of usual lengths, and two that are as large as they become.
func relayTrials() ([]trial, error) {
	ts, err := trials(64)
	if err != nil {
		return nil, err
	}
	ts = slices.DeleteFunc(ts, func(t trial) bool { return t.over || t.size > 0 })
	r := rand.New(rand.NewPCG(1_000_000, 3))
	for _, n := range []int{120_430, 1_000_000} {
		ts = append(ts, trial{what: fmt.Sprintf("parts, %d entries", n),
			list: dnstest.List{Name: fmt.Sprintf("n%d.%s", n, origin), Entries: random(r, n, false), ItemsPerRecord: 64, PartSize: 4000}})
	}
	return ts, nil
}

// relayOf is relay with another name server behind it.
func relayOf(ctx context.Context, r, s *nameserver.Server, dir string, ts []trial, rep *report) error {
	home := filepath.Join(dir, "upstream")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	if err := writeZone(filepath.Join(home, nameserver.ZoneFile), ts); err != nil {
		return err
	}
	p, err := s.Start(ctx, home, origin, startPatience)
	if err != nil {
		return err
	}
	defer p.Stop()
	return relay(ctx, r, s.Name, p.Addr, filepath.Join(dir, "relay"), ts, rep)
}

// relay fetches every list through a relay, which knows none at first, and then knows all.
func relay(ctx context.Context, r *nameserver.Server, behind, upstream, dir string, ts []trial, rep *report) error {
	p, err := startRelay(ctx, r.Behind(upstream, ""), dir)
	if err != nil {
		return err
	}
	defer p.Stop()
	for _, state := range []string{"cold", "warm"} {
		shown := &nameserver.Server{Name: fmt.Sprintf("%s>%s", r.Name, behind)}
		if err := walk(ctx, shown, r.Version(ctx)+" "+state, p.Addr, ts, rep); err != nil {
			return err
		}
	}
	return nil
}

func startRelay(ctx context.Context, r *nameserver.Server, dir string) (*nameserver.Process, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return r.Start(ctx, dir, origin, startPatience)
}

// relayOptions are options of unbound(8) that an owner may have set, and what becomes of lists under them.
func relayOptions(ctx context.Context, r *nameserver.Server, dir string, rep *report) error {
	srv, err := dnstest.Start(dnstest.Options{Zone: origin})
	if err != nil {
		return err
	}
	defer srv.Close()
	s := made()
	private := dnstest.List{Name: "private." + origin, Layout: dnsfetch.LayoutAddresses, Entries: slices.Concat(s.hosts[:20], s.big[:20])}
	ts := []trial{
		{what: "parts", list: dnstest.List{Name: "mixed." + origin, Entries: s.mixed[:5000]}},
		{what: "apl of 40 KiB", list: dnstest.List{Name: "apl." + origin, Entries: s.big[:5000], Layout: dnsfetch.LayoutAPL}},
		{what: "addresses", list: private},
	}
	for _, t := range ts {
		if err := srv.Set(t.list); err != nil {
			return err
		}
	}
	for i, o := range []struct {
		options string
		wrong   string // the list that does not come whole
	}{
		{"deny-any: yes", ""},
		{"minimal-responses: no", ""},
		{"prefetch: yes", ""},
		{"harden-short-bufsize: yes\n\tharden-large-queries: yes\n\tharden-glue: yes\n\tharden-below-nxdomain: yes\n\tharden-algo-downgrade: yes", ""},
		{"msg-buffer-size: 16384", "apl of 40 KiB"},     // an error: SERVFAIL
		{"private-address: 100.64.0.0/10", "addresses"}, // records are taken out, which nobody can see
	} {
		p, err := startRelay(ctx, r.Behind(srv.Addr(), "\t"+o.options+"\n"), filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			return err
		}
		c, err := dnsfetch.New(dnsfetch.Options{Servers: []string{p.Addr}})
		if err != nil {
			p.Stop()
			return err
		}
		first, _, _ := strings.Cut(o.options, "\n")
		for _, t := range ts {
			got := try(ctx, c, t)
			result, note := same, ""
			switch {
			case got.err != nil && t.what == o.wrong:
				result, note = none, got.err.Error()
			case got.err != nil:
				result, note = failed, got.err.Error()
			case t.what == o.wrong:
				result, note = failed, "it came whole: the manual says otherwise"
			}
			rep.row(result, note, r.Name, first, t.what, got.layout, got.entries, got.bytes, fmt.Sprintf("%.1f", float64(got.elapsed)/float64(time.Millisecond)))
		}
		p.Stop()
	}
	return nil
}

// relayFaults are what a relay adds to what can go wrong.
func relayFaults(ctx context.Context, r *nameserver.Server, dir string, rep *report) error {
	srv, err := dnstest.Start(dnstest.Options{Zone: origin})
	if err != nil {
		return err
	}
	defer srv.Close()
	s := made()
	list := dnstest.List{Name: "list." + origin, Entries: s.mixed[:9000], TTL: 2}
	if err := srv.Set(list); err != nil {
		return err
	}
	p, err := startRelay(ctx, r.Behind(srv.Addr(), ""), dir)
	if err != nil {
		return err
	}
	defer p.Stop()
	c, err := dnsfetch.New(dnsfetch.Options{Servers: []string{p.Addr}, Timeout: 5 * time.Second})
	if err != nil {
		return err
	}
	row := func(what string, o outcome, result, note string) {
		rep.row(result, note, r.Name, r.Version(ctx), what, o.layout, o.entries, o.bytes, fmt.Sprintf("%.1f", float64(o.elapsed)/float64(time.Millisecond)))
	}
	judge := func(what string, o outcome) {
		if o.err != nil {
			row(what, o, failed, o.err.Error())
			return
		}
		row(what, o, same, "")
	}

	// A list that no server has: without AA, which a cache does not set, it has failed, and is not absent.
	o := try(ctx, c, trial{list: dnstest.List{Name: "nowhere." + origin}})
	var e *dnsfetch.Error
	switch authority := r.Name == "dnsdist"; { // which passes answers on as they are
	case !errors.As(o.err, &e):
		row("no such list", o, failed, "no error")
	case (e.Kind == dnsfetch.KindNXDomain) != authority:
		row("no such list", o, failed, fmt.Sprintf("kind %d: %v", e.Kind, o.err))
	default:
		row("no such list", o, none, reason(o.err))
	}

	// The server behind it fails, and recovers: relays remember failures for some seconds.
	srv.Fail(dnstest.On{}, dnstest.ServFail)
	o = try(ctx, c, trial{list: list})
	if o.err == nil || errors.As(o.err, &e) && e.Kind == dnsfetch.KindNXDomain {
		row("SERVFAIL behind it", o, failed, fmt.Sprint(o.err))
	} else {
		row("SERVFAIL behind it", o, none, reason(o.err))
	}
	srv.Heal()
	for range 20 {
		if o = try(ctx, c, trial{list: list}); o.err == nil {
			break
		}
		time.Sleep(time.Second)
	}
	judge("and when it has recovered", o)

	// The list changes while parts of it are in the relay's memory: what comes is the list before or the one
	// after, or an error; and once the TTL is over, the one after.
	for _, change := range []struct {
		what string
		next []dnstest.Entry
	}{{"fewer parts, some expired", s.mixed[9000:13000]}, {"more parts, some expired", s.mixed[13000:]}} {
		before := list
		list.Entries = change.next
		list.TTL = 2
		if o = try(ctx, c, trial{list: before}); o.err != nil {
			judge(change.what, o)
			continue
		}
		time.Sleep(1500 * time.Millisecond)
		if err := srv.Set(list); err != nil {
			return err
		}
		mixed := 0
		for began := time.Now(); ; {
			got, err := c.Fetch(ctx, dnsfetch.Request{Name: list.Name})
			var entries []dnstest.Entry
			if err == nil {
				for prefix, not := range got.All() {
					entries = append(entries, dnstest.Entry{Prefix: prefix, Not: not})
				}
			}
			if err == nil && differ(entries, list.Entries) == nil {
				break
			}
			if err == nil && differ(entries, before.Entries) != nil {
				mixed++
			}
			if time.Since(began) > 10*time.Second {
				return fmt.Errorf("%s: still not the new list: %v", change.what, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		judge(change.what, try(ctx, c, trial{list: list}))
		if mixed > 0 {
			row(change.what, o, failed, fmt.Sprintf("%d times parts of both", mixed))
		}
	}
	return nil
}
