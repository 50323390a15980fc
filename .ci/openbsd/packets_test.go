package openbsd

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

// writePflog writes a file as pflogd(8) does: a packet from each address, blocked on its
// way in, a second apart; last is the time of the last one.
func writePflog(s *site, name string, last time.Time, from ...string) {
	s.Helper()
	f, err := os.Create(name)
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	w, err := capturetest.NewPcapWriter(f, 0, nil)
	for i, a := range from {
		p := &capturetest.Packet{
			Time: last.Add(-time.Duration(len(from)-1-i) * time.Second), Action: capture.ActionBlock, Iface: "em0",
			Src: netip.MustParseAddr(a), Dst: netip.MustParseAddr("192.0.2.2"), Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22,
		}
		if p.Src.Is6() {
			p.Dst = netip.MustParseAddr("2001:db8:ffff::2")
		}
		err = errors.Join(err, w.Write(p))
	}
	if err != nil {
		s.Fatal(err)
	}
}

// free returns the highest number up to most of which no interface of these kinds exists.
func (s *site) free(most int, kinds ...string) int {
	s.Helper()
	for n := most; n > 0; n-- {
		if !slices.ContainsFunc(kinds, func(kind string) bool {
			_, code := s.run("ifconfig", fmt.Sprint(kind, n))
			return code == 0
		}) {
			return n
		}
	}
	s.skip("no number is free for an interface %v", kinds)
	return 0
}

// ownPflog names a pflog interface of our own, and makes it.
func (s *site) ownPflog(create bool) {
	s.Helper()
	s.pflog = fmt.Sprint("pflog", s.free(15, "pflog"))
	s.own("interface", s.pflog, "")
	if create {
		s.must("ifconfig", s.pflog, "create")
		s.must("ifconfig", s.pflog, "up")
	}
}

// wire lays a wire between two routing domains that this host does not have: what is
// sent from near, to anywhere, comes in at far. The kernel makes a lo(4) with each of
// them (rdomain(4)).
func (s *site) wire() {
	s.Helper()
	s.near = s.free(255, "pair", "lo")
	s.far = s.free(s.near-1, "pair", "lo")
	near, far := fmt.Sprint("pair", s.near), fmt.Sprint("pair", s.far)
	for _, rdomain := range []int{s.near, s.far} {
		s.own("interface", fmt.Sprint("lo", rdomain), "")
	}
	for _, name := range []string{near, far} {
		s.own("interface", name, "")
		s.must("ifconfig", name, "create")
	}
	for _, args := range []string{
		fmt.Sprintf("ifconfig %s rdomain %d", near, s.near),
		fmt.Sprintf("ifconfig %s rdomain %d", far, s.far),
		fmt.Sprintf("ifconfig %s patch %s", near, far),
		fmt.Sprintf("ifconfig %s inet 192.0.2.129/30 up", near),
		fmt.Sprintf("ifconfig %s inet 192.0.2.130/30 up", far),
		fmt.Sprintf("ifconfig %s inet6 2001:db8:ffff::1/64", near),
		fmt.Sprintf("ifconfig %s inet6 2001:db8:ffff::2/64", far),
		fmt.Sprintf("route -qn -T %d add -inet default 192.0.2.130", s.near),
		fmt.Sprintf("route -qn -T %d add -inet6 default 2001:db8:ffff::2", s.near),
	} {
		f := strings.Fields(args)
		s.must(f[0], f[1:]...)
	}
	s.until(30, "the addresses of the wire are not tentative", func() bool {
		return !strings.Contains(s.must("ifconfig", near)+s.must("ifconfig", far), "tentative")
	})
}

