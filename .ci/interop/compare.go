package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"example.org/threatstopd/.ci/nameserver"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
)

// origin is the zone that all of them serve.
const origin = "policy.example"

// Patience with a server that reads its zone, and with one that finds its zone
// impossible, or small.
const (
	startPatience = 5 * time.Minute // nsd parses 41,000 long lines; the machine may be busy
	overPatience  = 5 * time.Second
)

// trial is a list to fetch.
type trial struct {
	what  string
	list  dnstest.List
	empty bool // the list has no entries, and says so
	size  int  // bytes of its one answer, for the search for the longest; 0 is no part of it
	over  bool // its answer is longer than any message: fetching it must fail
}

const (
	minimum = 60_000 // bytes that every server's longest answer reaches

	overName = "over." + origin
	overSize = 80_000 // more or less
)

// sets are the entries that the lists are made of.
type sets struct {
	mixed, large, hosts, big []dnstest.Entry
}

// made makes the sets, the same each time.
var made = sync.OnceValue(func() sets {
	r := rand.New(rand.NewPCG(26424, 3))
	s := sets{mixed: random(r, 26_424, false), large: random(r, 120_000, false), hosts: random(r, 13_000, true)}
	// Hosts whose last octet counts: each of them is an item of 8 bytes.
	for i := uint32(0); len(s.big) < 40_000; i++ {
		if a := 0x64400000 + 3*i; byte(a) != 0 {
			s.big = append(s.big, host4(a))
		}
	}
	return s
})

func host4(a uint32) dnstest.Entry {
	return dnstest.Entry{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, a))), 32)}
}

// siblings continue basic.policy.example in the A and AAAA layout.
var siblings = []string{"basic1", "basic2", "basic3", "basic4"}

// trials returns the lists of a server that takes so many items in an APL
// record.
func trials(items int) ([]trial, error) {
	s := made()
	few := s.mixed[:3]
	name := func(label string) string { return label + "." + origin }
	short := ""
	if items > 0 {
		short = fmt.Sprintf(", records of %d", items)
	}
	ts := []trial{
		{what: "parts" + short, list: dnstest.List{Name: name("mixed"), Entries: s.mixed, ItemsPerRecord: items}},
		{what: "parts, few entries", list: dnstest.List{Name: name("few"), Entries: few, ItemsPerRecord: items}},
		{what: "parts, large" + short, list: dnstest.List{Name: name("large"), Entries: s.large, ItemsPerRecord: items}},
		{what: "parts of 60 KiB" + short, list: dnstest.List{Name: name("big"), Entries: s.big, PartSize: 7500, ItemsPerRecord: items}},
		{what: "apl, few entries", list: dnstest.List{Name: name("fewapl"), Entries: few, Layout: dnsfetch.LayoutAPL}},
		{what: "apl, no entries", list: dnstest.List{Name: name("none"), Layout: dnsfetch.LayoutAPL}, empty: true},
		{what: "apl" + short, list: dnstest.List{Name: name("apl"), Entries: s.mixed[:5000], Layout: dnsfetch.LayoutAPL, ItemsPerRecord: items}},
		{what: "addresses, few", list: dnstest.List{Name: name("addr"), Entries: s.hosts[:3], Layout: dnsfetch.LayoutAddresses}},
		{what: "addresses, siblings", list: dnstest.List{Name: name("basic"), Entries: s.hosts, Layout: dnsfetch.LayoutAddresses,
			PartSize: 2300, Siblings: siblings}},
	}
	for _, size := range []int{65535, 65534, 65500, 65000, 64000, 62000, minimum} {
		l := dnstest.List{Name: name(fmt.Sprintf("apl%d", size)), Layout: dnsfetch.LayoutAPL, ItemsPerRecord: items}
		var err error
		if l.Entries, err = dnstest.Fill(l.Name, size, items); err != nil {
			return nil, err
		}
		ts = append(ts, trial{what: "apl, longest answer" + short, list: l, size: size})
	}
	for _, size := range []int{65535, 65500, 65000, 64000, 62000, minimum} {
		// An A record takes 16 bytes: the longest answers are a little shorter.
		l := dnstest.List{Name: name(fmt.Sprintf("a%d", size)), Layout: dnsfetch.LayoutAddresses}
		n := (size - 12 - len(l.Name) - 2 - 4) / 16
		for i := range n {
			l.Entries = append(l.Entries, host4(0xc6120000+uint32(i)))
		}
		l.PartSize = n
		ts = append(ts, trial{what: "addresses, longest answer", list: l, size: 12 + len(l.Name) + 2 + 4 + 16*n})
	}
	// Records that no one answer holds, at one name: fetching them must fail.
	for i, label := range []string{"over-a", "over-b"} {
		l := dnstest.List{Name: name(label), Layout: dnsfetch.LayoutAPL, ItemsPerRecord: 64}
		n := overSize / 2 / 8
		l.Entries = s.big[i*n : (i+1)*n]
		ts = append(ts, trial{what: "apl, too long", list: l, over: true})
	}
	return ts, nil
}

