package sources_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// benchList is the list that these tests and benchmarks fetch, benchTable
// where they put it.
const benchList = "block.bench.threatstop.local"

var benchTable = pfioctl.Table{Name: "ThreatSTOP-Block"}

// serveEnv, in the environment, makes the test binary a policy server with
// that many entries, so that what is measured is the agent's part alone.
const serveEnv = "SOURCES_TEST_SERVE"

func init() {
	n, err := strconv.Atoi(os.Getenv(serveEnv))
	if err != nil {
		return
	}
	s, err := dnstest.Start(dnstest.Options{})
	if err == nil {
		err = s.Set(dnstest.List{Name: benchList, Entries: entries(n, 0)})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.Addr())
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// serve starts a policy server with n entries in a process of its own, and
// returns its address.
func serve(tb testing.TB, n int) string {
	tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), serveEnv+"="+strconv.Itoa(n))
	stop, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		stop.Close()
		cmd.Wait()
	})
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		tb.Fatal(err)
	}
	return strings.TrimSpace(addr)
}

// entries returns n different entries in no order, from number first on: of
// each twenty, one is an IPv4 network, one an IPv6 host, and the others are
// IPv4 hosts.
func entries(n, first int) []dnstest.Entry {
	out := make([]dnstest.Entry, n)
	for i := range out {
		out[i].Prefix = numbered(first + i)
	}
	r := rand.New(rand.NewPCG(uint64(n), uint64(first)))
	r.Shuffle(n, func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// numbered returns the entry with this number, below 2^24, scattered over
// the address space and different for each.
func numbered(n int) netip.Prefix {
	switch n % 20 {
	case 0: // the lower half of unicast space, in /24s
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 1<<24+uint32(uint64(n)/20*40507%(0x3f<<16))<<8)
		return netip.PrefixFrom(netip.AddrFrom4(b), 24)
	case 1:
		b := [16]byte{0x20, 0x01, 0x0d, 0xb8}
		binary.BigEndian.PutUint64(b[8:], uint64(n)*0x9e3779b97f4a7c15)
		return netip.PrefixFrom(netip.AddrFrom16(b), 128)
	default: // the upper half
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 1<<30+uint32(n)*37%(1<<31-1<<24))
		return netip.PrefixFrom(netip.AddrFrom4(b), 32)
	}
}

// build makes the policy of lists, as an update does.
func build(l *dnsfetch.List) (*policy.Policy, error) {
	return policy.Build([]policy.List{{Name: l.Name, Entries: l}},
		policy.Exceptions(policy.Facts{Resolvers: []netip.Addr{netip.MustParseAddr("9.9.9.9")}}), policy.Options{MinPrefixV4: 8, MinPrefixV6: 16})
}

// BenchmarkPath is the straight line of an update, from the policy server (in
// a process of its own) to the simulated kernel and the persist file: of a
// policy that is new, and once more when nothing has changed.
func BenchmarkPath(b *testing.B) {
	for _, c := range []struct {
		name string
		n    int
	}{{"26k", 26_424}, {"120k", 120_430}, {"1M", 1_000_000}} {
		addr := "" // of the server, once a benchmark of this size is asked for
		for _, fresh := range []bool{true, false} {
			name := "new/" + c.name
			if !fresh {
				name = "same/" + c.name
			}
			outer := b
			b.Run(name, func(b *testing.B) {
				if addr == "" {
					addr = serve(outer, c.n)
				}
				client, err := dnsfetch.New(dnsfetch.Options{Servers: []string{addr}, Timeout: time.Minute})
				if err != nil {
					b.Fatal(err)
				}
				k := pfsim.New(pfsim.Options{MaxEntries: 3 * c.n})
				pf := k.OpenPF()
				target := apply.Target{Table: benchTable, File: filepath.Join(b.TempDir(), "table"), Load: true}
				run := func() {
					l, err := client.Fetch(b.Context(), dnsfetch.Request{Name: benchList})
					if err != nil {
						b.Fatal(err)
					}
					p, err := build(l)
					if err != nil {
						b.Fatal(err)
					}
					res, err := apply.New(pf).Apply(target, p.Block, apply.Header{Table: benchTable.Name})
					if err != nil || res.InForce != p.Block.Len() || res.InForce < c.n {
						b.Fatal(res, err)
					}
				}
				if !fresh {
					run()
				}
				b.ReportAllocs()
				for b.Loop() {
					if fresh {
						b.StopTimer()
						if _, err := pf.AddTables(pfioctl.TablePersist, benchTable); err != nil {
							b.Fatal(err)
						}
						if _, err := pf.Clear(benchTable); err != nil {
							b.Fatal(err)
						}
						os.Remove(target.File)
						b.StartTimer()
					}
					run()
				}
				b.ReportMetric(float64(b.N)*float64(c.n)/b.Elapsed().Seconds(), "entries/s")
			})
		}
	}
}
