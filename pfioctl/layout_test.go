package pfioctl

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"strconv"
	"sync"
	"testing"
	"unsafe"
)

// abi is what was measured on the headers of each release and architecture.
type abi struct {
	About    string
	Arch     map[string]abiOf            // 7.8, by architecture
	Releases map[string]map[string]abiOf // what is different there, by release
	Rules    map[string]map[string]abiRule
	Const    map[string]map[string]int
}

type abiOf struct {
	Structs map[string]abiStruct
	Ioctls  map[string]string
	Absent  []string
}

type abiStruct struct {
	Size   int
	Fields map[string][2]int // offset, size
}

type abiRule struct {
	Rule, Ioc, More map[string][2]int // More: from 7.9 on
	RuleSize, IocSz int
	Ioctls          map[string]string
}

func readGzipJSON(t testing.TB, name string, v any) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(v); err != nil {
		t.Fatal(err)
	}
}

var abiOnce = struct {
	sync.Once
	abi
}{}

func readABI(t testing.TB) abi {
	abiOnce.Do(func() { readGzipJSON(t, "testdata/abi.json.gz", &abiOnce.abi) })
	return abiOnce.abi
}

// of returns what was measured for a release on an architecture.
func (a abi) of(release, arch string) abiOf {
	out := abiOf{Structs: map[string]abiStruct{}, Ioctls: map[string]string{}}
	for _, o := range []abiOf{a.Arch[arch], a.Releases[release][arch]} {
		for k, v := range o.Structs {
			out.Structs[k] = v
		}
		for k, v := range o.Ioctls {
			out.Ioctls[k] = v
		}
		for _, k := range o.Absent {
			delete(out.Ioctls, k)
		}
	}
	return out
}

func num(t *testing.T, s string) uint {
	t.Helper()
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint(n)
}

var allReleases = []string{"6.9", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "7.7", "7.8", "7.9", "8.0"}

// measured is the release whose headers stand for another's.
func measured(release string) string {
	switch release {
	case "6.9", "7.0", "7.1":
		return "7.2"
	}
	return release
}

func eachLayout(t *testing.T, f func(t *testing.T, l Layout, release, arch string)) {
	for _, release := range allReleases {
		for _, a := range arches {
			l, err := LayoutFor(release, a.name)
			if err != nil {
				t.Fatalf("%s %s: %v", release, a.name, err)
			}
			t.Run(release+"/"+a.name, func(t *testing.T) { f(t, l, measured(release), a.name) })
		}
	}
}

func TestRequestNumbers(t *testing.T) {
	vec := readABI(t)
	eachLayout(t, func(t *testing.T, l Layout, release, arch string) {
		io := vec.of(release, arch).Ioctls
		r := l.Requests()
		for name, got := range map[string]uint{
			"DIOCSTART": r.Start, "DIOCSTOP": r.Stop,
			"DIOCGETSTATUS": r.GetStatus,
			"DIOCGETLIMIT":  r.GetLimit, "DIOCSETLIMIT": r.SetLimit,
			"DIOCRCLRTABLES": r.ClrTables,
			"DIOCRADDTABLES": r.AddTables, "DIOCRDELTABLES": r.DelTables,
			"DIOCRGETTABLES": r.GetTables, "DIOCRGETTSTATS": r.GetTStats,
			"DIOCRCLRTSTATS": r.ClrTStats, "DIOCRCLRADDRS": r.ClrAddrs,
			"DIOCRADDADDRS": r.AddAddrs, "DIOCRDELADDRS": r.DelAddrs,
			"DIOCRSETADDRS": r.SetAddrs,
			"DIOCRGETADDRS": r.GetAddrs, "DIOCRGETASTATS": r.GetAStats,
			"DIOCRCLRASTATS": r.ClrAStats, "DIOCRTSTADDRS": r.TstAddrs,
			"DIOCRSETTFLAGS": r.SetTFlags, "DIOCRINADEFINE": r.InaDefine,
			"DIOCGETRULES": r.GetRules, "DIOCGETRULE": r.GetRule,
			"DIOCGETRULESETS": r.GetRulesets, "DIOCGETRULESET": r.GetRuleset,
			"DIOCIGETIFACES": r.GetIfaces,
			"DIOCGETSTATES":  r.GetStates, "DIOCKILLSTATES": r.KillStates,
			"DIOCXBEGIN": r.XBegin, "DIOCXCOMMIT": r.XCommit,
			"DIOCXROLLBACK": r.XRollback, "DIOCXEND": r.XEnd,
		} {
			if want := num(t, io[name]); got != want {
				t.Errorf("%s = %#x, want %#x", name, got, want)
			}
		}
	})
}

