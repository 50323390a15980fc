package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// randomRules makes a ruleset of what rules ask for most, with anchors in it.
type randomRules struct {
	*rand.Rand
	anchors map[string][]pfsim.Rule
}

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

func (r *randomRules) peer(af *uint8) pfsim.Peer {
	p := pfsim.Peer{Not: r.IntN(5) == 0}
	switch r.IntN(8) {
	case 0, 1, 2:
		p.Table = block.Name
	case 3:
		p.Table = "friends"
	case 4:
		if *af != pfioctl.AFInet6 {
			p.Prefix, *af = netip.MustParsePrefix(pick(r.Rand, "10.0.0.0/8", "10.0.0.0/9", "203.0.113.0/24", "203.0.113.7/32")), pfioctl.AFInet
		}
	case 5:
		if *af != pfioctl.AFInet {
			p.Prefix, *af = netip.MustParsePrefix(pick(r.Rand, "2001:db8::/32", "2001:db8:1::/48")), pfioctl.AFInet6
		}
	}
	if p.Table == "" && !p.Prefix.IsValid() {
		p.Not = false // there is no "! any"
	}
	return p
}

func (r *randomRules) rule(depth int) pfsim.Rule {
	x := pfsim.Rule{
		Action: pick(r.Rand, pfioctl.ActionPass, pfioctl.ActionBlock, pfioctl.ActionBlock, pfioctl.ActionMatch),
		Quick:  r.IntN(3) == 0,
		Dir:    pick(r.Rand, pfioctl.DirBoth, pfioctl.DirIn, pfioctl.DirOut),
		Log:    r.IntN(2) == 0,
		LogIf:  r.IntN(2),
	}
	if r.IntN(3) == 0 {
		x.Iface, x.IfaceNot = pick(r.Rand, "em0", "em1", "em", "egress", "vio0"), r.IntN(3) == 0
	}
	if r.IntN(4) == 0 {
		x.AF = pick[uint8](r.Rand, pfioctl.AFInet, pfioctl.AFInet6)
	}
	x.From = r.peer(&x.AF)
	x.To = r.peer(&x.AF)
	if r.IntN(3) == 0 {
		x.Proto = pick[uint8](r.Rand, 1, 6, 17, 47)
		if x.Proto == 6 || x.Proto == 17 {
			x.To.Port = pick(r.Rand, pfioctl.Range{}, pfioctl.Range{Op: "=", A: 22}, pfioctl.Range{Op: ":", A: 20, B: 30}, pfioctl.Range{Op: "!=", A: 25}, pfioctl.Range{Op: "<>", A: 10, B: 1024})
			x.From.Port = pick(r.Rand, pfioctl.Range{}, pfioctl.Range{}, pfioctl.Range{Op: ">", A: 1023})
		}
	}
	if depth < 3 && r.IntN(6) == 0 {
		x.Action, x.Log = pfioctl.ActionPass, false
		name := fmt.Sprintf("a%d", len(r.anchors))
		r.anchors["/"+name] = nil // keeps the name
		x.Anchor = "/" + name
		r.anchors[name] = r.rules(depth + 1)
		delete(r.anchors, "/"+name)
		if r.IntN(3) == 0 {
			r.anchors[name+"/x"], r.anchors[name+"/y"] = r.rules(3), r.rules(3)
			x.Anchor += "/*"
		}
	}
	return x
}

func (r *randomRules) rules(depth int) []pfsim.Rule {
	list := make([]pfsim.Rule, 1+r.IntN(5))
	for i := range list {
		list[i] = r.rule(depth)
	}
	return list
}

// holds reports whether a box has a packet of which the values on the axes that
// pfsim's packets have are given; of the others it is an ordinary one.
func (s *space) holds(b box, p *pfsim.Packet, bad, peer netip.Addr, friends bool) bool {
	addr := func(ax int, all []interval, a netip.Addr) bool {
		for i, v := range all {
			if v.first.BitLen() == a.BitLen() && v.first.Compare(a) <= 0 && a.Compare(v.last) <= 0 {
				return b[ax][i]
			}
		}
		return true
	}
	port := func(ax int, n uint16) bool { return addr(ax, s.axes[ax].line, number(uint32(n))) }
	for i, f := range s.ifaces {
		if f.Name == p.Iface && !b[axIface][i] {
			return false
		}
	}
	family := 0
	if bad.Is6() {
		family = 1
	}
	proto := len(s.protos) - 1
	for i := len(s.protos) - 1; i >= 0; i-- {
		if s.protos[i].proto == p.Proto && (p.Proto != protoTCP || s.protos[i].flags == tcpSYN) {
			proto = i
		}
	}
	ports := p.Proto == protoTCP || p.Proto == protoUDP
	table := true
	for key, ax := range s.yes {
		in := 0
		if strings.HasPrefix(key, s.flow.word(false)) && strings.Contains(key, "<friends") && friends {
			in = 1
		}
		table = table && b[ax][in]
	}
	return table && b[axFamily][family] && b[axProto][proto] &&
		(!ports || port(axSrcPort, p.SrcPort) && port(axDstPort, p.DstPort)) &&
		addr(axListed4, s.axes[axListed4].line, bad) && addr(axListed6, s.axes[axListed6].line, bad) && addr(axPeer4, s.axes[axPeer4].line, peer) && addr(axPeer6, s.axes[axPeer6].line, peer)
}

