package dnsfetch_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
)

// serverOnly, in the environment, makes the test binary a policy server with a list of this
// layout and that many entries ("parts 26424"), so that benchmarks measure the client
// alone.
const serverOnly = "DNSFETCH_TEST_SERVE"

var benchLayouts = map[string]dnsfetch.Layout{
	"parts": dnsfetch.LayoutParts,
	"APL":   dnsfetch.LayoutAPL,
	"A":     dnsfetch.LayoutAddresses,
}

func TestMain(m *testing.M) {
	var layout string
	var n int
	if _, err := fmt.Sscan(os.Getenv(serverOnly), &layout, &n); err != nil {
		os.Exit(m.Run())
	}
	s, err := dnstest.Start(dnstest.Options{})
	if err == nil {
		err = s.Set(benchList(layout, n))
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.Addr())
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// benchList is a list of n entries: networks and hosts, or with layout A hosts.
func benchList(layout string, n int) dnstest.List {
	l := dnstest.List{Name: name, Layout: benchLayouts[layout], Entries: prefixes(n), Siblings: benchSiblings(n)}
	if layout == "A" {
		for i := range l.Entries {
			p := &l.Entries[i].Prefix
			*p, _ = p.Addr().Prefix(32)
		}
	}
	return l
}

// benchSiblings are the names that n addresses need beside the list's own.
func benchSiblings(n int) []string {
	var siblings []string
	for i := range n / 4000 {
		siblings = append(siblings, fmt.Sprintf("block%d", i+2))
	}
	return siblings
}

// serve starts a policy server in a process of its own, and returns its address.
func serve(b *testing.B, layout string, n int) string {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", serverOnly, layout, n))
	stop, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stop.Close()
		cmd.Wait()
	})
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(addr)
}

// BenchmarkFetch fetches from another process; cpu-ms/op is what that costs this one. One answer
// has room for some 8,000 items, which is all that a list can have in layout APL.
func BenchmarkFetch(b *testing.B) {
	for _, c := range []struct {
		layout, size string
		n            int
	}{
		{"A", "26k", 26_424}, {"A", "120k", 120_430}, {"A", "1M", 1_000_000},
		{"APL", "8k", 8_000},
		{"parts", "26k", 26_424}, {"parts", "120k", 120_430}, {"parts", "1M", 1_000_000},
	} {
		b.Run(c.layout+"/"+c.size, func(b *testing.B) {
			o := dnsfetch.Options{Servers: []string{serve(b, c.layout, c.n)}}
			if c.layout == "A" {
				o.Siblings = benchSiblings(c.n)
			}
			client := newClient(b, o)
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				l, err := client.Fetch(b.Context(), dnsfetch.Request{Name: name})
				if err != nil || l.Len() != c.n || l.Layout != benchLayouts[c.layout] {
					b.Fatalf("got %v, error %v", l, err)
				}
				b.SetBytes(l.Bytes)
			}
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1e3/float64(b.N), "cpu-ms/op")
			perSecond(b, c.n)
		})
	}
}

// BenchmarkList ranges over a fetched list.
func BenchmarkList(b *testing.B) {
	const n = 120_430
	s := start(b, dnstest.List{Name: name, Entries: prefixes(n)})
	l, err := newClient(b, dnsfetch.Options{Servers: []string{s.Addr()}}).Fetch(b.Context(), dnsfetch.Request{Name: name})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("all/120k", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			got := 0
			for _, e := range slices.Concat(l.Chunks...) {
				if e.Bits > 8 && !e.Not {
					got++
				}
			}
			if got != n {
				b.Fatal(got)
			}
		}
		perSecond(b, n)
	})
}

func perSecond(b *testing.B, n int) {
	b.ReportMetric(float64(b.N)*float64(n)/b.Elapsed().Seconds(), "entries/s")
}