func TestStructsByOffset(t *testing.T) {
	vec := readABI(t)
	eachLayout(t, func(t *testing.T, l Layout, release, arch string) {
		st := vec.of(release, arch).Structs
		check := func(name, field string, got int) {
			t.Helper()
			f, ok := st[name].Fields[field]
			if !ok {
				t.Fatalf("%s: no measure of %s", name, field)
			}
			if got != f[0] {
				t.Errorf("%s.%s at %d, want %d", name, field, got, f[0])
			}
		}
		size := func(name string, got int) {
			t.Helper()
			if want := st[name].Size; got != want {
				t.Errorf("sizeof %s = %d, want %d", name, got, want)
			}
		}
		ts := l.TStats()
		size("pfr_tstats", ts.Size)
		check("pfr_tstats", "pfrts_packets", ts.Packets)
		check("pfr_tstats", "pfrts_bytes", ts.Bytes)
		check("pfr_tstats", "pfrts_match", ts.Match)
		check("pfr_tstats", "pfrts_nomatch", ts.NoMatch)
		check("pfr_tstats", "pfrts_tzero", ts.Tzero)
		check("pfr_tstats", "pfrts_cnt", ts.Cnt)
		check("pfr_tstats", "pfrts_refcnt", ts.Refcnt)
		as := l.AStats()
		size("pfr_astats", as.Size)
		check("pfr_astats", "pfras_packets", as.Packets)
		check("pfr_astats", "pfras_bytes", as.Bytes)
		check("pfr_astats", "pfras_tzero", as.Tzero)
		size("pfi_kif", l.Iface().Size)
		if len(st["pfi_kif"].Fields) > 0 { // from 7.9 on
			check("pfi_kif", "pfik_name", l.Iface().Name)
			check("pfi_kif", "pfik_flags", l.Iface().Flags)
		}
		k := l.StateKill()
		size("pfioc_state_kill", k.Size)
		check("pfioc_state_kill", "psk_pfcmp.id", k.ID)
		check("pfioc_state_kill", "psk_pfcmp.creatorid", k.Creator)
		check("pfioc_state_kill", "psk_killed", k.Killed)
		s := l.Status()
		size("pf_status", s.Size)
		check("pf_status", "counters", s.Counters)
		check("pf_status", "since", s.Since)
		check("pf_status", "running", s.Running)
		check("pf_status", "states", s.States)
		check("pf_status", "debug", s.Debug)
		check("pf_status", "hostid", s.HostID)
		check("pf_status", "pf_chksum", s.Checksum)
	})
}

