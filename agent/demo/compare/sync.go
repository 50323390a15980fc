package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"example.org/threatstopd/.ci/nameserver"
	"example.org/threatstopd/dnsfetch/dnstest"
)

const (
	zone       = "policy.example"
	blockTable = "ThreatSTOP-Block"
)

// Targets of a policy run.
const (
	loopTarget  = 20
	batchTarget = 2
)

// The ways that a policy is fetched without us: scripts for sh -eu with server,
// port and list as arguments, which leave the file "table". dig's short form
// and a sed that does nothing but cut the items apart are the fastest of what
// is used.
const (
	aplSed = `s/ /\n/g
s/^\(!\{0,1\}\)[12]:/\1/Mg
`
	loopScript = `
dig +tcp +short -p "$2" "@$1" PTR "$3" | sed 's/\.$//' >parts
: >entries
while read -r part; do
	dig +tcp +short -p "$2" "@$1" APL "$part" | sed -f apl.sed >>entries
done <parts
LC_ALL=C sort -u entries >table
`
	batchScript = `
dig +tcp +short -p "$2" "@$1" PTR "$3" | sed 's/$/ APL/' >batch
dig +tcp +keepopen +short -p "$2" "@$1" -f batch | sed -f apl.sed | LC_ALL=C sort -u >table
`
)

// listName names the list of so many entries.
func listName(size int) string { return fmt.Sprintf("block%d.%s", size, zone) }

// policyOf returns so many different entries such as block lists have: mostly
// IPv4 hosts, some networks, few IPv6; none that a firewall has itself.
func policyOf(size int) []dnstest.Entry {
	r := rand.New(rand.NewPCG(26424, uint64(size)))
	seen := make(map[netip.Prefix]bool, size)
	all := make([]dnstest.Entry, 0, size)
	for len(all) < size {
		var p netip.Prefix
		if r.IntN(50) == 0 {
			a := binary.BigEndian.AppendUint64(nil, 0x20010db8<<32|uint64(r.Uint32()))
			a = binary.BigEndian.AppendUint64(a, r.Uint64())
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte(a)), 128-64*r.IntN(2)).Masked()
		} else {
			bits := 32
			if r.IntN(10) == 0 {
				bits = 20 + r.IntN(12)
			}
			// Most of the unicast space; what is excepted from every
			// policy (host.DefaultExceptions and private networks of
			// this host's own) is left out.
			a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 0x01000000+r.Uint32N(0xdf000000))))
			if p = netip.PrefixFrom(a, bits).Masked(); a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() {
				continue
			}
		}
		if !seen[p] {
			seen[p] = true
			all = append(all, dnstest.Entry{Prefix: p})
		}
	}
	return all
}

// compareSync fetches the policies from both servers.
func compareSync(ctx context.Context, dir string, o *options, knot *nameserver.Server, t *table) error {
	home := filepath.Join(dir, "knot")
	if err := os.Mkdir(home, 0o755); err != nil {
		return err
	}
	var lists []dnstest.List
	for _, size := range o.sizes {
		// 64 items are what every name server takes in a record.
		lists = append(lists, dnstest.List{Name: listName(size), Entries: policyOf(size), ItemsPerRecord: 64})
	}
	f, err := os.Create(filepath.Join(home, nameserver.ZoneFile))
	if err != nil {
		return err
	}
	err = dnstest.WriteZone(f, zone, 1, lists...)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	p, err := knot.Start(ctx, home, zone, time.Minute)
	if err != nil {
		return err
	}
	defer p.Stop()
	own, err := dnstest.Start(dnstest.Options{KeepQueries: 1})
	if err != nil {
		return err
	}
	defer own.Close()
	if err := own.Set(lists...); err != nil {
		return err
	}
	for i, l := range lists {
		for _, server := range []struct{ name, addr string }{{"knot " + knot.Version(ctx), p.Addr}, {"dnstest", own.Addr()}} {
			rounds, targets := o.rounds, [2]float64{loopTarget, batchTarget}
			if i > 0 {
				rounds, targets = max(1, o.rounds/3), [2]float64{}
			}
			all, err := syncWays(dir, server.addr, o.demo, l)
			if err != nil {
				return err
			}
			if err := race(ctx, rounds, all...); err != nil {
				return fmt.Errorf("%d entries from %s: %w", len(l.Entries), server.name, err)
			}
			loop, batch, ours := all[0], all[1], all[2]
			what := fmt.Sprintf("sync of %d entries from %s", len(l.Entries), server.name)
			t.row(what+": loop", loop, ours, targets[0])
			t.row(what+": batch", batch, ours, targets[1])
		}
	}
	return nil
}

// syncWays returns the loop, the batch and ours, each in a directory of its own
// below dir.
func syncWays(dir, addr, demo string, l dnstest.List) ([]*contestant, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	home, err := os.MkdirTemp(dir, "sync")
	if err != nil {
		return nil, err
	}
	var all []*contestant
	for _, way := range []struct{ name, script string }{{"loop", loopScript}, {"batch", batchScript}} {
		work := filepath.Join(home, way.name)
		if err := os.Mkdir(work, 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(work, "apl.sed"), []byte(aplSed), 0o644); err != nil {
			return nil, err
		}
		all = append(all, &contestant{
			name: way.name,
			run: func(ctx context.Context) (took, error) {
				return process(ctx, nil, work, "sh", "-euc", way.script, "sh", host, port, l.Name)
			},
			check: holds(filepath.Join(work, "table"), l.Entries),
		})
	}
	conf := filepath.Join(home, "threatstop.conf")
	text := fmt.Sprintf("device_id=tdid_compare01\nDNS_SERVERS=%s\nBLOCK_LISTS=%s\nOUT_DIR=%s\nUPLOAD=no\n", addr, l.Name, home)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return append(all, &contestant{
		name: "ours",
		run: func(ctx context.Context) (took, error) {
			return process(ctx, nil, home, demo, "--", "--sync-now", "-f", conf)
		},
		check: holds(filepath.Join(home, blockTable+".pftable"), l.Entries),
	}), nil
}

// holds returns a check that the file has just these entries. It removes the
// file, so that the next round has to make it.
func holds(file string, want []dnstest.Entry) func() error {
	want = slices.SortedFunc(slices.Values(want), inOrder)
	return func() error {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		got, err := dnstest.ReadPrefixes(f, file)
		if err != nil {
			return err
		}
		slices.SortFunc(got, inOrder)
		if !slices.Equal(got, want) {
			return fmt.Errorf("another result: %d entries in %s, not the %d that were served", len(got), file, len(want))
		}
		return os.Remove(file)
	}
}

func inOrder(a, b dnstest.Entry) int {
	if c := a.Prefix.Addr().Compare(b.Prefix.Addr()); c != 0 {
		return c
	}
	return a.Prefix.Bits() - b.Prefix.Bits()
}