// What the walk says of every kind of packet must be what the simulated kernel
// does with one of that kind, by the same rule.
func TestEvaluationIsThatOfTheKernel(t *testing.T) {
	rulesets, packets := 300, 40
	if testing.Short() {
		rulesets = 50
	}
	r := rand.New(rand.NewPCG(5, 11))
	ifaces := []Interface{{Name: "em0", Groups: []string{"egress"}}, {Name: "em1"}, {Name: "vio0"}}
	for n := range rulesets {
		k := pfsim.New(pfsim.Options{})
		k.SetRunning(true)
		gen := &randomRules{r, map[string][]pfsim.Rule{}}
		main := gen.rules(0)
		if err := k.LoadRules(pfsim.Ruleset{Rules: main, Anchors: gen.anchors, Tables: []pfsim.TableLine{
			{Table: block, Flags: pfioctl.TablePersist, File: strings.NewReader("10.1.1.1 192.0.2.1 2001:db8:1::9 2001:db8:2::9")},
			{Table: pfioctl.Table{Name: "friends"}, Flags: pfioctl.TablePersist, File: strings.NewReader("203.0.113.7 2001:db8:1::1")},
		}}); err != nil {
			t.Fatal(err)
		}
		pf := k.OpenPF()
		rs, err := pf.Rules()
		if err != nil {
			t.Fatal(err)
		}
		tables, err := pf.AllTables()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []flow{{pfioctl.DirIn, true}, {pfioctl.DirOut, false}, {pfioctl.DirOut, true}, {pfioctl.DirIn, false}} {
			s := newSpace(reachable(rs), &Options{Block: block, Allow: allow, Tables: tables, Interfaces: ifaces}, f)
			s.evaluate(rs)
			for range packets {
				i := pick(r, ifaces...)
				bad := netip.MustParseAddr(pick(r, "10.1.1.1", "192.0.2.1", "2001:db8:1::9", "2001:db8:2::9"))
				peer := netip.MustParseAddr(pick(r, "203.0.113.7", "203.0.113.8", "198.51.100.1", "10.200.0.1"))
				if bad.Is6() {
					peer = netip.MustParseAddr(pick(r, "2001:db8:1::1", "2001:db8:3::1", "2001:dead::1"))
				}
				friends := peer.String() == "203.0.113.7" || peer.String() == "2001:db8:1::1"
				p := pfsim.Packet{Dir: f.dir, Iface: i.Name, Groups: i.Groups, Proto: pick[uint8](r, 1, 6, 17, 47, 50),
					Src: bad, Dst: peer, SrcPort: pick[uint16](r, 53, 40000), DstPort: pick[uint16](r, 5, 22, 25, 443, 5000), Bytes: 60}
				if !f.src {
					p.Src, p.Dst = peer, bad
				}
				v := k.Verdict(p)
				found := 0
				for _, l := range s.leaves {
					if !s.holds(l.box, &p, bad, peer, friends) {
						continue
					}
					found++
					logs := uint64(0)
					if v.Action == pfioctl.ActionBlock && v.Log {
						logs = logBit(v.LogIf)
					}
					if l.blocks() != (v.Action == pfioctl.ActionBlock) || l.blocks() && l.logs != logs {
						t.Fatalf("ruleset %d, packet %+v: blocked %v, logs %b, by rule %v; the kernel says %+v\n%+v\n%+v", n, p, l.blocks(), l.logs, l.rule, v, main, gen.anchors)
					}
				}
				if found != 1 {
					t.Fatalf("ruleset %d: packet %+v is in %d parts", n, p, found)
				}
			}
		}
	}
}