// What C makes of the declaration, which nothing here can compile: offsets as a
// compiler gave them for a struct of the same members.
func TestStateLayout(t *testing.T) {
	want := StateLayout{
		Size: 264, Ifname: 8, Key: 24, Creator: 236, AF: 250, Proto: 251, Direction: 252, Timeout: 255,
		KeySize: 40, KeyPort: 32, KeyAF: 38,
	}
	vec := readABI(t)
	eachLayout(t, func(t *testing.T, l Layout, release, arch string) {
		s := l.State()
		if s != want {
			t.Errorf("%+v, want %+v", s, want)
		}
		m, ok := vec.of(release, arch).Structs["pfsync_state"] // from 7.9 on
		if ok && m.Size != s.Size {
			t.Errorf("size %d, want %d", s.Size, m.Size)
		}
		for name, at := range map[string]int{
			"id": s.ID, "ifname": s.Ifname, "key": s.Key, "creatorid": s.Creator,
			"af": s.AF, "proto": s.Proto, "direction": s.Direction, "timeout": s.Timeout,
		} {
			if f, measured := m.Fields[name]; ok && (!measured || f[0] != at) {
				t.Errorf("%s at %d, want %v", name, at, f)
			}
		}
	})
}

func TestRuleLayout(t *testing.T) {
	vec := readABI(t)
	eachLayout(t, func(t *testing.T, l Layout, release, arch string) {
		m, r := vec.Rules[release][arch], l.rule
		if r.size != m.RuleSize || r.ioc != m.IocSz {
			t.Errorf("sizes %d in %d, want %d in %d", r.size, r.ioc, m.RuleSize, m.IocSz)
		}
		got := map[string]int{
			"src.addr": r.src.addr, "src.addr.type": r.src.typ, "src.addr.iflags": r.src.iflags,
			"src.neg": r.src.neg, "src.port_op": r.src.portOp,
			"dst.addr": r.dst.addr, "dst.addr.type": r.dst.typ, "dst.addr.iflags": r.dst.iflags,
			"dst.neg": r.dst.neg, "dst.port_op": r.dst.portOp,
			"src": r.src.addr, "dst": r.dst.addr,
			"src.addr.v.a.addr": r.src.addr, "src.addr.v.a.mask": r.src.addr + 16, "src.addr.v.tblname": r.src.addr,
			"dst.addr.v.a.addr": r.dst.addr, "dst.addr.v.a.mask": r.dst.addr + 16, "dst.addr.v.tblname": r.dst.addr,
			"label": r.label, "ifname": r.ifname, "rcv_ifname": r.rcvIfname,
			"evaluations": r.evaluations, "packets": r.packets, "bytes": r.bytes,
			"anchor": r.osfp - 2*l.arch.pointer, "onrdomain": r.onrdomain, "nr": r.nr,
			"rule_flag": r.flag, "action": r.action, "direction": r.direction,
			"log": r.log, "logif": r.logif, "quick": r.quick, "ifnot": r.ifnot,
			"af": r.af, "proto": r.proto, "rt": r.rt,
			"anchor_relative": r.anchorRelative, "anchor_wildcard": r.anchorWildcard,
		}
		if len(got) != len(m.Rule) {
			t.Errorf("%d members looked at, %d were measured", len(got), len(m.Rule))
		}
		for name, at := range m.Rule {
			if got[name] != at[0] {
				t.Errorf("pf_rule.%s at %d, want %d", name, got[name], at[0])
			}
		}
		for name, at := range map[string]int{
			"match_tagname": r.matchTagname, "pktrate": r.pktrate, "os_fingerprint": r.osfp, "prob": r.prob,
			"uid": r.uid, "gid": r.gid, "match_tag_not": r.matchTagNot, "keep_state": r.keepState,
			"type": r.typ, "code": r.code, "flags": r.tcpFlags, "flagset": r.tcpFlagset,
			"allow_opts": r.allowOpts, "tos": r.tos, "prio": r.prio, "naf": r.naf, "rcvifnot": r.rcvIfnot,
			"statelim": r.statelim, "statelim.id": r.statelim, "statelim.limiter_action": r.statelim + 4,
			"sourcelim": r.sourcelim, "sourcelim.id": r.sourcelim, "sourcelim.limiter_action": r.sourcelim + 4,
		} {
			if want, ok := m.More[name]; ok && at != want[0] {
				t.Errorf("pf_rule.%s at %d, want %d", name, at, want[0])
			}
		}
		if (r.statelim != 0) != (m.More != nil) {
			t.Errorf("limiters at %d", r.statelim)
		}
		for name, at := range map[string]int{
			"action": int(unsafe.Offsetof(PfiocRuleHead{}.Action)),
			"ticket": int(unsafe.Offsetof(PfiocRuleHead{}.Ticket)),
			"nr":     int(unsafe.Offsetof(PfiocRuleHead{}.Nr)),
			"anchor": int(unsafe.Offsetof(PfiocRuleHead{}.Anchor)), "anchor_call": int(unsafe.Offsetof(PfiocRuleHead{}.AnchorCall)),
			"rule": r.rule,
		} {
			if want := m.Ioc[name][0]; at != want {
				t.Errorf("pfioc_rule.%s at %d, want %d", name, at, want)
			}
		}
	})
}

