package rules

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.org/threatstopd/pfioctl"
)

// anchors are rulesets as pf.conf writes them, by path; "" is the main one.
type anchors map[string]string

// load makes of rules what pf makes of them, as far as tests need it. Block
// stands for the block table, Allow for the allow table, and T@3 for a table T
// that holds 3 addresses.
func (a anchors) load(t testing.TB) *pfioctl.Ruleset {
	t.Helper()
	loaded := make(map[string]*pfioctl.Ruleset)
	var read func(path string) *pfioctl.Ruleset
	read = func(path string) *pfioctl.Ruleset {
		if rs := loaded[path]; rs != nil {
			return rs
		}
		rs := &pfioctl.Ruleset{Anchor: path}
		loaded[path] = rs
		for line := range strings.Lines(a[path]) {
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			r := parseRule(t, line)
			r.Anchor, r.Nr = path, len(rs.Rules)
			rs.Rules = append(rs.Rules, r)
		}
		for i := range rs.Rules {
			r := &rs.Rules[i]
			if r.Call == "" {
				continue
			}
			to := strings.TrimPrefix(r.Call, "/")
			if to == r.Call && path != "" {
				to = path + "/" + to
			}
			dir, wild := strings.CutSuffix(to, "*")
			if !wild {
				r.Called = append(r.Called, read(to))
				continue
			}
			for _, child := range slices.Sorted(maps.Keys(a)) {
				if rest, ok := strings.CutPrefix(child, dir); ok && rest != "" && !strings.Contains(rest, "/") {
					r.Called = append(r.Called, read(child))
				}
			}
		}
		return rs
	}
	return read("")
}

var protoNumbers = map[string]uint8{"tcp": 6, "udp": 17, "icmp": 1, "icmp6": 58, "carp": 112, "esp": 50, "gre": 47}

