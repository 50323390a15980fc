package policy_test

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"example.org/threatstopd/agent/internal/policy"
)

// A universe is a small part of the address space: all addresses that begin
// with base and go on with width bits; what follows makes no difference.
type universe struct {
	base  netip.Prefix
	width int
}

func (u universe) String() string { return fmt.Sprintf("%v+%d", u.base, u.width) }

// The places where arithmetic could go wrong: the beginning, the end and all
// of the space, hosts, and the middle of an IPv6 address.
func universes(width int) []universe {
	var us []universe
	for _, s := range []string{
		"0.0.0.0/0", "10.0.0.0/8", "255.128.0.0/9", "192.0.2.0/30", "255.255.255.252/30",
		"::/0", "2001:db8::/32", "2001:db8:0:50::/60", "2001:db8:0:ffff::/64", "ffff:ffff::/32",
		"2001:db8::fffc/126", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126",
	} {
		p := netip.MustParsePrefix(s)
		if n := p.Addr().BitLen() - width; p.Bits() > n {
			// A base for hosts: as it stands, cut to fit.
			p = netip.PrefixFrom(p.Addr(), n).Masked()
		}
		us = append(us, universe{p, width})
	}
	return us
}

// A block is a prefix within a universe: its first bits.
type block struct{ value, bits int }

func (b block) covers(u universe, a int) bool {
	return a>>(u.width-b.bits) == b.value
}

func (u universe) prefix(b block) netip.Prefix {
	raw := u.base.Addr().AsSlice()
	for i := range b.bits {
		if b.value>>(b.bits-1-i)&1 != 0 {
			n := u.base.Bits() + i
			raw[n/8] |= 0x80 >> (n % 8)
		}
	}
	a, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(a, u.base.Bits()+b.bits)
}

// ends returns the first and the last address of those that begin like a.
func (u universe) ends(a int) (first, last netip.Addr) {
	p := u.prefix(block{a, u.width})
	raw := p.Addr().AsSlice()
	for n := p.Bits(); n < len(raw)*8; n++ {
		raw[n/8] |= 0x80 >> (n % 8)
	}
	last, _ = netip.AddrFromSlice(raw)
	return p.Addr(), last
}

type item struct {
	block
	not bool
}

// A scene is what a policy is made from.
type scene struct {
	block, allow [][]item
	except       []block
}

func (s scene) String() string {
	return fmt.Sprintf("block %v allow %v except %v", s.block, s.allow, s.except)
}

// lists reports, the slow and plain way, whether a list has an address.
func lists(u universe, list []item, a int) (yes bool) {
	longest := -1
	for _, it := range list {
		if !it.covers(u, a) || it.bits < longest {
			continue
		}
		if it.bits > longest {
			longest, yes = it.bits, true
		}
		yes = yes && !it.not
	}
	return yes
}

func any(u universe, ls [][]item, a int) bool {
	for _, l := range ls {
		if lists(u, l, a) {
			return true
		}
	}
	return false
}

func (s scene) excepted(u universe, a int) bool {
	for _, x := range s.except {
		if x.covers(u, a) {
			return true
		}
	}
	return false
}

func (s scene) blocked(u universe, a int) bool {
	return any(u, s.block, a) && !any(u, s.allow, a) && !s.excepted(u, a)
}

// answers returns the list that an address in the table of a kind is of.
func (s scene) answers(u universe, k policy.Kind, a int) policy.ListID {
	own, first := s.block, 0
	if k == policy.Allow {
		own, first = s.allow, len(s.block)
	}
	for i, l := range own {
		if lists(u, l, a) {
			return policy.ListID(first + i)
		}
	}
	return policy.NoList
}

// listedAround reports whether a list has all of the prefix, but for longer entries.
func (s scene) listedAround(u universe, list []item, p netip.Prefix) (yes bool) {
	longest := -1
	for _, it := range list {
		q := u.prefix(it.block)
		switch {
		case q.Bits() > p.Bits() || !q.Contains(p.Addr()):
		case it.bits > longest:
			longest, yes = it.bits, !it.not
		case it.bits == longest:
			yes = yes && !it.not
		}
	}
	return yes
}