// wired has the lists served, a wire, a pflog interface, and rules on the wire, in which
// NEAR, FAR and PFLOG stand for the interfaces, and BLOCK and ALLOW for the tables.
func (s *site) wired(rules string) {
	s.Helper()
	s.serve(listed())
	if !strings.Contains(s.must("pfctl", "-s", "info"), "Status: Enabled") {
		s.skip("pf is disabled")
	}
	if !regexp.MustCompile(`(?m)^anchor "/*` + anchor + `/\*"`).MatchString(s.must("pfctl", "-s", "rules")) {
		s.skip(`the loaded ruleset has no line 'anchor "%s/*"': put it above rules with quick`, anchor)
	}
	s.tables()
	s.ownPflog(true)
	s.wire()
	conf := filepath.Join(s.dir, "rules")
	s.write(conf, strings.NewReplacer("NEAR", fmt.Sprint("pair", s.near), "FAR", fmt.Sprint("pair", s.far), "PFLOG", s.pflog,
		"BLOCK", "<"+block+">", "ALLOW", "<"+allow+">").Replace(rules))
	s.must("pfctl", "-nf", conf)
	s.own("rules", anchor+"/live", "")
	// OpenBSD 7.1 to 7.3 do not bring a table to life that only a rule mentions.
	for _, table := range []string{block, allow} {
		s.must("pfctl", "-q", "-t", table, "-T", "replace")
	}
	s.must("pfctl", "-a", anchor+"/live", "-f", conf)
}

// Some packets are blocked before the wire, some behind it; the negated entry is logged
// though it is no hit. Nothing reaches the rules below.
const wireRules = `block drop out log (to PFLOG) quick on NEAR inet to 203.0.113.7
block drop out log (to PFLOG) quick on NEAR inet6 to 2001:db8::7
block drop in log (to PFLOG) quick on FAR to BLOCK
block drop in log (to PFLOG) quick on FAR inet to 198.51.100.9
pass quick on { NEAR FAR } no state
`

func (s *site) readsPflog() {
	s.Helper()
	s.until(60, s.pflog+" is read", func() bool {
		return regexp.MustCompile("(?m)^Hits on " + s.pflog + ": [0-9]").MatchString(s.status())
	})
}

// via runs a program in the rdomain near; what is blocked on its way out is an error to
// the sender.
func (s *site) via(command string) {
	s.run("route", append([]string{"-T", fmt.Sprint(s.near), "exec"}, strings.Fields(command)...)...)
}

// reached skips where no packet has come as far as our rules.
func (s *site) reached() {
	s.Helper()
	if !regexp.MustCompile(`Evaluations: [1-9]`).MatchString(s.must("pfctl", "-a", anchor+"/live", "-v", "-s", "rules")) {
		s.skip(`no packet comes to the line 'anchor "%s/*"': put it above rules with quick, and have no "set skip" on pair`, anchor)
	}
}

// lines: the text of packets that are logged is tcpdump's.
func lines(s *site) {
	s.wired(wireRules)
	s.configure(s.collect("UPLOAD=all", "PFLOG_IF="+s.pflog)...)
	s.runDaemon(false)
	s.sync()
	s.readsPflog()
	// With tcpdump's own length of a packet the options of TCP are cut.
	tcpdump := s.start("tcpdump", "tcpdump", "-n", "-e", "-S", "-l", "-s", "1500", "-i", s.pflog)
	s.until(60, "tcpdump starts", func() bool { return strings.Contains(tcpdump.text(), "listening on") })
	for _, command := range []string{
		"ping -n -c 1 -w 1 198.51.100.1", "ping -n -c 1 -w 1 203.0.113.7", "ping6 -n -c 1 -w 1 2001:db8:1::1",
		"ping6 -n -c 1 -w 1 2001:db8::7", "nc -n -z -w 1 198.51.100.2 22", "nc -n -z -u -w 1 203.0.113.9 40123",
	} {
		s.via(command)
	}
	s.reached()
	printed := func() []string {
		return slices.DeleteFunc(fields(tcpdump.text()), func(line string) bool { return !strings.Contains(line, " rule ") })
	}
	for _, to := range []string{"198.51.100.1", "203.0.113.7", "2001:db8:1::1", "2001:db8::7", "198.51.100.2", "203.0.113.9"} {
		s.until(60, "tcpdump prints a packet to "+to, func() bool { return about(printed(), to) > 0 })
	}
	time.Sleep(patience(3)) // a packet that is sent again
	s.end(tcpdump)
	s.until(120, "as many lines arrive", func() bool { return len(s.arrived()) >= len(printed()) })
	s.endDaemon(false)
	s.same("lines at the log server", printed(), s.arrived())
}