// random returns n different entries, of both families, some of them negated,
// or else hosts.
func random(r *rand.Rand, n int, hosts bool) []dnstest.Entry {
	seen := make(map[netip.Prefix]bool, n)
	out := make([]dnstest.Entry, 0, n)
	for len(out) < n {
		var p netip.Prefix
		if r.IntN(4) > 0 {
			bits := 32
			if !hosts && r.IntN(3) == 0 {
				bits = 8 + r.IntN(25)
			}
			a := binary.BigEndian.AppendUint32(nil, r.Uint32())
			p = netip.PrefixFrom(netip.AddrFrom4([4]byte(a)), bits).Masked()
		} else {
			bits := 128
			if !hosts {
				bits = 16 + r.IntN(113)
			}
			a := binary.BigEndian.AppendUint64(nil, 0x20010db8<<32|uint64(r.Uint32()))
			a = binary.BigEndian.AppendUint64(a, r.Uint64())
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte(a)), bits).Masked()
		}
		if !seen[p] {
			seen[p] = true
			out = append(out, dnstest.Entry{Prefix: p, Not: !hosts && r.IntN(20) == 0})
		}
	}
	return out
}

// writeZone writes the lists of all trials as a zone file.
func writeZone(path string, ts []trial) error {
	lists := make([]dnstest.List, len(ts))
	for i := range ts {
		lists[i] = ts[i].list
	}
	var b bytes.Buffer
	if err := dnstest.WriteZone(&b, origin, 1, lists...); err != nil {
		return err
	}
	text := b.Bytes()
	for i := range ts {
		if ts[i].over {
			text = bytes.ReplaceAll(text, []byte("\n"+ts[i].list.Name+"."), []byte("\n"+overName+"."))
		}
	}
	return os.WriteFile(path, text, 0o644)
}

// outcome is what came of a trial.
type outcome struct {
	layout  string
	entries int
	bytes   int64
	elapsed time.Duration
	err     error // nil: the same set
}

// try fetches a trial's list and compares it.
func try(ctx context.Context, c *dnsfetch.Client, t trial) outcome {
	name := t.list.Name
	if t.over {
		name = overName
	}
	begin := time.Now()
	l, err := c.Fetch(ctx, dnsfetch.Request{Name: name, AllowEmpty: t.empty})
	o := outcome{layout: t.list.Layout.String(), elapsed: time.Since(begin), err: err}
	if t.list.Layout == 0 {
		o.layout = dnsfetch.LayoutParts.String()
	}
	if err != nil {
		return o
	}
	o.entries, o.bytes = l.Len(), l.Bytes
	got := make([]dnstest.Entry, 0, o.entries)
	for prefix, not := range l.All() {
		got = append(got, dnstest.Entry{Prefix: prefix, Not: not})
	}
	o.err = differ(got, t.list.Entries)
	if o.err == nil && l.Layout.String() != o.layout {
		o.err = fmt.Errorf("fetched as %s", l.Layout)
	}
	return o
}

// differ compares what was fetched with what was served, as sets: name servers
// keep the records of a name in an order of their own.
func differ(got, want []dnstest.Entry) error {
	order := func(a, b dnstest.Entry) int {
		switch {
		case a.Prefix != b.Prefix:
			if c := a.Prefix.Addr().Compare(b.Prefix.Addr()); c != 0 {
				return c
			}
			return a.Prefix.Bits() - b.Prefix.Bits()
		case a.Not == b.Not:
			return 0
		case b.Not:
			return -1
		}
		return 1
	}
	got, want = slices.Clone(got), slices.Clone(want)
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Errorf("%d entries, not %d; first difference: %v, not %v", len(got), len(want), got[i], want[i])
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d entries, not %d", len(got), len(want))
	}
	return nil
}

// report is the table that is printed.
type report struct {
	w      *tabwriter.Writer
	counts map[string]int // rows by result
}

func newReport(w io.Writer) *report {
	return &report{w: tabwriter.NewWriter(w, 0, 8, 2, ' ', 0), counts: make(map[string]int)}
}

// Results of a fetch.
const (
	same   = "same"   // the set that was served
	none   = "none"   // an error, and nothing that could be taken for a list, where that is right
	failed = "FAILED" // anything else
)

// row prints a row: its cells, the result, and a note on it.
func (r *report) row(result, note string, cells ...any) {
	r.counts[result]++
	for _, c := range cells {
		fmt.Fprintf(r.w, "%v\t", c)
	}
	if note != "" {
		result += ": " + note
	}
	fmt.Fprintf(r.w, "%s\n", result)
}

// compare runs each server in turn over its lists, our own first, and then the relays.
func compare(ctx context.Context, dir string, chosen, between []*nameserver.Server, w io.Writer) (bool, error) {
	rep := newReport(w)
	fmt.Fprintln(rep.w, "SERVER\tVERSION\tLIST\tLAYOUT\tENTRIES\tBYTES\tMS\tRESULT")
	err := own(ctx, rep)
	for _, s := range chosen {
		if err != nil || ctx.Err() != nil {
			break
		}
		home := filepath.Join(dir, s.Name)
		if err = os.Mkdir(home, 0o755); err == nil {
			err = compareServer(ctx, s, home, rep)
		}
	}
	if err == nil && ctx.Err() == nil {
		err = relays(ctx, dir, between, chosen, rep)
	}
	rep.w.Flush()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return false, err
	}
	fmt.Fprintf(w, "%d name servers, our own, and %d relays: %d fetches gave the set that was served, %d of lists that a server cannot serve gave none, %d failed\n",
		len(chosen), len(between), rep.counts[same], rep.counts[none], rep.counts[failed])
	return rep.counts[failed] == 0, nil
}

