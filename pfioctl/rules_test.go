package pfioctl_test

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	. "example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
	"example.org/threatstopd/pfioctl/internal/abi/measured"
	"example.org/threatstopd/pfioctl/pfsim"
)

// recorded is a ruleset as it was loaded on OpenBSD 7.8/amd64.
type recorded struct {
	Name    string
	Conf    string `json:"pf.conf"`
	Show    string `json:"pfctl -a * -sr"`
	Anchors []struct {
		Anchor string
		Rules  []struct {
			Nr   int
			Call string `json:"anchor_call"`
			Raw  string `json:"raw_pf_rule"`
			Rule Rule
		}
	}
}

func readRecorded(t testing.TB) []recorded {
	t.Helper()
	var file struct{ Rulesets []recorded }
	f, err := os.Open("testdata/rulesets.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err == nil {
		err = json.NewDecoder(z).Decode(&file)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(file.Rulesets) != 30 {
		t.Fatalf("%d rulesets", len(file.Rulesets))
	}
	return file.Rulesets
}

func mustLayout(t testing.TB, release, arch string) *abi.Layout {
	t.Helper()
	l, err := abi.For(release, arch)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// decode reads a recorded struct pf_rule.
func decode(t testing.TB, l *abi.Layout, raw string) Rule {
	t.Helper()
	b, err := hex.DecodeString(raw)
	if err != nil || len(b) != l.Rule.Size {
		t.Fatalf("%d bytes of rule: %v", len(b), err)
	}
	return DecodeRule(l, b)
}

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func (r recorded) load(t testing.TB) *ruleKernel {
	k := newRuleKernel()
	amd64 := mustLayout(t, "7.8", "amd64")
	for _, a := range r.Anchors {
		k.rules[a.Anchor] = nil
		for _, x := range a.Rules {
			rule := decode(t, amd64, x.Raw)
			rule.Anchor, rule.Call = a.Anchor, x.Call
			if diff := cmp.Diff(x.Rule, rule, sameAddr); diff != "" {
				t.Errorf("rule %d of %q, want (-), decoded (+):\n%s", x.Nr, a.Anchor, diff)
			}
			k.rules[a.Anchor] = append(k.rules[a.Anchor], rule)
		}
	}
	return k
}

// ruleKernel answers the requests about rules as pf_ioctl.c does.
type ruleKernel struct {
	l       *abi.Layout
	rules   map[string][]Rule
	version uint32
	open    map[uint32]*ruleTrans // 7.4: tickets given out, until DIOCXEND
	last    uint32
	before  func(k *ruleKernel, req uint) error // asked first
	reads   int
}

type ruleTrans struct {
	anchor  string
	version uint32
	next    int
}

func newRuleKernel() *ruleKernel {
	return &ruleKernel{l: HostLayout("7.8"), rules: map[string][]Rule{"": nil}, open: map[uint32]*ruleTrans{}, last: 100}
}

func (k *ruleKernel) Close() error { return nil }

// children are the anchors below one, whether they have rules or not.
func (k *ruleKernel) children(anchor string) (names []string, ok bool) {
	_, ok = k.rules[anchor]
	for path := range k.rules {
		rest := path
		if anchor != "" {
			var below bool
			if rest, below = strings.CutPrefix(path, anchor+"/"); !below {
				continue
			}
		}
		if rest != "" {
			ok = true
			name, _, _ := strings.Cut(rest, "/")
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names, ok || anchor == ""
}

func (k *ruleKernel) Ioctl(req uint, arg unsafe.Pointer) error {
	if k.before != nil {
		if err := k.before(k, req); err != nil {
			return err
		}
	}
	r := k.l.Req
	switch req {
	case r.GetRules:
		h := (*abi.PfiocRuleHead)(arg)
		anchor := abi.CString(h.Anchor[:])
		rules, ok := k.rules[anchor]
		if !ok {
			return syscall.EINVAL
		}
		h.Nr = uint32(len(rules))
		h.Ticket = k.version
		if r.XEnd != 0 {
			k.last++
			h.Ticket = k.last
			k.open[k.last] = &ruleTrans{anchor: anchor, version: k.version}
		}
		return nil
	case r.GetRule:
		k.reads++
		b := unsafe.Slice((*byte)(arg), k.l.Rule.Ioc)
		h := (*abi.PfiocRuleHead)(arg)
		if h.Action != 0 {
			return errors.New("counters would have been cleared")
		}
		nr, anchor := int(h.Nr), abi.CString(h.Anchor[:])
		if r.XEnd == 0 {
			if h.Ticket != k.version || nr >= len(k.rules[anchor]) {
				return syscall.EBUSY
			}
		} else {
			t := k.open[h.Ticket]
			switch {
			case t == nil:
				return syscall.ENXIO
			case t.version != k.version:
				return syscall.EBUSY
			case t.next >= len(k.rules[t.anchor]):
				return syscall.ENOENT
			}
			nr, anchor = t.next, t.anchor
			t.next++
		}
		rule := &k.rules[anchor][nr]
		clear(h.AnchorCall[:])
		copy(h.AnchorCall[:], rule.Call)
		pfsim.EncodeRule(k.l, b[k.l.Rule.Rule:], rule)
		return nil
	case r.GetRulesets:
		p := (*abi.PfiocRuleset)(arg)
		names, ok := k.children(abi.CString(p.Path[:]))
		if !ok {
			return syscall.EINVAL
		}
		p.Nr = uint32(len(names))
		return nil
	case r.GetRuleset:
		p := (*abi.PfiocRuleset)(arg)
		names, ok := k.children(abi.CString(p.Path[:]))
		if !ok {
			return syscall.EINVAL
		}
		if int(p.Nr) >= len(names) {
			return syscall.EBUSY
		}
		copy(p.Name[:], names[p.Nr])
		return nil
	}
	if req == r.XEnd && req != 0 {
		ticket := *(*uint32)(arg)
		if k.open[ticket] == nil {
			return syscall.ENXIO
		}
		delete(k.open, ticket)
		return nil
	}
	return syscall.ENODEV
}

// show writes rules as `pfctl -a '*' -sr` does.
func show(b *strings.Builder, rs *Ruleset, indent string) {
	for i := range rs.Rules {
		r := &rs.Rules[i]
		fmt.Fprintf(b, "%s%v", indent, r)
		if r.Call != "" {
			b.WriteString(" {\n")
			for _, c := range r.Called {
				show(b, c, indent+"  ")
			}
			b.WriteString(indent + "}")
		}
		b.WriteString("\n")
	}
}

// Thirty rulesets, read with the requests a kernel answers, must look as they
// did to pfctl.
func TestRulesAsPfctlShowsThem(t *testing.T) {
	for _, rec := range readRecorded(t) {
		t.Run(rec.Name, func(t *testing.T) {
			k := rec.load(t)
			rs, err := With(k, k.l).Rules()
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			show(&b, rs, "")
			want := rec.Show
			for _, translation := range []string{" nat-to", " rdr-to"} {
				lines := strings.SplitAfter(want, "\n")
				for i, line := range lines {
					if j := strings.Index(line, translation); j >= 0 {
						lines[i] = line[:j] + "\n"
					}
				}
				want = strings.Join(lines, "")
			}
			if diff := cmp.Diff(want, b.String()); diff != "" {
				t.Errorf("not as pfctl (-) shows it:\n%s", diff)
			}
			if len(k.open) != 0 {
				t.Errorf("%d transactions left open", len(k.open))
			}
		})
	}
}

// What a judge of rulesets needs to know of the recorded ones.
func TestRuleMembers(t *testing.T) {
	rules := func(name string) []Rule {
		t.Helper()
		for _, rec := range readRecorded(t) {
			if rec.Name == name {
				k := rec.load(t)
				rs, err := With(k, k.l).Rules()
				if err != nil {
					t.Fatal(err)
				}
				return rs.Rules
			}
		}
		t.Fatalf("no ruleset %s", name)
		return nil
	}
	table := RuleAddr{Type: AddrTable, Name: "ThreatSTOP-Block"}
	block := Rule{
		Action: ActionBlock, Dir: DirIn, Quick: true, Log: LogFirst,
		RDomain: -1, ICMPType: -1, ICMPCode: -1, Prio: -1, Src: table,
	}
	with := func(f func(*Rule)) Rule {
		r := block
		f(&r)
		return r
	}
	for _, tt := range []struct {
		ruleset string
		nr      int
		want    Rule
	}{
		{"lean", 0, block},
		{"lean", 1, with(func(r *Rule) { r.Nr, r.Dir, r.Src, r.Dst = 1, DirOut, RuleAddr{}, table })},
		{"no-log", 0, with(func(r *Rule) { r.Log = 0 })},
		{"log-pflog1", 0, with(func(r *Rule) { r.LogIf = 1 })},
		{"log-all-user", 0, with(func(r *Rule) { r.Log = LogFirst | LogAll | 0x04 })},
		{"block-return", 0, with(func(r *Rule) { r.Return = "return" })},
		{"both-directions-one-rule", 0, with(func(r *Rule) { r.Dir = DirBoth })},
		{"inet-only", 0, with(func(r *Rule) { r.AF = abi.AFInet })},
		{"one-interface", 0, with(func(r *Rule) { r.Iface = "vio0" })},
		{"not-interface", 0, with(func(r *Rule) { r.Iface, r.IfaceNot = "vio0", true })},
		{"non-quick-last", 1, with(func(r *Rule) { r.Nr, r.Quick = 1, false })},
		{"negated-table", 0, with(func(r *Rule) { r.Src.Not = true })},
		{"match-only", 0, with(func(r *Rule) { r.Action, r.Quick = ActionMatch, false })},
		{"inet-tcp-port", 1, with(func(r *Rule) {
			r.Nr, r.AF, r.Proto, r.Dst.Port = 1, abi.AFInet, 6, Range{"=", 80, 0}
		})},
		{"default-pf.conf-like", 2, Rule{
			Nr: 2, Action: ActionBlock, Dir: DirIn, Return: "return", Iface: "lo0", IfaceNot: true, RDomain: -1,
			Proto: 6, ICMPType: -1, ICMPCode: -1, Prio: -1, Dst: RuleAddr{Port: Range{":", 6000, 6010}},
		}},
		{"default-pf.conf-like", 4, Rule{
			Nr: 4, Action: ActionBlock, Dir: DirOut, Return: "return", Log: LogFirst, RDomain: -1,
			Proto: 17, ICMPType: -1, ICMPCode: -1, Prio: -1, User: Range{"=", 83, 83},
		}},
		{"vendor", 4, Rule{
			Nr: 4, Action: ActionPass, RDomain: -1, TCPFlags: 0x02, TCPFlagSet: 0x12, ICMPType: -1, ICMPCode: -1, Prio: -1, KeepState: true,
		}},
		{"nat-and-rdr", 0, Rule{
			Action: ActionMatch, Dir: DirOut, Iface: "egress", RDomain: -1, AF: abi.AFInet, ICMPType: -1, ICMPCode: -1, Prio: -1,
			Src: RuleAddr{Addr: netip.MustParseAddr("10.0.0.0"), Mask: netip.MustParseAddr("255.0.0.0")},
		}},
	} {
		t.Run(fmt.Sprintf("%s %d", tt.ruleset, tt.nr), func(t *testing.T) {
			got := rules(tt.ruleset)[tt.nr]
			if tt.want.User.Op != "" {
				got.User.B = tt.want.User.B // of no meaning with =
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
		})
	}
}

// A struct that was decoded and encoded is decoded to the same, on every
// architecture and release, with any bytes.
func TestRuleRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, release := range measured.Releases {
		for _, a := range abi.Arches {
			l := mustLayout(t, release, a.Name)
			b := make([]byte, l.Rule.Size)
			for range 50 {
				for i := range b {
					b[i] = byte(rnd.Uint32())
				}
				b[l.Rule.Src.Type] = byte(rnd.IntN(8))
				b[l.Rule.Dst.Type] = byte(rnd.IntN(8))
				roundTrip(t, l, b)
			}
		}
	}
}

func roundTrip(t *testing.T, l *abi.Layout, b []byte) {
	t.Helper()
	r := DecodeRule(l, b)
	if len(r.Iface) > 16 || len(r.Tag) > 64 || len(r.Src.Name) > 32 || r.String() == "" {
		t.Fatalf("name beyond its field: %+v", r)
	}
	// Encoding ends names with a NUL, which random bytes may lack.
	cut := func(s *string, n int) { *s = (*s)[:min(len(*s), n-1)] }
	cut(&r.Iface, abi.IfNameSize)
	cut(&r.Received, abi.IfNameSize)
	cut(&r.Tag, abi.TagNameSize)
	cut(&r.Label, abi.RuleLabelSize)
	for _, a := range []*RuleAddr{&r.Src, &r.Dst} {
		if a.Type == AddrDynamic {
			cut(&a.Name, abi.IfNameSize)
		}
		cut(&a.Name, 32)
	}
	again := bytes.Clone(b)
	pfsim.EncodeRule(l, again, &r)
	if r2 := DecodeRule(l, again); !reflect.DeepEqual(r, r2) {
		t.Fatalf("first (-), again (+):\n%s", cmp.Diff(r, r2, sameAddr))
	}
}

func FuzzRule(f *testing.F) {
	amd64 := mustLayout(f, "7.8", "amd64")
	for _, rec := range readRecorded(f)[:5] {
		for _, a := range rec.Anchors {
			for _, x := range a.Rules {
				rule, err := hex.DecodeString(x.Raw)
				if err != nil {
					f.Fatal(err)
				}
				f.Add(x.Call, rule)
			}
		}
	}
	f.Fuzz(func(t *testing.T, _ string, rule []byte) {
		b := make([]byte, amd64.Rule.Size)
		copy(b, rule)
		roundTrip(t, amd64, b)
	})
}

func call(anchor string) Rule {
	return Rule{Call: anchor, RDomain: -1, ICMPType: -1, ICMPCode: -1, Prio: -1}
}

// called lists the anchors each rule calls, all the way down.
func called(rs *Ruleset) (out []string) {
	for i := range rs.Rules {
		for _, c := range rs.Rules[i].Called {
			out = append(out, c.Anchor)
			for _, below := range called(c) {
				out = append(out, "  "+below)
			}
		}
	}
	return out
}

func TestAnchorCalls(t *testing.T) {
	for _, tt := range []struct {
		name  string
		rules map[string][]Rule
		want  []string
	}{
		{"none", map[string][]Rule{"": {{}}, "a": {{}}}, nil},
		{"of the main ruleset", map[string][]Rule{"": {call("a"), {}, call("b")}, "a": {{}}, "b": nil}, []string{"a", "b"}},
		{"relative", map[string][]Rule{"": {call("a")}, "a": {call("b")}, "a/b": nil}, []string{"a", "  a/b"}},
		{"absolute", map[string][]Rule{"": {call("a")}, "a": {call("/b")}, "b": nil}, []string{"a", "  b"}},
		{"of the parent", map[string][]Rule{"": {call("a/b")}, "a/b": {call("../c")}, "a/c": nil}, []string{"a/b", "  a/c"}},
		{"of the parent's parent", map[string][]Rule{"": {call("a/b")}, "a/b": {call("../../c")}, "c": nil}, []string{"a/b", "  c"}},
		{"above the main ruleset", map[string][]Rule{"": {call("../c")}, "c": nil}, []string{"c"}},
		{"wildcard", map[string][]Rule{"": {call("a/*")}, "a": {{}}, "a/z": nil, "a/b": nil, "a/b/c": nil, "ab/c": nil}, []string{"a/b", "a/z"}},
		{"wildcard that calls on", map[string][]Rule{"": {call("a/*")}, "a/b": {call("*")}, "a/b/c": nil}, []string{"a/b", "  a/b/c"}},
		{"wildcard of the main ruleset", map[string][]Rule{"": {call("*")}, "a": nil, "_pf": nil, "b": nil}, []string{"a", "b"}},
		{"absolute wildcard", map[string][]Rule{"": {call("a")}, "a": {call("/b/*")}, "b": nil, "b/c": nil}, []string{"a", "  b/c"}},
		{"wildcard of the parent", map[string][]Rule{"": {call("a/b")}, "a/b": {call("..//*")}, "a/c": nil}, []string{"a/b", "  a/c"}},
		{"called twice", map[string][]Rule{"": {call("a"), call("a")}, "a": nil}, []string{"a", "a"}},
		{"calls itself", map[string][]Rule{"": {call("a")}, "a": {call("/a"), call("b")}, "a/b": {call("/a")}}, []string{"a", "  a/b"}},
	} {
		for _, release := range []string{"7.2", "7.3", "7.8"} {
			t.Run(tt.name+" "+release, func(t *testing.T) {
				k := newRuleKernel()
				k.l = HostLayout(release)
				for path, rules := range tt.rules {
					k.rules[path] = rules
				}
				rs, err := With(k, k.l).Rules()
				if err != nil {
					t.Fatal(err)
				}
				if got := called(rs); !slices.Equal(got, tt.want) {
					t.Errorf("called %q, want %q", got, tt.want)
				}
				if len(k.open) != 0 {
					t.Errorf("%d transactions left open", len(k.open))
				}
			})
		}
	}
}

func TestRulesThatChangeAreReadAgain(t *testing.T) {
	one := []Rule{{Label: "old"}, call("a")}
	two := []Rule{{Label: "new"}}
	for _, release := range []string{"7.3", "7.8"} {
		req := HostLayout(release).Req
		for _, tt := range []struct {
			name   string
			before func(k *ruleKernel, req uint) error
		}{
			{"replaced between two rules", func(k *ruleKernel, r uint) error {
				if r == req.GetRule && k.reads == 1 && k.version == 0 {
					k.version++
					k.rules[""] = two
				}
				return nil
			}},
			{"anchor gone before it is read", func(k *ruleKernel, r uint) error {
				if r == req.GetRules && k.reads == 2 {
					delete(k.rules, "a")
					k.rules[""] = two
					k.version++
				}
				return nil
			}},
			{"fewer children than counted", func(k *ruleKernel, r uint) error {
				if r == req.GetRuleset && k.version == 0 {
					delete(k.rules, "w/x")
					delete(k.rules, "a")
					k.rules[""] = two
					k.version++
				}
				return nil
			}},
		} {
			t.Run(tt.name+" "+release, func(t *testing.T) {
				k := newRuleKernel()
				k.l = HostLayout(release)
				k.rules[""], k.rules["a"] = one, []Rule{call("/w/*")}
				k.rules["w"], k.rules["w/x"] = nil, nil
				k.before = tt.before
				rs, err := With(k, k.l).Rules()
				if err != nil {
					t.Fatal(err)
				}
				if len(rs.Rules) != 1 || rs.Rules[0].Label != "new" {
					t.Errorf("rules %+v, want the new one", rs.Rules)
				}
				if len(k.open) != 0 {
					t.Errorf("%d transactions left open", len(k.open))
				}
			})
		}
	}
	t.Run("always replaced", func(t *testing.T) {
		k := newRuleKernel()
		k.rules[""] = one
		k.before = func(k *ruleKernel, r uint) error {
			if r == k.l.Req.GetRule {
				k.version++
			}
			return nil
		}
		_, err := With(k, k.l).Rules()
		if !errors.Is(err, ErrChanging) || err.Error() != "pf: read rules: keeps changing while it is read" {
			t.Errorf("error %v", err)
		}
		if len(k.open) != 0 {
			t.Errorf("%d transactions left open", len(k.open))
		}
	})
	t.Run("error of one rule", func(t *testing.T) {
		k := newRuleKernel()
		k.rules[""], k.rules["a"] = one, []Rule{{}}
		k.before = func(k *ruleKernel, r uint) error {
			if r == k.l.Req.GetRule && k.reads == 2 {
				return syscall.EPERM
			}
			return nil
		}
		_, err := With(k, k.l).Rules()
		if want := "pf: read rules: anchor a: rule 0: " + syscall.EPERM.Error(); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		if len(k.open) != 0 {
			t.Errorf("%d transactions left open", len(k.open))
		}
	})
}

func TestRuleStrings(t *testing.T) {
	ip := netip.MustParseAddr
	any := Rule{Action: ActionPass, RDomain: -1, ICMPType: -1, ICMPCode: -1, Prio: -1, KeepState: true}
	with := func(f func(*Rule)) Rule {
		r := any
		f(&r)
		return r
	}
	for _, tt := range []struct {
		want string
		rule Rule
	}{
		{"pass all flags any", any},
		{"block return-rst in all", with(func(r *Rule) { r.Action, r.Dir, r.Return = ActionBlock, DirIn, "return-rst" })},
		{"block return-icmp all", with(func(r *Rule) { r.Action, r.Return = ActionBlock, "return-icmp" })},
		{"action(2) all", with(func(r *Rule) { r.Action = 2; r.KeepState = false })},
		{"anchor all", with(func(r *Rule) { r.Call = "x/_1" })},
		{"pass inet6 proto ipv6-icmp all icmp6-type 128 code 0", with(func(r *Rule) {
			r.AF, r.Proto, r.ICMPType, r.ICMPCode = abi.AFInet6, 58, 128, 0
		})},
		{"pass inet proto icmp all icmp-type 8", with(func(r *Rule) { r.AF, r.Proto, r.ICMPType = abi.AFInet, 1, 8 })},
		{"pass proto 99 all", with(func(r *Rule) { r.Proto = 99 })},
		{"pass on ! rdomain 3 all flags any", with(func(r *Rule) { r.RDomain, r.IfaceNot = 3, true })},
		{"pass all received-on ! em1 flags any", with(func(r *Rule) { r.Received, r.ReceivedNot = "em1", true })},
		{"pass all group > 10 flags any", with(func(r *Rule) { r.Group = Range{">", 10, 0} })},
		{"pass from any os 0x10 to any flags any", with(func(r *Rule) { r.OS = 16 })},
		{"pass all flags any tos 0x10 prio 0 max-pkt-rate 100/10 once allow-opts probability 50% ! tagged X", with(func(r *Rule) {
			r.TOS, r.Prio, r.RateLimit, r.RateSeconds, r.Once = 16, 0, 100, 10, true
			r.AllowOpts, r.Probability, r.Tag, r.TagNot = true, 1<<31, "X", true
		})},
		{"pass all fragment", with(func(r *Rule) { r.Fragment = true })},
		{"pass inet from 10.0.0.0 mask 255.0.255.0 to ! 10.0.0.1 flags any", with(func(r *Rule) {
			r.AF = abi.AFInet
			r.Src = RuleAddr{Addr: ip("10.0.0.0"), Mask: ip("255.0.255.0")}
			r.Dst = RuleAddr{Not: true, Addr: ip("10.0.0.1"), Mask: ip("255.255.255.255")}
		})},
		{"pass inet from 10.0.0.1 - 10.0.0.9 to no-route flags any", with(func(r *Rule) {
			r.AF = abi.AFInet
			r.Src = RuleAddr{Type: AddrRange, Addr: ip("10.0.0.1"), Mask: ip("10.0.0.9")}
			r.Dst = RuleAddr{Type: AddrNoRoute}
		})},
		{`pass from urpf-failed to route "x" flags any`, with(func(r *Rule) {
			r.Src, r.Dst = RuleAddr{Type: AddrURPFFailed}, RuleAddr{Type: AddrRouteLabel, Name: "x"}
		})},
		{"pass from (em0:network:0) port 1 >< 9 to (egress:broadcast:peer) port 1 <> 9 flags any", with(func(r *Rule) {
			r.Src = RuleAddr{Type: AddrDynamic, Name: "em0", Dyn: ":network:0", Port: Range{"><", 1, 9}}
			r.Dst = RuleAddr{Type: AddrDynamic, Name: "egress", Dyn: ":broadcast:peer", Port: Range{"<>", 1, 9}}
		})},
	} {
		if got := tt.rule.String(); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

func TestRange(t *testing.T) {
	for _, tt := range []struct {
		r  Range
		in string // of the numbers 0 to 9
	}{
		{Range{}, "0123456789"},
		{Range{"><", 2, 5}, "34"},
		{Range{"=", 2, 5}, "2"},
		{Range{"!=", 2, 5}, "013456789"},
		{Range{"<", 2, 5}, "01"},
		{Range{"<=", 2, 5}, "012"},
		{Range{">", 7, 5}, "89"},
		{Range{">=", 7, 5}, "789"},
		{Range{"<>", 2, 5}, "016789"},
		{Range{":", 2, 5}, "2345"},
		{Range{"?", 2, 5}, ""},
	} {
		var in string
		for n := range uint32(10) {
			if tt.r.Contains(n) {
				in += fmt.Sprint(n)
			}
		}
		if in != tt.in {
			t.Errorf("%v contains %q, want %q", tt.r, in, tt.in)
		}
	}
}

// ifaceDevice answers DIOCIGETIFACES as pf_if.c does: where there is no room for
// all and one more, the last struct it counts is not filled in.
type ifaceDevice struct {
	l     *abi.Layout
	names []string // with a ! those that are skipped
	asked int
}

func (d *ifaceDevice) Close() error { return nil }

func (d *ifaceDevice) Ioctl(req uint, arg unsafe.Pointer) error {
	io, o := (*abi.PfiocIface)(arg), d.l.Iface
	switch {
	case req != d.l.Req.GetIfaces || int(io.Esize) != o.Size:
		return syscall.ENODEV
	case io.Size == 0:
		return syscall.EFAULT
	}
	d.asked++
	b := unsafe.Slice((*byte)(io.Buffer), int(io.Size)*o.Size)
	n := 0
	for _, name := range d.names {
		n++
		if int(io.Size) <= n {
			break
		}
		e := b[(n-1)*o.Size:][:o.Size]
		name, skip := strings.CutPrefix(name, "!")
		copy(e[o.Name:], name)
		d.l.Order().PutUint32(e[o.Flags:], 0x8843)
		if skip {
			d.l.Order().PutUint32(e[o.Flags:], 0x8843|0x100)
		}
	}
	io.Size = int32(n)
	return nil
}

func TestSkippedInterfaces(t *testing.T) {
	many := []string{"!lo0", "all", "egress", "em0", "!lo"}
	for i := range 64 - len(many) {
		many = append(many, fmt.Sprintf("tun%d", i))
	}
	for _, tt := range []struct {
		name  string
		names []string
		want  []string
		asked int
	}{
		{"none there", nil, nil, 1},
		{"none skipped", []string{"em0", "lo0"}, nil, 1},
		{"some skipped", []string{"!lo0", "all", "em0", "!lo"}, []string{"lo", "lo0"}, 1},
		{"as many as there is room for, less one", many[:63], []string{"lo", "lo0"}, 1},
		{"as many as there is room for", many, []string{"lo", "lo0"}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &ifaceDevice{l: HostLayout("7.8"), names: tt.names}
			got, err := With(d, d.l).SkippedInterfaces()
			if err != nil || !slices.Equal(got, tt.want) || d.asked != tt.asked {
				t.Errorf("%q, %v after %d requests, want %q after %d", got, err, d.asked, tt.want, tt.asked)
			}
		})
	}
	_, err := With(&ifaceDevice{}, HostLayout("8.1")).SkippedInterfaces()
	if !errors.Is(err, ErrUnknownRelease) {
		t.Errorf("unknown release: %v", err)
	}
	_, err = With(newRuleKernel(), HostLayout("7.8")).SkippedInterfaces()
	if !errors.Is(err, syscall.ENODEV) {
		t.Errorf("error %v", err)
	}
}

func TestRulesOfUnknownRelease(t *testing.T) {
	k := newRuleKernel()
	k.before = func(*ruleKernel, uint) error { t.Error("a request was made"); return syscall.ENODEV }
	_, err := With(k, HostLayout("8.1")).Rules()
	const want = "pf: read rules: openbsd 8.1: the structs of this release are not known"
	if !errors.Is(err, ErrUnknownRelease) || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
