package policy_test

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"example.org/threatstopd/agent/internal/policy"
)

func TestSetNil(t *testing.T) {
	var s *policy.Set
	for range s.All() {
		t.Error("a nil set has an entry")
	}
	if s.Len() != 0 || s.Counts() != (policy.Counts{}) || s.Lists() != nil {
		t.Error("a nil set is not empty")
	}
	if l, e, ok := s.Lookup(netip.MustParseAddr("192.0.2.1")); ok || e.IsValid() || l != policy.NoList {
		t.Errorf("a nil set has %v of list %d", e, l)
	}
}

func TestLookup(t *testing.T) {
	p, err := build(t, policy.Options{}, "b1:10.0.0.0/8 own:10.1.2.3 b2:10.1.2.0/24 b2:255.255.255.255 b1:2001:db8::/32 b1:ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff b2:2001:db8::1")
	if err != nil {
		t.Fatal(err)
	}
	x := p.Block
	for _, c := range []struct {
		addr, entry, list string
		ok                bool
	}{
		{"10.0.0.0", "10.0.0.0/8", "b1", true},
		{"10.1.2.2", "10.1.2.0/24", "b2", true},
		{"10.1.2.3", "10.1.2.3/32", "", false},
		{"10.1.3.0", "10.0.0.0/8", "b1", true},
		{"10.255.255.255", "10.0.0.0/8", "b1", true},
		{"9.255.255.255", "invalid Prefix", "", false},
		{"11.0.0.0", "invalid Prefix", "", false},
		{"255.255.255.254", "invalid Prefix", "", false},
		{"255.255.255.255", "255.255.255.255/32", "b2", true},
		{"::ffff:10.1.2.2", "10.1.2.0/24", "b2", true},
		{"2001:db8::1", "2001:db8::1/128", "b2", true},
		{"2001:db8::2%em0", "2001:db8::/32", "b1", true},
		{"2001:db9::", "invalid Prefix", "", false},
		{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", "invalid Prefix", "", false},
		{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "b1", true},
	} {
		l, e, ok := x.Lookup(netip.MustParseAddr(c.addr))
		name := ""
		if l != policy.NoList {
			name = x.Lists()[l]
		}
		if e.String() != c.entry || name != c.list || ok != c.ok {
			t.Errorf("%s: %v of %q, %v; want %s of %q, %v", c.addr, e, name, ok, c.entry, c.list, c.ok)
		}
	}
	if _, e, ok := x.Lookup(netip.Addr{}); ok || e.IsValid() {
		t.Errorf("no address: %v, %v", e, ok)
	}
	if n := testing.AllocsPerRun(100, func() { x.Lookup(netip.MustParseAddr("10.1.2.2")); x.Lookup(netip.IPv6Loopback()) }); n != 0 {
		t.Errorf("a look-up allocates %v times", n)
	}
}

// many returns a set of some thousand entries of both families.
func many(t testing.TB, seed uint64) *policy.Set {
	r := rand.New(rand.NewPCG(seed, 9))
	b := newBuilder(policy.Options{})
	ids := []policy.ListID{b.List("one", policy.Block), b.List("two", policy.Block), b.List("friends", policy.Allow)}
	for i := range 3000 {
		u := universe{netip.MustParsePrefix("10.0.0.0/8"), 24}
		if i%3 == 0 {
			u = universe{netip.MustParsePrefix("2001:db8::/44"), 24}
		}
		n := 8 + r.IntN(17)
		b.Add(ids[r.IntN(len(ids))], u.prefix(block{r.IntN(1 << n), n}), r.IntN(9) == 0)
	}
	b.Except(netip.MustParsePrefix("10.64.0.0/12"), "test")
	p, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return p.Block
}

func TestLoader(t *testing.T) {
	s := many(t, 1)
	for _, size := range []int{0, 20, 21, 1000, 1 << 20} {
		l, err := policy.NewLoader(s.Lists(), s.Counts(), s.Len())
		if err != nil {
			t.Fatal(err)
		}
		for c := range s.Chunks(size) {
			if len(c) > max(size, 20) {
				t.Fatalf("chunk of %d bytes, asked for %d", len(c), size)
			}
			if err := l.Add(c); err != nil {
				t.Fatal(err)
			}
		}
		got, err := l.Set(s.Sum())
		if err != nil {
			t.Fatal(err)
		}
		if show(got) != show(s) || got.Sum() != s.Sum() || got.Counts() != s.Counts() {
			t.Errorf("chunks of %d: the set is another", size)
		}
		if _, err := l.Set(s.Sum()); err == nil {
			t.Error("the set can be had twice")
		}
	}
	if many(t, 2).Sum() == s.Sum() {
		t.Error("two sets have the same sum")
	}
}

func TestLoaderRefuses(t *testing.T) {
	lists := []string{"one", "two"}
	four := func(es ...string) []byte { return append([]byte{4}, strings.Join(es, "")...) }
	six := func(es ...string) []byte { return append([]byte{6}, strings.Join(es, "")...) }
	const (
		a24  = "\x0a\x01\x02\x00\x18\x00\x00" // 10.1.2.0/24 of one
		a32  = "\x0a\x01\x02\x00\x20\x00\x01" // 10.1.2.0 of two
		six1 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00"
	)
	for _, c := range []struct {
		name   string
		n      policy.Counts
		chunks [][]byte
		want   string
	}{
		{"all in order", policy.Counts{V4: 2, V6: 1}, [][]byte{four(a32, a24), six(six1)}, ""},
		{"chunks without entries", policy.Counts{V4: 1}, [][]byte{four(), four(a24), four(), six()}, ""},
		{"shortest first", policy.Counts{V4: 2}, [][]byte{four(a24), four(a32)}, "policy: IPv4 entry 1: out of order"},
		{"twice", policy.Counts{V4: 2}, [][]byte{four(a24, a24)}, "policy: IPv4 entry 1: out of order"},
		{"IPv6 twice", policy.Counts{V6: 2}, [][]byte{six(six1, six1)}, "policy: IPv6 entry 1: out of order"},
		{"IPv6 first", policy.Counts{V4: 1, V6: 1}, [][]byte{six(six1), four(a24)}, ""},
		{"more than announced", policy.Counts{V4: 1}, [][]byte{four(a32, a24)}, "policy: chunk has more than the 1 IPv4 entries announced"},
		{"IPv6 not announced", policy.Counts{V4: 1}, [][]byte{six(six1)}, "policy: chunk has more than the 0 IPv6 entries announced"},
		{"fewer than announced", policy.Counts{V4: 2}, [][]byte{four(a24)}, "policy: set has 1 and 0 entries, 2 and 0 were announced"},
		{"host bits", policy.Counts{V4: 1}, [][]byte{four("\x0a\x01\x02\x01\x18\x00\x00")}, "policy: IPv4 entry 0: bits set behind prefix length 24"},
		{"too long", policy.Counts{V4: 1}, [][]byte{four("\x0a\x01\x02\x00\x21\x00\x00")}, "policy: IPv4 entry 0: prefix length 33"},
		{"IPv6 too long", policy.Counts{V6: 1}, [][]byte{six(six1[:16] + "\x81\x00\x00")}, "policy: IPv6 entry 0: prefix length 129"},
		{"a list nobody knows", policy.Counts{V4: 1}, [][]byte{four("\x0a\x01\x02\x00\x18\x00\x02")}, "policy: IPv4 entry 0: list 2 of 2"},
		{"listed by no list", policy.Counts{V4: 1}, [][]byte{four("\x0a\x01\x02\x00\x18\x3f\xff")}, "policy: IPv4 entry 0: list 16383 of 2"},
		{"negated by no list", policy.Counts{V4: 1}, [][]byte{four("\x0a\x01\x02\x00\x18\xbf\xff")}, ""},
		{"half an entry", policy.Counts{V4: 1}, [][]byte{four(a24[:6])}, "policy: chunk of 7 bytes: not the records of a family"},
		{"a family nobody knows", policy.Counts{V4: 1}, [][]byte{[]byte("\x05")}, "policy: chunk of 1 bytes: not the records of a family"},
		{"nothing", policy.Counts{}, [][]byte{nil}, "policy: chunk of 0 bytes: not the records of a family"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := policy.NewLoader(lists, c.n, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, chunk := range c.chunks {
				if err = l.Add(chunk); err != nil {
					break
				}
			}
			if err == nil {
				_, err = l.Set([32]byte{})
				if err != nil && err.Error() == "policy: the checksum of the set differs from the one announced" {
					err = nil // as all is well but for this
				}
			}
			if got := errString(err); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	for _, n := range []policy.Counts{{V4: -1}, {V6: -1}, {V4: 11}, {V4: 5, V6: 6}, {V4: 1<<31 - 1, V6: 1<<31 - 1}} {
		if _, err := policy.NewLoader(lists, n, 10); err == nil {
			t.Errorf("%+v is taken, where 10 entries are allowed", n)
		}
	}
}

func errString(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// FuzzMeaning makes lists of any bytes and holds the tables against the plain
// meaning.
func FuzzMeaning(f *testing.F) {
	f.Add([]byte{0, 0, 0x48, 1, 0x95, 2, 0x13, 3, 0x77}, uint8(0))
	f.Add([]byte("block and allow, except"), uint8(7))
	us := universes(6)
	f.Fuzz(func(t *testing.T, ops []byte, where uint8) {
		var s scene
		for ; len(ops) >= 2 && len(s.block)+len(s.allow) < 40; ops = ops[2:] {
			bits := int(ops[0]>>4) % 7
			b := block{int(ops[1]) & (1<<bits - 1), bits}
			not := ops[1]&0x80 != 0
			switch which := ops[0] & 15; {
			case which < 9:
				for len(s.block) <= int(which)/3 {
					s.block = append(s.block, nil)
				}
				s.block[which/3] = append(s.block[which/3], item{b, not})
			case which < 13:
				for len(s.allow) <= int(which-9)/2 {
					s.allow = append(s.allow, nil)
				}
				s.allow[(which-9)/2] = append(s.allow[(which-9)/2], item{b, not})
			default:
				s.except = append(s.except, b)
			}
			if len(s.except) > 40 {
				break
			}
		}
		check(t, us[int(where)%len(us)], s)
	})
}