// own serves the lists with dnstest.
func own(ctx context.Context, rep *report) error {
	ts, err := trials(0)
	if err != nil {
		return err
	}
	ts = slices.DeleteFunc(ts, func(t trial) bool { return t.over })
	srv, err := dnstest.Start(dnstest.Options{Zone: origin})
	if err != nil {
		return err
	}
	defer srv.Close()
	for _, t := range ts {
		if err := srv.Set(t.list); err != nil {
			return err
		}
	}
	return walk(ctx, &nameserver.Server{Name: "dnstest"}, "-", srv.Addr(), ts, rep)
}

// compareServer serves the lists with the server: in records as short as it needs
// them, and else in records of 64 items, too, as zones for all servers have
// them. What no answer holds has a zone of its own, since some servers do not
// load it.
func compareServer(ctx context.Context, s *nameserver.Server, dir string, rep *report) error {
	version := s.Version(ctx)
	small, err := trials(64)
	if err != nil {
		return err
	}
	tooLong := func(t trial) bool { return t.over }
	over := slices.DeleteFunc(slices.Clone(small), func(t trial) bool { return !t.over })
	small = slices.DeleteFunc(small, tooLong)
	if err := serve(ctx, s, filepath.Join(dir, "64"), version, small, rep); err != nil {
		return err
	}
	if s.Items == 0 {
		whole, err := trials(0)
		if err != nil {
			return err
		}
		whole = slices.DeleteFunc(whole, func(t trial) bool {
			return t.over || t.list.Layout == dnsfetch.LayoutAddresses || len(t.list.Entries) <= 3
		})
		if err := serve(ctx, s, filepath.Join(dir, "whole"), version, whole, rep); err != nil {
			return err
		}
	}
	err = serve(ctx, s, filepath.Join(dir, "over"), version, over, rep)
	if errors.Is(err, nameserver.ErrNotReady) {
		rep.row(none, "the server does not load the zone", s.Name, version, over[0].what, over[0].list.Layout, "-", "-", "-")
		return nil
	}
	return err
}

// serve runs the server on a zone of the trials' lists and fetches them.
func serve(ctx context.Context, s *nameserver.Server, dir, version string, ts []trial, rep *report) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := writeZone(filepath.Join(dir, nameserver.ZoneFile), ts); err != nil {
		return err
	}
	patience := startPatience
	if ts[0].over {
		patience = overPatience
	}
	p, err := s.Start(ctx, dir, origin, patience)
	if err != nil {
		return err
	}
	defer p.Stop()
	return walk(ctx, s, version, p.Addr, ts, rep)
}

// walk fetches every list from a server.
func walk(ctx context.Context, s *nameserver.Server, version, addr string, ts []trial, rep *report) error {
	c, err := dnsfetch.New(dnsfetch.Options{Servers: []string{addr}, Siblings: siblings})
	if err != nil {
		return err
	}
	found := make(map[string]bool) // searches that have ended
	var tooLong []string           // what became of longer answers
	for _, t := range ts {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if found[t.what] {
			continue
		}
		found[t.what] = t.over || t.size > 0
		o := try(ctx, c, t)
		result, note := same, ""
		var fetched *dnsfetch.Error
		switch {
		case errors.As(o.err, &fetched):
			result, note = failed, reason(o.err)
			if t.over || t.empty && s.NoEmpty && errors.Is(o.err, dnsfetch.ErrServFail) {
				result = none
			}
		case o.err != nil:
			result, note = failed, o.err.Error()
		}
		if t.size > 0 {
			// The longest answer that the server gives is searched for from
			// above; an error, but nothing else, means a shorter one.
			if fetched != nil && t.size > minimum {
				tooLong = append(tooLong, fmt.Sprintf("%d %s", t.size, note))
				found[t.what] = false
				continue
			}
			if result == same {
				note = fmt.Sprintf("answer of %d bytes", t.size)
			}
			if len(tooLong) > 0 {
				note += " (" + strings.Join(tooLong, ", ") + ")"
			}
			tooLong = nil
		}
		rep.row(result, note, s.Name, version, t.what, o.layout, o.entries, o.bytes,
			fmt.Sprintf("%.1f", float64(o.elapsed)/float64(time.Millisecond)))
	}
	return nil
}

// reason returns an error of dnsfetch without the list and the server, which
// stand beside it in the table, and without advice.
func reason(err error) string {
	for _, e := range []error{dnsfetch.ErrTruncated, dnsfetch.ErrServFail, dnsfetch.ErrNoRecords, dnsfetch.ErrTimeout, dnsfetch.ErrCut, dnsfetch.ErrRefused} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	return err.Error()
}
