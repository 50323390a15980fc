package abi

import (
	"testing"
	"unsafe"

	"example.org/threatstopd/pfioctl/internal/abi/measured"
)

func eachLayout(t *testing.T, f func(t *testing.T, l *Layout, release, arch string)) {
	for _, release := range measured.Releases {
		for _, a := range Arches {
			l, err := For(release, a.Name)
			if err != nil {
				t.Fatalf("%s %s: %v", release, a.Name, err)
			}
			t.Run(release+"/"+a.Name, func(t *testing.T) { f(t, l, measured.Stand(release), a.Name) })
		}
	}
}

func TestRequestNumbers(t *testing.T) {
	vec := measured.Read()
	eachLayout(t, func(t *testing.T, l *Layout, release, arch string) {
		io := vec.Of(release, arch)
		r := l.Req
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
			if want := io.Number(name); got != want {
				t.Errorf("%s = %#x, want %#x", name, got, want)
			}
		}
	})
}

func TestStructsByOffset(t *testing.T) {
	vec := measured.Read()
	eachLayout(t, func(t *testing.T, l *Layout, release, arch string) {
		st := vec.Of(release, arch).Structs
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
		ts := l.TStats
		size("pfr_tstats", ts.Size)
		check("pfr_tstats", "pfrts_packets", ts.Packets)
		check("pfr_tstats", "pfrts_bytes", ts.Bytes)
		check("pfr_tstats", "pfrts_match", ts.Match)
		check("pfr_tstats", "pfrts_nomatch", ts.NoMatch)
		check("pfr_tstats", "pfrts_tzero", ts.Tzero)
		check("pfr_tstats", "pfrts_cnt", ts.Cnt)
		check("pfr_tstats", "pfrts_refcnt", ts.Refcnt)
		as := l.AStats
		size("pfr_astats", as.Size)
		check("pfr_astats", "pfras_packets", as.Packets)
		check("pfr_astats", "pfras_bytes", as.Bytes)
		check("pfr_astats", "pfras_tzero", as.Tzero)
		size("pfi_kif", l.Iface.Size)
		if len(st["pfi_kif"].Fields) > 0 { // from 7.9 on
			check("pfi_kif", "pfik_name", l.Iface.Name)
			check("pfi_kif", "pfik_flags", l.Iface.Flags)
		}
		k := l.Kill
		size("pfioc_state_kill", k.Size)
		check("pfioc_state_kill", "psk_pfcmp.id", k.ID)
		check("pfioc_state_kill", "psk_pfcmp.creatorid", k.Creator)
		check("pfioc_state_kill", "psk_killed", k.Killed)
		s := l.Status
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
	vec := measured.Read()
	eachLayout(t, func(t *testing.T, l *Layout, release, arch string) {
		s := l.State
		if s != want {
			t.Errorf("%+v, want %+v", s, want)
		}
		m, ok := vec.Of(release, arch).Structs["pfsync_state"] // from 7.9 on
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
	vec := measured.Read()
	eachLayout(t, func(t *testing.T, l *Layout, release, arch string) {
		m, r := vec.Rules[release][arch], l.Rule
		if r.Size != m.RuleSize || r.Ioc != m.IocSz {
			t.Errorf("sizes %d in %d, want %d in %d", r.Size, r.Ioc, m.RuleSize, m.IocSz)
		}
		got := map[string]int{
			"src.addr": r.Src.Addr, "src.addr.type": r.Src.Type, "src.addr.iflags": r.Src.Iflags,
			"src.neg": r.Src.Neg, "src.port_op": r.Src.PortOp,
			"dst.addr": r.Dst.Addr, "dst.addr.type": r.Dst.Type, "dst.addr.iflags": r.Dst.Iflags,
			"dst.neg": r.Dst.Neg, "dst.port_op": r.Dst.PortOp,
			"src": r.Src.Addr, "dst": r.Dst.Addr,
			"src.addr.v.a.addr": r.Src.Addr, "src.addr.v.a.mask": r.Src.Addr + 16, "src.addr.v.tblname": r.Src.Addr,
			"dst.addr.v.a.addr": r.Dst.Addr, "dst.addr.v.a.mask": r.Dst.Addr + 16, "dst.addr.v.tblname": r.Dst.Addr,
			"label": r.Label, "ifname": r.Ifname, "rcv_ifname": r.RcvIfname,
			"evaluations": r.Evaluations, "packets": r.Packets, "bytes": r.Bytes,
			"anchor": r.OSFP - 2*l.Arch.Pointer, "onrdomain": r.OnRDomain, "nr": r.Nr,
			"rule_flag": r.Flag, "action": r.Action, "direction": r.Direction,
			"log": r.Log, "logif": r.LogIf, "quick": r.Quick, "ifnot": r.IfNot,
			"af": r.AF, "proto": r.Proto, "rt": r.RT,
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
			"match_tagname": r.MatchTagname, "pktrate": r.Pktrate, "os_fingerprint": r.OSFP, "prob": r.Prob,
			"uid": r.UID, "gid": r.GID, "match_tag_not": r.MatchTagNot, "keep_state": r.KeepState,
			"type": r.Type, "code": r.Code, "flags": r.TCPFlags, "flagset": r.TCPFlagset,
			"allow_opts": r.AllowOpts, "tos": r.TOS, "prio": r.Prio, "naf": r.naf, "rcvifnot": r.RcvIfNot,
			"statelim": r.StateLim, "statelim.id": r.StateLim, "statelim.limiter_action": r.StateLim + 4,
			"sourcelim": r.SourceLim, "sourcelim.id": r.SourceLim, "sourcelim.limiter_action": r.SourceLim + 4,
		} {
			if want, ok := m.More[name]; ok && at != want[0] {
				t.Errorf("pf_rule.%s at %d, want %d", name, at, want[0])
			}
		}
		if (r.StateLim != 0) != (m.More != nil) {
			t.Errorf("limiters at %d", r.StateLim)
		}
		for name, at := range map[string]int{
			"action": int(unsafe.Offsetof(PfiocRuleHead{}.Action)),
			"ticket": int(unsafe.Offsetof(PfiocRuleHead{}.Ticket)),
			"nr":     int(unsafe.Offsetof(PfiocRuleHead{}.Nr)),
			"anchor": int(unsafe.Offsetof(PfiocRuleHead{}.Anchor)), "anchor_call": int(unsafe.Offsetof(PfiocRuleHead{}.AnchorCall)),
			"rule": r.Rule,
		} {
			if want := m.Ioc[name][0]; at != want {
				t.Errorf("pfioc_rule.%s at %d, want %d", name, at, want)
			}
		}
	})
}

func TestFor(t *testing.T) {
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
			l, err := For(tt.release, tt.arch)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("error %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if l.Known != tt.known || l.Release != tt.release || l.Arch.Name != tt.arch {
				t.Errorf("release %s arch %s known %v", l.Release, l.Arch.Name, l.Known)
			}
			r := l.Req
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
	for _, a := range Arches {
		old, err := For("8.0", a.Name)
		if err != nil {
			t.Fatal(err)
		}
		l, err := For("9.1", a.Name)
		if err != nil {
			t.Fatal(err)
		}
		if l.TStats != old.TStats || l.AStats != old.AStats {
			t.Error("table structs differ from 8.0")
		}
		want := old.Req
		want.GetStatus, want.GetRules, want.GetRule, want.GetIfaces = 0, 0, 0, 0
		want.GetStates, want.KillStates = 0, 0
		if l.Req != want {
			t.Errorf("requests %+v, want %+v", l.Req, want)
		}
		if l.Status != (StatusLayout{}) || l.Iface != (IfaceLayout{}) || l.State != (StateLayout{}) || l.Kill != (StateKillLayout{}) || l.Rule != (RuleLayout{}) {
			t.Error("status or rules are not marked as unknown")
		}
	}
}