// builder collects the inputs of a policy.
type builder struct {
	o          policy.Options
	lists      []policy.List
	exceptions []policy.Exception
}

type entry struct {
	netip.Prefix
	not bool
}

type entries []entry

func (es *entries) Len() int { return len(*es) }

func (es *entries) All() iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		for _, e := range *es {
			if !yield(e.Prefix, e.not) {
				return
			}
		}
	}
}

func newBuilder(o policy.Options) *builder { return &builder{o: o} }

func (b *builder) List(name string, k policy.Kind) policy.ListID {
	for i, l := range b.lists {
		if l.Name == name && l.Kind == k {
			return policy.ListID(i)
		}
	}
	b.lists = append(b.lists, policy.List{Name: name, Kind: k, Entries: new(entries)})
	return policy.ListID(len(b.lists) - 1)
}

func (b *builder) Add(id policy.ListID, p netip.Prefix, not bool) {
	es := b.lists[id].Entries.(*entries)
	*es = append(*es, entry{p, not})
}

func (b *builder) Except(p netip.Prefix, why string) {
	b.exceptions = append(b.exceptions, policy.Exception{Prefix: p, Why: why})
}

func (b *builder) Build() (*policy.Policy, error) {
	return policy.Build(b.lists, b.exceptions, b.o)
}

func (s scene) build(t testing.TB, u universe, o policy.Options) *policy.Policy {
	t.Helper()
	p, err := s.inputs(u, o).Build()
	if err != nil {
		t.Fatalf("%v: %v", s, err)
	}
	return p
}

func (s scene) inputs(u universe, o policy.Options) *builder {
	b := newBuilder(o)
	for i, ls := range [][][]item{s.block, s.allow} {
		for j, l := range ls {
			id := b.List(fmt.Sprintf("%v%d", policy.Kind(i), j), policy.Kind(i))
			for _, it := range l {
				b.Add(id, u.prefix(it.block), it.not)
			}
		}
	}
	for _, x := range s.except {
		b.Except(u.prefix(x), "test")
	}
	return b
}

// match is pf's look-up: the longest prefix wins.
func match(s *policy.Set, a netip.Addr) (entry netip.Prefix, list policy.ListID, found, not bool) {
	list = policy.NoList
	i := 0
	for p, n := range s.All() {
		if p.Contains(a) && (!found || p.Bits() > entry.Bits()) {
			entry, list, found, not = p, s.At(i).List, true, n
		}
		i++
	}
	return
}

// cost is the size of the smallest table for want within the node b when v is
// handed down to it: by dynamic programming over the whole trie. Fixed nodes
// have an entry.
func cost(u universe, want func(int) bool, fixed map[block]bool, b block, v bool) int {
	memo := make(map[[3]int]int)
	var below func(b block, v bool) int
	var at func(b block, v bool) int
	below = func(b block, v bool) int {
		if b.bits == u.width {
			if want(b.value) != v {
				return 1 << 20
			}
			return 0
		}
		return at(block{2 * b.value, b.bits + 1}, v) + at(block{2*b.value + 1, b.bits + 1}, v)
	}
	at = func(b block, v bool) int {
		k := [3]int{b.value, b.bits, 0}
		if v {
			k[2] = 1
		}
		if n, ok := memo[k]; ok {
			return n
		}
		n := 1 + below(b, true)
		if !fixed[b] {
			n = min(n, below(b, v), 1+below(b, false))
		}
		memo[k] = n
		return n
	}
	return at(b, v)
}