// hits: a hit arrives, once, though the log server fails at first. What is logged and is
// no hit stays here.
func hits(s *site, traced bool) {
	s.wired(wireRules)
	s.configure(s.collect("UPLOAD=hits", "PFLOG_IF="+s.pflog)...)
	if err := s.logs.Fail(reporttest.Failure{Fault: reporttest.Status, Status: 503, Times: 1}); err != nil {
		s.Fatal(err)
	}
	s.runDaemon(traced)
	s.sync()
	s.readsPflog()
	s.via("ping -n -c 1 -w 1 198.51.100.9")
	s.via("ping -n -c 1 -w 1 198.51.100.1")
	s.reached()
	s.until(60, "one hit of two packets", func() bool {
		return strings.Contains(s.status(), "Hits on "+s.pflog+": 1 of 2 packets")
	})
	s.until(180, "the hit arrives", func() bool { return len(s.arrived()) > 0 })
	s.endDaemon(traced)
	if have := s.arrived(); len(have) != 1 || about(have, "198.51.100.1") != 1 {
		s.Errorf("not the one hit, once: %q", have)
	}
}

// states: KILL_STATES ends established connections to an address that becomes blocked,
// each half, that which rdr-to translates in another rdomain too, and no other.
func states(s *site) {
	s.wired(`block drop log (to PFLOG) quick on { NEAR FAR } from BLOCK
block drop log (to PFLOG) quick on { NEAR FAR } to BLOCK
pass in quick on FAR inet proto tcp to { 203.0.113.200 203.0.113.201 } port 4000 rdr-to 192.0.2.130
pass quick on { NEAR FAR }
`)
	s.configure(s.collect("UPLOAD=hits", "PFLOG_IF="+s.pflog, "KILL_STATES=yes")...)
	s.runDaemon(false)
	s.sync()
	far, near := fmt.Sprint(s.far), fmt.Sprint(s.near)
	s.start("192.0.2.130", "route", "-T", far, "exec", "nc", "-n", "-k", "-l", "192.0.2.130", "4000")
	established := func(to string) (n int) {
		for line := range strings.Lines(s.must("pfctl", "-s", "states")) {
			if strings.Contains(line, to+":4000") && strings.Contains(line, "ESTABLISHED:ESTABLISHED") {
				n++
			}
		}
		return n
	}
	for _, to := range []string{"203.0.113.200", "203.0.113.201"} {
		s.until(60, "an established connection to "+to, func() bool {
			if established(to) == 0 {
				s.start(to, "route", "-T", near, "exec", "nc", "-n", to, "4000")
				time.Sleep(patience(2))
			}
			return established(to) == 2
		})
	}
	s.serve(listed("203.0.113.200"))
	s.sync()
	s.until(60, "the states are killed", func() bool { return !strings.Contains(s.must("pfctl", "-s", "states"), "203.0.113.200") })
	if n := established("203.0.113.201"); n != 2 {
		s.Errorf("%d states of the other connection, want both", n)
	}
	s.until(30, "the killed states are logged", func() bool {
		return regexp.MustCompile(`states killed.*killed=[1-9]`).MatchString(s.daemon.text())
	})
	s.endDaemon(false)
}

// vendor: the pf.conf that the vendor documents needs nothing from its owner.
func vendor(s *site) {
	s.wired(`pass in quick from ALLOW
pass out quick to ALLOW
block drop in log quick from BLOCK
block drop out log quick to BLOCK
`)
	s.configure("UPLOAD=no")
	s.sync()
	text, _ := s.threatstopd("--test", "-f", s.conf)
	good := 0
	for line := range strings.Lines(text) {
		switch level, _, _ := strings.Cut(line, " "); {
		case !strings.Contains(line, "<threatstopd_test_"):
		case strings.Contains(line, "/etc/pf.conf: "), strings.Contains(line, " persist file "):
			// The host's own file does not define the tables of the tests.
		case level == "ok":
			good++
		case level != "note":
			s.Errorf("--test: %s", line)
		}
	}
	if good < 2 {
		s.Error("--test does not find both rules good")
	}
}
