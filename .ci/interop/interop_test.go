package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"example.org/threatstopd/.ci/nameserver"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
)

// Our own server is held to what the others are, with no name server installed.
func TestOwnServer(t *testing.T) {
	var out bytes.Buffer
	ok, err := compare(context.Background(), t.TempDir(), nil, nil, &out)
	if err != nil || !ok {
		t.Errorf("%v\n%s", err, &out)
	}
	for _, want := range []string{"PTR+APL  26424 ", "PTR+APL  120000 ", "A+AAAA   13000 ", "answer of 65535 bytes", " 0 failed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

// The zones are such that a zone parser takes them, and have the records of all
// lists.
func TestZones(t *testing.T) {
	for _, items := range []int{0, 64} {
		ts, err := trials(items)
		if err != nil {
			t.Fatal(err)
		}
		ts = slices.DeleteFunc(ts, func(tr trial) bool { return len(tr.list.Entries) > 100_000 }) // nothing new in them
		path := filepath.Join(t.TempDir(), "zone")
		if err := writeZone(path, ts); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		zp := dns.NewZoneParser(f, "", path)
		total, most, over, longest := 0, 0, 0, 0
		for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
			apl, ok := rr.(*dns.APL)
			if !ok {
				continue
			}
			total += len(apl.Prefixes)
			if apl.Hdr.Name == overName+"." {
				over += dns.Len(apl)
			} else {
				most = max(most, len(apl.Prefixes))
			}
			longest = max(longest, dns.Len(apl))
		}
		if err := zp.Err(); err != nil {
			t.Fatal(err)
		}
		want := 0
		for _, tr := range ts {
			if tr.list.Layout != dnsfetch.LayoutAddresses {
				want += len(tr.list.Entries)
			}
		}
		if total != want {
			t.Errorf("records of %d items: %d entries, not %d", items, total, want)
		}
		if items > 0 && most > items {
			t.Errorf("a record of %d items", most)
		}
		if items == 0 && longest < 65_000 {
			t.Errorf("the longest record has %d bytes", longest)
		}
		if over < 70_000 {
			t.Errorf("what is too long has only %d bytes", over)
		}
	}
}

func TestDiffer(t *testing.T) {
	es := func(texts ...string) (out []dnstest.Entry) {
		for _, s := range texts {
			not := strings.HasPrefix(s, "!")
			out = append(out, dnstest.Entry{Prefix: netip.MustParsePrefix(strings.TrimPrefix(s, "!")), Not: not})
		}
		return out
	}
	tests := []struct {
		name      string
		got, want []dnstest.Entry
		same      bool
	}{
		{"nothing", nil, nil, true},
		{"another order", es("10.0.0.0/8", "!10.0.0.0/8", "::/0"), es("::/0", "!10.0.0.0/8", "10.0.0.0/8"), true},
		{"one more", es("10.0.0.0/8", "::/0"), es("10.0.0.0/8"), false},
		{"one less", es("10.0.0.0/8"), es("10.0.0.0/8", "::/0"), false},
		{"one twice", es("::/0", "::/0"), es("::/0"), false},
		{"a lost negation", es("10.0.0.0/8"), es("!10.0.0.0/8"), false},
		{"another length", es("10.0.0.0/8"), es("10.0.0.0/9"), false},
		{"another address", es("10.0.0.0/8"), es("11.0.0.0/8"), false},
	}
	for _, tt := range tests {
		if err := differ(tt.got, tt.want); (err == nil) != tt.same {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// A list that a server changes, loses or answers with an error is reported.
func TestFailuresShow(t *testing.T) {
	tests := []struct {
		name  string
		fault dnstest.Fault
		want  string
	}{
		{"turned over", dnstest.Negated{}, "FAILED: 3 entries, not 3; first difference"},
		{"no records", dnstest.NoRecords{}, "FAILED: no records"},
		{"refused", dnstest.Refused, "FAILED: query refused"},
	}
	for _, tt := range tests {
		srv, err := dnstest.Start(dnstest.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer srv.Close()
		ts, err := trials(0)
		if err != nil {
			t.Fatal(err)
		}
		few := ts[1:2]
		if err := srv.Set(few[0].list); err != nil {
			t.Fatal(err)
		}
		srv.Fail(dnstest.On{}, tt.fault)
		var out bytes.Buffer
		rep := newReport(&out)
		if err := walk(context.Background(), &nameserver.Server{Name: "x"}, "1", srv.Addr(), few, rep); err != nil {
			t.Fatal(err)
		}
		rep.w.Flush()
		if rep.counts[failed] != 1 || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%s: no %q in\n%s", tt.name, tt.want, &out)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	for _, args := range [][]string{{"--server", "x"}, {"x"}, {"--x"}} {
		if code := run(context.Background(), args); code != 2 {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
	if code := run(context.Background(), []string{"--help"}); code != 0 {
		t.Errorf("help: exit code %d", code)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if ok, err := compare(ctx, t.TempDir(), nil, nil, new(bytes.Buffer)); ok || !errors.Is(err, context.Canceled) {
		t.Error(fmt.Sprint(ok, err))
	}
}

// The manual's unbound.conf is the one that lists are fetched through, up to addresses and names.
func TestRelayIsTheManuals(t *testing.T) {
	manual, err := os.ReadFile("../../install/threatstopd.8")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(manual), ".Sh RELAYS\n")
	_, example, _ = strings.Cut(example, "\nserver:\n")
	example, _, ok := strings.Cut(example, "\n.Ed\n")
	if !ok {
		t.Fatal("the manual has no example")
	}
	used := nameserver.Relays[0].Config(origin, t.TempDir(), "192.0.2.1:53")
	for line := range strings.Lines(example) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "interface", "access-control", "forward-addr":
			value = ""
		case "domain-insecure", "name":
			value = fmt.Sprintf("%q", origin)
		}
		if want := strings.TrimSpace(strings.TrimSuffix(key, ":") + ": " + value); !strings.Contains(used, "\t"+want) && !strings.Contains(used, "\n"+want) {
			t.Errorf("the manual has %q, which is not tried:\n%s", want, used)
		}
	}
}