func parseRule(t testing.TB, line string) pfioctl.Rule {
	t.Helper()
	words := strings.Fields(line)
	next := func() string {
		if len(words) == 0 {
			t.Fatalf("%q ends too soon", line)
		}
		w := words[0]
		words = words[1:]
		return w
	}
	number := func() int {
		w := next()
		n, err := strconv.Atoi(w)
		if err != nil {
			t.Fatalf("%q: %s is no number", line, w)
		}
		return n
	}
	has := func(w string) bool {
		if len(words) > 0 && words[0] == w {
			words = words[1:]
			return true
		}
		return false
	}
	r := pfioctl.Rule{RDomain: -1, ICMPType: -1, ICMPCode: -1, Prio: -1}
	flags := false
	switch w := next(); w {
	case "pass":
		r.Action, flags = pfioctl.ActionPass, true
		r.KeepState = true
	case "block":
		r.Action = pfioctl.ActionBlock
	case "match":
		r.Action = pfioctl.ActionMatch
	case "anchor":
		r.Call = strings.Trim(next(), `"`)
	default:
		t.Fatalf("%q: no rule", line)
	}
	side := func(a *pfioctl.RuleAddr) {
		a.Not = has("!")
		w := next()
		switch {
		case w == "any":
		case strings.HasPrefix(w, "<"):
			a.Type = pfioctl.AddrTable
			name, count, counted := strings.Cut(strings.Trim(w, "<>"), "@")
			a.Name = map[string]string{"Block": block.Name, "Allow": allow.Name}[name]
			if a.Name == "" {
				a.Name = name
			}
			a.Count = 1
			if counted {
				a.Count, _ = strconv.Atoi(count)
			}
		case strings.HasPrefix(w, "("):
			a.Type = pfioctl.AddrDynamic
			name, network, _ := strings.Cut(strings.Trim(w, "()"), ":")
			a.Name = name
			if network == "network" {
				a.Dyn = ":network"
			}
		case w == "no-route":
			a.Type = pfioctl.AddrNoRoute
		case w == "urpf-failed":
			a.Type = pfioctl.AddrURPFFailed
		case strings.Contains(w, "-"):
			first, last, _ := strings.Cut(w, "-")
			a.Type, a.Addr, a.Mask = pfioctl.AddrRange, netip.MustParseAddr(first), netip.MustParseAddr(last)
		default:
			if !strings.Contains(w, "/") {
				w += map[bool]string{true: "/128", false: "/32"}[strings.Contains(w, ":")]
			}
			p := netip.MustParsePrefix(w)
			ones, _ := netip.AddrFromSlice([]byte(strings.Repeat("\xff", p.Addr().BitLen()/8)))
			a.Addr = p.Addr()
			a.Mask = netip.PrefixFrom(ones, p.Bits()).Masked().Addr()
			r.AF = pfioctl.AFInet
			if p.Addr().Is6() {
				r.AF = pfioctl.AFInet6
			}
		}
		if has("port") {
			a.Port = parseRange(t, next())
		}
	}
	for len(words) > 0 {
		switch w := next(); w {
		case "in":
			r.Dir = pfioctl.DirIn
		case "out":
			r.Dir = pfioctl.DirOut
		case "drop", "all":
		case "quick":
			r.Quick = true
		case "log":
			r.Log = pfioctl.LogFirst
			for len(words) > 0 && strings.HasPrefix(words[0], "(") {
				for _, o := range strings.Split(strings.Trim(next(), "()"), ",") {
					switch {
					case o == "all":
						r.Log |= pfioctl.LogAll
					case o == "matches":
						r.Log |= pfioctl.LogMatches
					default:
						r.LogIf, _ = strconv.Atoi(strings.TrimPrefix(o, "pflog"))
					}
				}
			}
		case "on":
			r.IfaceNot = has("!")
			if has("rdomain") {
				r.RDomain = number()
			} else {
				r.Iface = next()
			}
		case "received-on":
			r.ReceivedNot = has("!")
			r.Received = next()
		case "inet":
			r.AF = pfioctl.AFInet
		case "inet6":
			r.AF = pfioctl.AFInet6
		case "proto":
			w := next()
			if r.Proto = protoNumbers[w]; r.Proto == 0 {
				t.Fatalf("%q: protocol %s", line, w)
			}
			if r.Proto != protoTCP {
				flags = false
			}
		case "from":
			side(&r.Src)
		case "to":
			side(&r.Dst)
		case "flags":
			flags = false
			if w := next(); w == "S/SA" {
				r.TCPFlags, r.TCPFlagSet = 0x02, 0x12
			}
		case "user":
			r.User = parseRange(t, next())
		case "group":
			r.Group = parseRange(t, next())
		case "icmp-type":
			r.ICMPType = number()
		case "code":
			r.ICMPCode = number()
		case "tos":
			r.TOS = uint8(number())
		case "prio":
			r.Prio = number()
		case "os":
			r.OS = uint32(number())
		case "tagged":
			r.TagNot = has("!")
			r.Tag = next()
		case "probability":
			r.Probability = uint32(float64(number()) / 100 * (1<<32 - 1))
		case "max-pkt-rate":
			r.RateLimit, r.RateSeconds = uint32(number()), 10
		case "state-limiter":
			r.StateLimiter = pfioctl.Limiter{ID: uint8(number())}
		case "source-limiter":
			r.SourceLimiter = pfioctl.Limiter{ID: uint8(number()), Block: true}
		case "once":
			r.Once = true
		case "expired":
			r.Expired = true
		case "fragment":
			r.Fragment = true
			flags = false
		default:
			t.Fatalf("%q: what is %s", line, w)
		}
	}
	if flags {
		r.TCPFlags, r.TCPFlagSet = 0x02, 0x12 // pfctl adds S/SA
	}
	return r
}

func parseRange(t testing.TB, w string) pfioctl.Range {
	t.Helper()
	num := func(s string) uint32 {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(n)
	}
	for _, op := range []string{"><", "<>", "!=", "<=", ">=", "<", ">", ":"} {
		if a, b, ok := strings.Cut(w, op); ok {
			if a == "" {
				return pfioctl.Range{Op: op, A: num(b)}
			}
			return pfioctl.Range{Op: op, A: num(a), B: num(b)}
		}
	}
	return pfioctl.Range{Op: "=", A: num(w)}
}
