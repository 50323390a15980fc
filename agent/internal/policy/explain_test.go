package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"example.org/threatstopd/agent/internal/policy"
)

func TestExplain(t *testing.T) {
	for _, c := range []struct{ name, in, addr, want string }{
		{"on no list", "b1:192.0.2.0/24", "198.51.100.1", "false: b1 off"},
		{"listed", "b1:192.0.2.0/24 b2:192.0.2.1", "192.0.2.1", "true: b1 on 192.0.2.0/24, b2 on 192.0.2.1/32"},
		{"negated", "b1:192.0.2.0/24 b1:!192.0.2.0/25", "192.0.2.1", "false: b1 off 192.0.2.0/25"},
		{"listed and negated", "b1:!192.0.2.1 b1:192.0.2.1", "192.0.2.1", "false: b1 off 192.0.2.1/32"},
		{"allowed", "b1:192.0.2.0/24 a1:0.0.0.0/0", "192.0.2.1", "false: b1 on 192.0.2.0/24, a1 on 0.0.0.0/0"},
		{"excepted", "b1:192.0.2.0/24 own:192.0.2.1", "192.0.2.1", "false: b1 on 192.0.2.0/24; own 192.0.2.1/32"},
		{"listed as IPv4-mapped", "b1:::ffff:192.0.2.77", "192.0.2.77", "true: b1 on 192.0.2.77/32"},
		{"asked as IPv4-mapped", "b1:192.0.2.77", "::ffff:192.0.2.77", "true: b1 on 192.0.2.77/32"},
		{"under an entry that is too wide", "b1:192.0.0.0/4", "192.0.2.1", "false: b1 off (192.0.0.0/4 wider than /8)"},
		{"and a narrower one", "b1:192.0.0.0/4 b1:192.0.2.0/24", "192.0.2.1", "true: b1 on 192.0.2.0/24 (192.0.0.0/4 wider than /8)"},
		{"a narrower one and it", "b1:192.0.2.0/24 b1:192.0.0.0/4", "192.0.2.1", "true: b1 on 192.0.2.0/24 (192.0.0.0/4 wider than /8)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := inputs(c.in)
			b.o = policy.Options{MinPrefixV4: 8}
			x := policy.Explain(single(c.addr), b.lists, b.exceptions, b.o)
			var words []string
			for _, l := range x.Lists {
				w := l.Name + " off"
				if l.On {
					w = l.Name + " on"
				}
				if l.Entry.IsValid() {
					w += " " + l.Entry.String()
				}
				for _, d := range l.Dropped {
					w += fmt.Sprintf(" (%v %s)", d.Prefix, d.Why)
				}
				words = append(words, w)
			}
			got := fmt.Sprintf("%v: %s", x.Blocked, strings.Join(words, ", "))
			for _, e := range x.Except {
				got += fmt.Sprintf("; %s %v", e.Why, e.Prefix)
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// What is explained is what the table says.
func TestExplainAgreesWithTable(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	u := universe{netip.MustParsePrefix("2001:db8::/64"), 6}
	for range 200 {
		b := randomScene(r, u.width).inputs(u, policy.Options{MinPrefixV6: 66, Aggregate: r.IntN(2) == 0})
		p, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		x := p.Block
		for a := range 64 {
			addr := u.prefix(block{a, 6}).Addr()
			if _, _, ok := x.Lookup(addr); ok != policy.Explain(netip.PrefixFrom(addr, addr.BitLen()), b.lists, b.exceptions, b.o).Blocked {
				t.Fatalf("%v: in the table %v, explained otherwise", addr, ok)
			}
		}
	}
}

// single returns the network of an address, or a network as it is.
func single(text string) netip.Prefix {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	return netip.MustParsePrefix(text)
}