// check holds a policy against what it was made from.
func check(t *testing.T, u universe, s scene) {
	t.Helper()
	for _, aggregate := range []bool{false, true} {
		p := s.build(t, u, policy.Options{Aggregate: aggregate})
		fail := func(format string, args ...interface{}) {
			t.Helper()
			t.Fatalf("%v, aggregate %v: %s\n%v\nblock: %s\nallow: %s", u, aggregate, fmt.Sprintf(format, args...), s, show(p.Block), show(p.Allow))
		}
		for _, c := range []struct {
			name  string
			kind  policy.Kind
			set   *policy.Set
			lists [][]item
			first int // ListID of lists[0]
			want  func(a int) bool
		}{
			{"block", policy.Block, p.Block, s.block, 0, func(a int) bool { return s.blocked(u, a) }},
			{"allow", policy.Allow, p.Allow, s.allow, len(s.block), func(a int) bool { return any(u, s.allow, a) }},
		} {
			// Every address.
			x := c.set
			for a := range 1 << u.width {
				first, last := u.ends(a)
				for _, addr := range []netip.Addr{first, last} {
					entry, list, found, not := match(c.set, addr)
					if got := found && !not; got != c.want(a) {
						fail("%s table: %v: got %v by %v, want %v", c.name, addr, got, entry, c.want(a))
					}
					l, e, ok := x.Lookup(addr)
					if l != list || e != entry || ok != (found && !not) {
						fail("%s index: %v: got %v %v %v, want %v %v %v", c.name, addr, l, e, ok, list, entry, found && !not)
					}
				}
			}

			// Order, and where entries come from.
			fixed := make(map[block]bool)
			used := func(b block) bool {
				for a := range 1 << u.width {
					if b.covers(u, a) && c.want(a) {
						return true
					}
				}
				return false
			}
			namedBy := make(map[netip.Prefix]policy.ListID)
			for i, l := range c.lists {
				for _, it := range l {
					stands := !it.not
					for _, other := range l {
						stands = stands && !(other.block == it.block && other.not)
					}
					if !stands || !used(it.block) {
						continue
					}
					fixed[it.block] = true
					if q := u.prefix(it.block); namedBy[q] == 0 {
						namedBy[q] = policy.ListID(c.first+i) + 1
					}
				}
			}
			listed := 0
			var prev netip.Prefix
			for i := range c.set.Len() {
				e := c.set.At(i)
				q, not := e.Prefix(), e.Not
				if i > 0 {
					ord := prev.Addr().Compare(q.Addr())
					if ord > 0 || ord == 0 && prev.Bits() <= q.Bits() {
						fail("%s table: %v before %v", c.name, prev, q)
					}
				}
				prev = q
				by := namedBy[q]
				switch {
				case not:
					if e.List != policy.NoList {
						fail("%s table: %v is negated, but of list %d", c.name, q, e.List)
					}
				case by != 0 && !aggregate:
					listed++
					if e.List != by-1 {
						fail("%s table: %v is said to be of list %d, want %d", c.name, q, e.List, by-1)
					}
				case aggregate:
					first := policy.NoList
					for a := range 1 << u.width {
						if at, _ := u.ends(a); q.Contains(at) && c.want(a) {
							first = s.answers(u, c.kind, a)
							break
						}
					}
					if e.List != first {
						fail("%s table: %v is said to be of list %d, want %d", c.name, q, e.List, first)
					}
				case !s.listedAround(u, c.lists[e.List-policy.ListID(c.first)], q):
					fail("%s table: %v is said to be of list %d, which does not list it", c.name, q, e.List)
				}
			}
			if !aggregate && listed != len(fixed) {
				fail("%s table: %d entries as listed, want %d", c.name, listed, len(fixed))
			}

			// No smaller table gives the same verdicts.
			if want := cost(u, c.want, nil, block{}, false); aggregate && c.set.Len() != want {
				fail("%s table: %d entries, %d would do", c.name, c.set.Len(), want)
			}
		}

		for i, l := range p.Report.Lists {
			if l.Others() < 0 {
				fail("list %d: %d entries, but %+v", i, l.Entries, l)
			}
		}
		s.checkExcepted(t, u, p)
	}
}