func TestLayoutFor(t *testing.T) {
	for _, tt := range []struct {
		release, arch string
		known         bool
		err           string
	}{
		{"7.8", "amd64", true, ""},
		{"6.9", "386", true, ""},
		{"7.9", "arm64", true, ""},
		{"8.0", "riscv64", true, ""},
		{"8.1", "amd64", false, ""},
		{"10.2", "arm", false, ""},
		{"6.8", "amd64", false, "openbsd release 6.8: too old, pf's structs are known from 6.9 on"},
		{"5.0", "amd64", false, "openbsd release 5.0: too old, pf's structs are known from 6.9 on"},
		{"7.8", "sparc64", false, "architecture sparc64: pf's structs are not known (known: amd64, arm64, 386, arm, ppc64, riscv64)"},
		{"", "amd64", false, `openbsd release "": not of the form 7.8`},
		{"7", "amd64", false, `openbsd release "7": not of the form 7.8`},
		{"7.10", "amd64", false, `openbsd release "7.10": not of the form 7.8`},
		{"7.-1", "amd64", false, `openbsd release "7.-1": not of the form 7.8`},
		{"6.6.87.2-generic", "amd64", false, `openbsd release "6.6.87.2-generic": not of the form 7.8`},
	} {
		t.Run(tt.release+" "+tt.arch, func(t *testing.T) {
			l, err := LayoutFor(tt.release, tt.arch)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("error %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if l.Known() != tt.known || l.Release() != tt.release || l.Arch() != tt.arch {
				t.Errorf("release %s arch %s known %v", l.Release(), l.Arch(), l.Known())
			}
			r := l.Requests()
			if r.SetAddrs == 0 || r.GetLimit == 0 {
				t.Error("no table requests")
			}
			if got := r.GetStatus != 0 && r.GetRule != 0; got != tt.known {
				t.Errorf("status and rules known: %v, want %v", got, tt.known)
			}
		})
	}
}

// The newest known layout stands for those that come: what is not known of
// them must not be among what is taken over.
func TestNewerReleaseIsLikeTheNewestForTables(t *testing.T) {
	for _, a := range arches {
		old, err := LayoutFor("8.0", a.name)
		if err != nil {
			t.Fatal(err)
		}
		l, err := LayoutFor("9.1", a.name)
		if err != nil {
			t.Fatal(err)
		}
		if l.TStats() != old.TStats() || l.AStats() != old.AStats() {
			t.Error("table structs differ from 8.0")
		}
		want := old.Requests()
		want.GetStatus, want.GetRules, want.GetRule, want.GetIfaces = 0, 0, 0, 0
		want.GetStates, want.KillStates = 0, 0
		if l.Requests() != want {
			t.Errorf("requests %+v, want %+v", l.Requests(), want)
		}
		if l.Status() != (StatusLayout{}) || l.Iface() != (IfaceLayout{}) || l.State() != (StateLayout{}) || l.StateKill() != (StateKillLayout{}) || l.rule != (ruleLayout{}) {
			t.Error("status or rules are not marked as unknown")
		}
	}
}