// checkExcepted holds the report's exceptions against all of them.
func (s scene) checkExcepted(t *testing.T, u universe, p *policy.Policy) {
	t.Helper()
	inside := make(map[netip.Prefix]int)
	around := make(map[netip.Prefix]int)
	for _, x := range s.except {
		q := u.prefix(x)
		inside[q], around[q] = 0, 0
		for _, l := range s.block {
			seen := make(map[item]bool)
			var nearest item
			nearest.bits = -1
			for _, it := range l {
				negated := it.not
				for _, other := range l {
					negated = negated || other.block == it.block && other.not
				}
				if it.bits >= x.bits {
					if !negated && !seen[it] && it.value>>(it.bits-x.bits) == x.value {
						inside[q]++
					}
				} else if x.value>>(x.bits-it.bits) == it.value && it.bits > nearest.bits {
					nearest = item{it.block, negated}
				}
				seen[it] = true
			}
			if nearest.bits >= 0 && !nearest.not {
				around[q]++
			}
		}
	}
	for _, x := range p.Report.Excepted {
		if x.Inside != inside[x.Prefix] || x.Around != around[x.Prefix] {
			t.Fatalf("%v: exception %v: inside %d, around %d, want %d, %d\n%v", u, x.Prefix, x.Inside, x.Around, inside[x.Prefix], around[x.Prefix], s)
		}
		if want := min(policy.MaxNamed, x.Inside+x.Around); len(x.Entries) != want {
			t.Fatalf("%v: exception %v names %d entries, want %d", u, x.Prefix, len(x.Entries), want)
		}
		delete(inside, x.Prefix)
	}
	for q, n := range inside {
		if n+around[q] != 0 {
			t.Fatalf("%v: exception %v is not reported\n%v", u, q, s)
		}
	}
}

func randomScene(r *rand.Rand, width int) scene {
	var s scene
	// Few bits make entries that cover each other, many make hosts.
	bits := func() int {
		if r.IntN(3) == 0 {
			return width
		}
		return r.IntN(width + 1)
	}
	random := func() block {
		n := bits()
		return block{r.IntN(1 << n), n}
	}
	list := func(most int) []item {
		l := make([]item, r.IntN(most+1))
		for i := range l {
			l[i] = item{random(), r.IntN(4) == 0}
			if i > 0 && r.IntN(3) == 0 { // near the one before
				b := l[i-1].block
				switch n := r.IntN(3); {
				case n == 0 && b.bits < width:
					l[i].block = block{2*b.value + r.IntN(2), b.bits + 1}
				case n == 1 && b.bits > 0:
					l[i].block = block{b.value ^ 1, b.bits}
				case n == 2:
					l[i].block = b
				}
			}
		}
		return l
	}
	most := []int{3, 10, 60}[r.IntN(3)]
	for range r.IntN(4) {
		s.block = append(s.block, list(most))
	}
	for range r.IntN(3) {
		s.allow = append(s.allow, list(most/2))
	}
	for range r.IntN(4) {
		s.except = append(s.except, random())
	}
	return s
}

// The meaning of a policy, on random overlapping lists, exceptions and
// negations.
func TestMeaning(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, width := range []int{2, 3, 5, 8, 10} {
		rounds := map[int]int{2: 200, 3: 200, 5: 80, 8: 8, 10: 2}[width]
		if policy.RaceEnabled {
			rounds = (rounds + 9) / 10
		}
		for _, u := range universes(width) {
			for range rounds {
				check(t, u, randomScene(r, width))
			}
		}
	}
}

// The dynamic programming that TestMeaning relies on, and the tables, against
// all tables there are: for every subset of eight addresses.
func TestSmallestOfAllTables(t *testing.T) {
	u := universe{netip.MustParsePrefix("192.0.2.0/29"), 3}
	var nodes []block
	for n := 0; n <= u.width; n++ {
		for v := range 1 << n {
			nodes = append(nodes, block{v, n})
		}
	}
	fewest := make(map[int]int) // by subset
	var try func(i, size int, table []item)
	try = func(i, size int, table []item) {
		if i == len(nodes) || size == 4 {
			subset := 0
			for a := range 8 {
				if lists(u, table, a) {
					subset |= 1 << a
				}
			}
			if n, ok := fewest[subset]; !ok || size < n {
				fewest[subset] = size
			}
			return
		}
		try(i+1, size, table)
		try(i+1, size+1, append(table, item{nodes[i], false}))
		try(i+1, size+1, append(table, item{nodes[i], true}))
	}
	try(0, 0, make([]item, 0, 8))
	if len(fewest) != 256 {
		t.Fatalf("tables of up to four entries make %d subsets of eight addresses, want 256", len(fewest))
	}
	for subset, want := range fewest {
		var s scene
		s.block = [][]item{nil}
		for a := range 8 {
			if subset>>a&1 != 0 {
				s.block[0] = append(s.block[0], item{block{a, 3}, false})
			}
		}
		if got := cost(u, func(a int) bool { return s.blocked(u, a) }, nil, block{}, false); got != want {
			t.Fatalf("subset %08b: dynamic programming says %d, want %d", subset, got, want)
		}
		if got := s.build(t, u, policy.Options{Aggregate: true}).Block.Len(); got != want {
			t.Fatalf("subset %08b: %d entries, want %d", subset, got, want)
		}
	}
}

// show returns a set as pfctl would show it, with the lists' names.
func show(s *policy.Set) string {
	var b strings.Builder
	i := 0
	for p, not := range s.All() {
		if i > 0 {
			b.WriteByte(' ')
		}
		if not {
			b.WriteByte('!')
		}
		if p.IsSingleIP() {
			b.WriteString(p.Addr().String())
		} else {
			b.WriteString(p.String())
		}
		if l := s.At(i).List; l != policy.NoList {
			b.WriteString("=" + s.Lists()[l])
		}
		i++
	}
	return b.String()
}

// build makes a policy from words: "b1:10.0.0.0/8", "a1:!10.1.2.3",
// "x:192.0.2.1".
func build(t *testing.T, o policy.Options, words string) (*policy.Policy, error) {
	t.Helper()
	b := inputs(words)
	b.o = o
	return b.Build()
}

func inputs(words string) *builder {
	b := newBuilder(policy.Options{})
	for w := range strings.FieldsSeq(words) {
		list, s, _ := strings.Cut(w, ":")
		s, not := strings.CutPrefix(s, "!")
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a := netip.MustParseAddr(s)
			p = netip.PrefixFrom(a, a.BitLen())
		}
		switch list[0] {
		case 'b':
			b.Add(b.List(list, policy.Block), p, not)
		case 'a':
			b.Add(b.List(list, policy.Allow), p, not)
		default:
			b.Except(p, list)
		}
	}
	return b
}

func TestTables(t *testing.T) {
	for _, c := range []struct {
		name, in, block, allow, smallest string
	}{
		{name: "nothing"},
		{name: "exceptions alone", in: "x:0.0.0.0/0 x:::/0"},
		{
			name: "as listed, in the kernel's order",
			in:   "b1:2001:db8::1 b1:10.0.0.0/8 b1:10.0.0.0/24 b1:10.0.0.0 b1:9.9.9.9 b2:2001:db8::/32",
			block: "9.9.9.9=b1 10.0.0.0=b1 10.0.0.0/24=b1 10.0.0.0/8=b1 " +
				"2001:db8::/32=b2 2001:db8::1=b1",
			smallest: "9.9.9.9=b1 10.0.0.0/8=b1 2001:db8::/32=b2",
		},
		{
			name:     "an entry of two lists is of the first",
			in:       "b1:192.0.2.1 b2:192.0.2.1 b2:192.0.2.2 b1:192.0.2.1",
			block:    "192.0.2.1=b1 192.0.2.2=b2",
			smallest: "192.0.2.1=b1 192.0.2.2=b2",
		},
		{
			name:     "an exception within a network",
			in:       "b1:10.0.0.0/8 own:10.1.2.3",
			block:    "10.0.0.0/8=b1 !10.1.2.3",
			smallest: "10.0.0.0/8=b1 !10.1.2.3",
		},
		{
			name:     "an exception swallows more specific entries",
			in:       "b1:10.0.0.0/8 b1:10.1.2.3 b2:10.1.0.0/24 x:10.1.0.0/16",
			block:    "10.0.0.0/8=b1 !10.1.0.0/16",
			smallest: "10.0.0.0/8=b1 !10.1.0.0/16",
		},
		{
			name: "exceptions that cover an entry together",
			in:   "b1:10.0.0.0/8 x:10.0.0.0/9 y:10.128.0.0/9",
		},
		{
			name:     "a negated entry of one list does not unblock what another blocks",
			in:       "b1:10.0.0.0/8 b1:!10.1.0.0/16 b2:10.1.2.0/24",
			block:    "10.0.0.0/8=b1 !10.1.0.0/16 10.1.2.0/24=b2",
			smallest: "10.0.0.0/8=b1 !10.1.0.0/16 10.1.2.0/24=b2",
		},
		{
			name:     "nor is it needed when another blocks all of it",
			in:       "b1:10.0.0.0/8 b1:!10.1.0.0/16 b2:10.0.0.0/15",
			block:    "10.0.0.0/15=b2 10.0.0.0/8=b1",
			smallest: "10.0.0.0/8=b1",
		},
		{
			name:     "an allow list beats block lists, but its own negations stand",
			in:       "b1:10.0.0.0/8 a1:10.1.0.0/16 a1:!10.1.2.0/24",
			block:    "10.0.0.0/8=b1 !10.1.0.0/16 10.1.2.0/24=b1",
			allow:    "10.1.0.0/16=a1 !10.1.2.0/24",
			smallest: "10.0.0.0/8=b1 !10.1.0.0/16 10.1.2.0/24=b1",
		},
		{
			name:     "exceptions do not change the allow table",
			in:       "b1:192.0.2.1 a1:192.0.2.128/25 x:192.0.2.128/25",
			block:    "192.0.2.1=b1",
			allow:    "192.0.2.128/25=a1",
			smallest: "192.0.2.1=b1",
		},
		{
			name:     "listed and negated in one list is negated",
			in:       "b1:192.0.2.1 b1:!192.0.2.1 b1:192.0.2.1 b1:192.0.2.2",
			block:    "192.0.2.2=b1",
			smallest: "192.0.2.2=b1",
		},
		{
			name:     "neighbours",
			in:       "b1:192.0.2.0 b2:192.0.2.1 b1:192.0.2.2 b1:192.0.2.3",
			block:    "192.0.2.0=b1 192.0.2.1=b2 192.0.2.2=b1 192.0.2.3=b1",
			smallest: "192.0.2.0/30=b1",
		},
		{
			name:     "all but one: a wider entry and its negation are fewer",
			in:       "b1:192.0.2.0/26 b1:192.0.2.64/26 b1:192.0.2.128/26 b1:192.0.2.192/27",
			block:    "192.0.2.0/26=b1 192.0.2.64/26=b1 192.0.2.128/26=b1 192.0.2.192/27=b1",
			smallest: "192.0.2.0/24=b1 !192.0.2.224/27",
		},
		{
			name:     "the whole space",
			in:       "b1:0.0.0.0/1 b1:128.0.0.0/1 b1:::/1 b1:8000::/1",
			block:    "0.0.0.0/1=b1 128.0.0.0/1=b1 ::/1=b1 8000::/1=b1",
			smallest: "0.0.0.0/0=b1 ::/0=b1",
		},
		{
			name:     "IPv4-mapped is IPv4",
			in:       "b1:::ffff:192.0.2.1 b1:::ffff:198.51.100.0/120 x:::ffff:198.51.100.7 b1:::fffe:0:0/95",
			block:    "192.0.2.1=b1 198.51.100.0/24=b1 !198.51.100.7 ::fffe:0:0/95=b1",
			smallest: "192.0.2.1=b1 198.51.100.0/24=b1 !198.51.100.7 ::fffe:0:0/95=b1",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := build(t, policy.Options{}, c.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := show(p.Block); got != c.block {
				t.Errorf("block table\n got %s\nwant %s", got, c.block)
			}
			if got := show(p.Allow); got != c.allow {
				t.Errorf("allow table\n got %s\nwant %s", got, c.allow)
			}
			p, err = build(t, policy.Options{Aggregate: true}, c.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := show(p.Block); got != c.smallest {
				t.Errorf("smallest block table\n got %s\nwant %s", got, c.smallest)
			}
		})
	}
}
