package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/rules"
	"example.org/threatstopd/agent/internal/sources"
	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
	"example.org/threatstopd/dnsfetch/dnstest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// On a firewall where everything is well every line is ok.
func TestAllIsWell(t *testing.T) {
	r := newRig(t)
	n, out := r.test()
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "ok    ") && line != "DNS Server is ready.\n" && !strings.HasPrefix(line, "The test was successful.") {
			t.Errorf("line %q", line)
		}
	}
	for _, want := range []string{
		"configuration: threatstop.conf", "running as root", "pf is enabled", "interface pflog0 is up", "pflogd is running",
		"table <ThreatSTOP-Block> has 6 entries", "come in from <ThreatSTOP-Block> are blocked and logged: @0", "go out to <ThreatSTOP-Block> are blocked and logged: @1",
		"pf.conf:1: table <ThreatSTOP-Block> is loaded from", "table file " + r.path("ThreatSTOP-Block.pftable"), "spool directory",
		"allow list " + allowList + ": 1 entry in 1 part (", "block list " + blockList + ": 4 entries", "DNS Server is ready.",
		"policy: 6 entries to block, 1 to allow", "knows this host's public address 198.51.100.1", "entry headroom: limit 200000, in use by other tables 0, the policy has 7",
		"answers: TLS 1.", "certificate good until", "clock: within",
		"192.0.2.66 is in table", "refused: permission denied", "its record on pflog0: ", "rule 1/(match) block out on em0: 198.18.0.1.30000 > 192.0.2.66.80: S",
		"\nThe test was successful. You are now ready to run threatstopd.\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("does not say %q", want)
		}
	}
	if n != 0 || t.Failed() {
		t.Errorf("%d failures:\n%s", n, out)
	}
}

// Each case breaks one thing. The lines are all that are not ok, by their level
// and phrases; what to do about it follows a >.
func TestWhatIsWrong(t *testing.T) {
	refused := func(context.Context) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	for name, tc := range map[string]struct {
		spoil func(r *rig)
		want  []string
	}{
		"a warning of the configuration": {func(r *rig) {
			r.warnings = []config.Problem{{File: "threatstop.conf", Text: "mode 0644"}}
		},
			[]string{"warn configuration: threatstop.conf: mode 0644"}},
		"not root": {func(r *rig) {
			r.o.Root = false
			r.o.OpenPF = func() (*pfioctl.PF, error) { return nil, errDenied }
			r.o.FlushPflogd = func() error { return errNoPflogd }
		}, []string{"skip not root > doas", "skip pf: open /dev/pf", "skip pflogd: not known", "skip tables and rules", "skip entry headroom", "skip test indicator"}},
		"no pf": {func(r *rig) { r.o.OpenPF = func() (*pfioctl.PF, error) { return nil, errDenied } },
			[]string{"FAIL pf: open /dev/pf > OpenBSD", "skip tables and rules", "skip entry headroom", "skip test indicator"}},
		"pf disabled": {func(r *rig) { r.kernel.SetRunning(false) },
			[]string{"FAIL pf is disabled > pfctl -e", "FAIL a connection to it was made > block drop out log quick to <ThreatSTOP-Block>"}},
		"pf skips the way out": {func(r *rig) {
			r.load(pfsim.Ruleset{Rules: blockRules(), Skip: []string{"lo", "em0"}, Tables: []pfsim.TableLine{{Table: block, Flags: pfioctl.TablePersist}, {Table: allow, Flags: pfioctl.TablePersist}}})
		}, []string{"FAIL pf ignores all packets on em0 (set skip) > remove them", "FAIL a connection to it was made"}},

		"no pflog interface": {func(r *rig) {
			r.o.Interfaces = func() ([]rules.Interface, error) { return []rules.Interface{{Name: "em0", Up: true}}, nil }
		},
			[]string{"FAIL interface pflog0 does not exist > rcctl enable pflogd"}},
		"the pflog interface down": {func(r *rig) {
			r.o.Interfaces = func() ([]rules.Interface, error) {
				return []rules.Interface{{Name: "em0", Up: true}, {Name: "pflog0"}}, nil
			}
		}, []string{"warn interface pflog0 is down > ifconfig pflog0 up"}},
		"interfaces that cannot be read": {func(r *rig) { r.o.Interfaces = func() ([]rules.Interface, error) { return nil, syscall.EMFILE } },
			[]string{"FAIL pflog: too many open files"}},
		"another pflog interface": {func(r *rig) { r.conf["PFLOG_IF"] = "pflog1" },
			[]string{"FAIL interface pflog1 does not exist > ifconfig pflog1 create up; echo up > /etc/hostname.pflog1", "note pflogd: it logs pflog0",
				"FAIL come in from; logged to pflog0, and hits are read from pflog1 > PFLOG_IF=pflog0", "FAIL go out to; logged to pflog0"}},
		"no pflogd": {func(r *rig) { r.o.FlushPflogd = func() error { return errNoPflogd } },
			[]string{"warn pflogd: not running > rcctl enable pflogd; rcctl start pflogd"}},
		"hits not reported": {func(r *rig) {
			r.conf["UPLOAD"] = "no"
			rules := blockRules()
			rules[0].Log, rules[1].Log = false, false
			r.rules(rules...)
		}, []string{"skip pflog", "skip log server"}},

		"no table": {func(r *rig) {
			pf, _ := r.o.OpenPF()
			r.load(pfsim.Ruleset{Rules: []pfsim.Rule{{}}})
			if _, err := pf.DelTables(block); err != nil {
				r.t.Fatal(err)
			}
		}, []string{"FAIL table <ThreatSTOP-Block> is not there > persist file; pfctl -f", "FAIL no rule blocks what is in table <ThreatSTOP-Block>, and the table does not exist > block drop in log quick from"}},
		"no allow table": {func(r *rig) {
			pf, _ := r.o.OpenPF()
			if _, err := pf.DelTables(allow); err != nil {
				r.t.Fatal(err)
			}
		}, []string{"note table <ThreatSTOP-Allow> is not there > define it in pf.conf"}},
		"a const table": {func(r *rig) {
			r.load(pfsim.Ruleset{Rules: blockRules(), Tables: []pfsim.TableLine{{Table: block, Flags: pfioctl.TableConst, File: strings.NewReader("192.0.2.66")}, {Table: allow, Flags: pfioctl.TablePersist}}})
		}, []string{"FAIL table <ThreatSTOP-Block> is const > persist file"}},
		"an empty table": {func(r *rig) { r.table("") },
			[]string{"warn table <ThreatSTOP-Block> is empty > --sync-now", "FAIL 192.0.2.66 is not in table <ThreatSTOP-Block> > --sync-now; --check 192.0.2.66"}},
		"no rules": {func(r *rig) { r.rules(pfsim.Rule{}) },
			[]string{"FAIL no rule blocks what is in table <ThreatSTOP-Block> > block drop in log quick from <ThreatSTOP-Block>; block drop out log quick to <ThreatSTOP-Block>", "FAIL a connection to it was made"}},
		"a release that is not known": {func(r *rig) {
			r.o.OpenPF = func() (*pfioctl.PF, error) { return pfioctl.New(r.kernel.Open(true), "8.1") } // its structs are other ones
		}, []string{"skip not known whether it is enabled: openbsd 8.1", "skip rules: not known whether they block: openbsd 8.1; 2 refer to the table > block drop in log quick"}},
		"a release that is not known, with the structs of 8.0": {func(r *rig) {
			r.kernel = pfsim.New(pfsim.Options{Release: "8.1"})
			r.kernel.SetRunning(true)
			r.load(pfsim.Ruleset{Rules: blockRules(), Tables: []pfsim.TableLine{{Table: block, Flags: pfioctl.TablePersist, File: strings.NewReader("192.0.2.66")}, {Table: allow, Flags: pfioctl.TablePersist}}})
		}, []string{"note pf: OpenBSD 8.1 is newer than this program: assuming the structures of 8.0"}},
		"a release that is not known, and no rules": {func(r *rig) {
			r.rules(pfsim.Rule{})
			r.o.OpenPF = func() (*pfioctl.PF, error) { return pfioctl.New(r.kernel.Open(true), "8.1") } // its structs are other ones
		}, []string{"skip not known whether it is enabled", "FAIL rules: none refers to table <ThreatSTOP-Block> > block drop in log quick", "FAIL a connection to it was made"}},

		"no pf.conf": {func(r *rig) { r.remove("pf.conf") }, []string{"skip pf.conf: not known"}},
		"pf.conf without the table": {func(r *rig) { r.write("pf.conf", "pass\n") },
			[]string{"FAIL does not define table <ThreatSTOP-Block> > table <ThreatSTOP-Block> persist file"}},

		"a directory that anybody may write to": {func(r *rig) { r.chmod(".", 0o777) }, []string{"FAIL directory of the persist files; mode 0777; chmod o-w"}},
		"no directory": {func(r *rig) { r.conf["OUT_DIR"] = "/nonexistent/x" },
			[]string{"FAIL pf.conf:1: table <ThreatSTOP-Block> is loaded from", "FAIL pf.conf:2: table <ThreatSTOP-Allow> is loaded from",
				"FAIL table files' directory /nonexistent/x does not exist > mkdir -p", "FAIL table file; does not exist > install -m 600", "FAIL table file; does not exist"}},
		"a file for a directory": {func(r *rig) {
			r.write("f", "")
			r.conf["SPOOL_DIR"] = r.path("f")
		}, []string{"FAIL spool directory; not a directory; SPOOL_DIR"}},
		"no table file": {func(r *rig) { r.remove("ThreatSTOP-Block.pftable") }, []string{"FAIL table file; does not exist > pf.conf does not load"}},
		"no allow file, and no allow lists": {func(r *rig) {
			r.remove("ThreatSTOP-Allow.pftable")
			delete(r.conf, "ALLOW_LISTS")
		}, []string{"note table file; does not exist"}},
		"a link for a table file": {func(r *rig) {
			r.remove("ThreatSTOP-Block.pftable")
			if err := os.Symlink(r.path("x"), r.path("ThreatSTOP-Block.pftable")); err != nil {
				r.t.Fatal(err)
			}
		}, []string{"FAIL is a symbolic link: name the file"}},
		"a directory for a table file": {func(r *rig) {
			r.remove("ThreatSTOP-Block.pftable")
			if err := os.Mkdir(r.path("ThreatSTOP-Block.pftable"), 0o700); err != nil {
				r.t.Fatal(err)
			}
		}, []string{"FAIL is not a regular file: move it away"}},
		"a table file that others may write to": {func(r *rig) { r.chmod("ThreatSTOP-Allow.pftable", 0o666) }, []string{"FAIL table file; mode 0666; chmod 600"}},
		"no user":                               {func(r *rig) { r.o.UID = -1 }, []string{"note user _threatstop: does not exist > threatstopd --install"}},
		"no spool":                              {func(r *rig) { r.remove("spool") }, []string{"FAIL spool directory; does not exist > install -d -o _threatstop -g _threatstop -m 700"}},
		"an open spool":                         {func(r *rig) { r.chmod("spool", 0o755) }, []string{"FAIL spool directory; mode 0755, not 0700: chmod 700"}},
		"somebody else's spool": {func(r *rig) {
			r.o.UID = 4711
			if err := os.Chown(r.path("spool"), 1234, -1); err != nil {
				r.t.Skip(err)
			}
		}, []string{"FAIL spool directory; not to _threatstop (4711): chown -R _threatstop:_threatstop"}},
		"no CA file":                     {func(r *rig) { r.remove("ca.pem") }, []string{"FAIL CA file; does not exist > PEM"}},
		"a CA file without certificates": {func(r *rig) { r.write("ca.pem", "x") }, []string{"FAIL CA_FILE; no PEM certificate in it"}},

		"no policy server": {func(r *rig) { r.dns.Close() }, []string{"FAIL policy server; cannot connect; refused > ports 53 and 5353", "FAIL no policy server gives all lists > above"}},
		"a policy server by a name that is none": {func(r *rig) { r.conf["DNS_SERVERS"] = "nowhere.example" },
			[]string{"FAIL policy server nowhere.example; no such host > DNS_SERVERS", "FAIL no policy server gives all lists"}},
		"one of two policy servers": {func(r *rig) { r.conf["DNS_SERVERS"] = "nowhere.example " + r.dns.Addr() },
			[]string{"warn policy server nowhere.example"}},
		"refused": {func(r *rig) { r.dns.Fail(dnstest.On{}, dnstest.Refused) },
			[]string{"FAIL REFUSED > do not know this host", "FAIL no policy server gives all lists > 15 minutes to an hour"}},
		"refused, and the page says so": {func(r *rig) {
			r.dns.Fail(dnstest.On{}, dnstest.Refused)
			r.authPage.Store("Your IP address: 198.51.100.1\nAddress is not in the list")
		}, []string{"FAIL REFUSED", "FAIL no policy server gives all lists", "FAIL does not know this host's public address 198.51.100.1 > 15 minutes"}},
		"refused, and no page": {func(r *rig) {
			r.dns.Fail(dnstest.On{}, dnstest.Refused)
			delete(r.conf, "AUTH_URL")
		}, []string{"FAIL REFUSED", "FAIL no policy server gives all lists", "skip authorised > AUTH_URL"}},
		"no such list": {func(r *rig) { r.conf["BLOCK_LISTS"] = "nothing.test.threatstop.local" },
			[]string{"FAIL list nothing.test.threatstop.local > as the service gives it", "FAIL policy: it blocks nothing > BLOCK_LISTS"}},
		"an empty list beside a good one": {func(r *rig) {
			r.serve("e.test.threatstop.local")
			r.conf["BLOCK_LISTS"] = blockList + " e.test.threatstop.local"
		}, []string{"FAIL list e.test.threatstop.local; the list is empty > the others are enforced"}},
		"an empty list": {func(r *rig) { r.serve(blockList) },
			[]string{"FAIL list basic.test.threatstop.local; the list is empty > the others", "FAIL policy: it blocks nothing > BLOCK_LISTS"}},
		"another host's source address": {func(r *rig) { r.o.Fetch.Source = netip.MustParseAddr("192.0.2.99") },
			[]string{"FAIL SOURCE_ADDRESS 192.0.2.99 is no address of this host > change or remove it in threatstop.conf", "skip log server", "skip test indicator"}},
		"a list without an answer": {func(r *rig) { r.dns.Fail(dnstest.On{List: blockList}, dnstest.NoRecords{}) },
			[]string{"FAIL list basic.test.threatstop.local; no records", "FAIL policy: it blocks nothing > BLOCK_LISTS"}},
		"a resolver's file that includes another": {func(r *rig) {
			r.write("unbound.conf", "include: \"/etc/more\"\n")
			r.o.ResolverFiles = []string{r.path("unbound.conf")}
		}, []string{"warn resolvers; unbound.conf includes /etc/more, which is not read > NEVER_BLOCK"}},
		"a policy of nothing": {func(r *rig) { r.serve(blockList, "198.18.0.1") }, []string{"FAIL policy: it blocks nothing > BLOCK_LISTS"}},
		"a host that cannot be excepted": {func(r *rig) { r.o.Sources.Reach = []sources.Reach{{Role: "log server", Host: "logs.example"}} },
			[]string{"warn policy: log server logs.example; not kept out of the block table > resolver"}},
		"own addresses unknown": {func(r *rig) {
			r.o.Host = func() (policy.Facts, error) { return policy.Facts{}, errors.New("own addresses: no route") }
		},
			[]string{"FAIL policy: own addresses"}},
		"not authorised":       {func(r *rig) { r.authPage.Store("no") }, []string{"FAIL does not know this host's public address > web site"}},
		"no page":              {func(r *rig) { r.auth.Close() }, []string{"warn authorised; refused > browser"}},
		"a page with an error": {func(r *rig) { r.authPage.Store("") }, []string{"warn authorised; 500 > AUTH_URL"}},

		"no room to load pf.conf again": {func(r *rig) { r.kernel.SetLimit(pfioctl.LimitTableEntries, 12) },
			[]string{"FAIL pf.conf could not be loaded again; limit 12, in use by other tables 0, the policy has 7 > set limit table-entries; above its table lines"}},
		"no room at all": {func(r *rig) { r.kernel.SetLimit(pfioctl.LimitTableEntries, 6) },
			[]string{"FAIL the policy does not fit: limit 6 > set limit table-entries"}},

		"no log server":                    {func(r *rig) { must(r.t, r.collector.Fail(reporttest.Failure{Fault: reporttest.Refuse})) }, []string{"FAIL log server; refused > let TCP to it out"}},
		"a log server that is not trusted": {func(r *rig) { delete(r.conf, "CA_FILE") }, []string{"FAIL log server; unknown authority > CA_FILE"}},
		"a log server that is broken": {func(r *rig) { must(r.t, r.collector.Fail(reporttest.Failure{Fault: reporttest.Status, Status: 503})) },
			[]string{"warn log server; 503 > url"}},
		"a proxy that wants a password": {func(r *rig) { r.conf["PROXY"] = proxy(r.t, true).URL }, []string{"FAIL log server; through proxy; Proxy Authentication Required > user:password@host"}},
		"a proxy that gets it":          {func(r *rig) { r.conf["PROXY"] = strings.Replace(proxy(r.t, true).URL, "//", "//me:secret@", 1) }, nil},
		"a clock that is late":          {func(r *rig) { r.skew = -10 * time.Minute }, []string{"FAIL clock: ; behind > ntpd"}},
		"a clock that is early":         {func(r *rig) { r.skew = 10 * time.Minute }, []string{"FAIL clock: ; ahead of > ntpd"}},
		"a clock from long ago":         {func(r *rig) { r.skew = -50 * 365 * 24 * time.Hour }, []string{"FAIL log server; expired or is not yet valid > clock says 19"}},

		"tables not loaded":                {func(r *rig) { r.conf["RELOAD_PF"] = "no" }, []string{"skip test indicator"}},
		"an indicator that has no address": {func(r *rig) { r.o.Indicators = []string{"bad.example"} }, []string{"warn bad.example: lookup bad.example: no such host > --test ADDRESS"}},
		"an indicator that is not listed":  {func(r *rig) { r.o.Indicators = []string{"10.9.9.9"} }, []string{"FAIL 10.9.9.9 is not in table > --check 10.9.9.9"}},
		"a connection that is made": {func(r *rig) {
			r.dialBad = func(context.Context) (net.Conn, error) { a, _ := net.Pipe(); return a, nil }
		}, []string{"FAIL a connection to it was made > block drop out log quick"}},
		"a connection that times out": {func(r *rig) {
			r.dialBad = func(context.Context) (net.Conn, error) { r.send(); return nil, os.ErrDeadlineExceeded }
		}, nil},
		"a connection that is reset, and logged": {func(r *rig) {
			r.dialBad = func(ctx context.Context) (net.Conn, error) { r.send(); return refused(ctx) }
		}, nil},
		"a connection that is reset by somebody": {func(r *rig) { r.dialBad = refused },
			[]string{"warn a connection to it fails: connect: connection refused: that may be pf > tcpdump", "FAIL no record of it on pflog0 within 2s > have to log"}},
		"no route": {func(r *rig) {
			r.dialBad = func(context.Context) (net.Conn, error) {
				return nil, os.NewSyscallError("connect", syscall.ENETUNREACH)
			}
		}, []string{"warn not known whether it is blocked > routes", "FAIL no record of it"}},
		"no record": {func(r *rig) {
			r.dialBad = func(context.Context) (net.Conn, error) { return nil, os.NewSyscallError("connect", syscall.EACCES) }
		}, []string{"FAIL no record of it on pflog0"}},
		"a record of somebody else": {func(r *rig) {
			r.dialBad = func(context.Context) (net.Conn, error) {
				r.pflog.Log(&capturetest.Packet{Action: capture.ActionBlock, Src: netip.MustParseAddr("192.0.2.67"), Dst: netip.MustParseAddr("198.18.0.1"), Proto: capturetest.UDP})
				return nil, os.NewSyscallError("connect", syscall.EACCES)
			}
		}, []string{"FAIL no record of it on pflog0"}},
		"no way to look for the record": {func(r *rig) { r.pflog.Destroy() }, []string{"FAIL its record cannot be looked for > ifconfig pflog0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			tc.spoil(r)
			n, out := r.test()
			checkLines(t, out, tc.want)
			fails := 0
			for _, w := range tc.want {
				if strings.HasPrefix(w, "FAIL") {
					fails++
				}
			}
			last := out[strings.LastIndexByte(strings.TrimSuffix(out, "\n"), '\n')+1:]
			if n != fails || strings.HasPrefix(last, "The test was successful.") != (fails == 0) || fails > 0 && !strings.Contains(last, count(fails, "failure", "failures")) {
				t.Errorf("%d failures, want %d, last line %q", n, fails, last)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// checkLines compares the lines that are not ok with "level phrase; phrase > do;
// do".
func checkLines(t *testing.T, out string, want []string) {
	t.Helper()
	type line struct{ text, do string }
	var got []line
	ok := false
	for l := range strings.Lines(out) {
		switch {
		case strings.HasPrefix(l, "      "):
			if !ok && len(got) > 0 {
				got[len(got)-1].do += l
			}
		case strings.HasPrefix(l, "ok  "):
			ok = true
		case len(l) > 6 && strings.Contains("FAIL warn note skip", l[:4]) && l[4:6] == "  ":
			ok = false
			got = append(got, line{text: l})
		}
	}
	bad := len(got) != len(want)
	for i := 0; !bad && i < len(want); i++ {
		head, do, _ := strings.Cut(want[i], " > ")
		level, phrases, _ := strings.Cut(head, " ")
		bad = !strings.HasPrefix(got[i].text, level)
		for _, p := range strings.Split(phrases, "; ") {
			bad = bad || !strings.Contains(got[i].text, p)
		}
		for _, p := range strings.Split(do, "; ") {
			bad = bad || !strings.Contains(got[i].do, p)
		}
	}
	if bad {
		t.Errorf("got:\n%s\nwant of what is not ok:\n%s", out, strings.Join(want, "\n"))
	}
}

func TestInvalidConfig(t *testing.T) {
	_, _, err := config.Parse("x.conf", strings.NewReader("FOO=1\nDNS_SERVERS='a b'\n"))
	var out bytes.Buffer
	n := Test(t.Context(), Options{File: "x.conf", Invalid: err}, &out)
	if n < 3 || strings.Count(out.String(), "FAIL  configuration: x.conf") != n || !strings.Contains(out.String(), fmt.Sprintf("%d failures.", n)) {
		t.Errorf("%d failures:\n%s", n, out.String())
	}
	out.Reset()
	if n := Test(t.Context(), Options{File: "x.conf", Invalid: os.ErrNotExist}, &out); n != 1 || !strings.Contains(out.String(), "1 failure.") {
		t.Errorf("%d failures:\n%s", n, out.String())
	}
}

// As JSON it says the same, and nothing else.
func TestJSON(t *testing.T) {
	r := newRig(t)
	r.remove("pf.conf")
	r.kernel.SetRunning(false)
	o := r.options()
	o.JSON = true
	var out bytes.Buffer
	n := Test(t.Context(), o, &out)
	var got struct {
		Failures, Warnings, Skipped int
		Findings                    []struct {
			Level, Text string
			Do          []string
		}
	}
	must(t, json.Unmarshal(out.Bytes(), &got))
	if n != 2 || got.Failures != 2 || got.Warnings != 0 || got.Skipped != 1 || got.Findings[0].Level != "ok" {
		t.Errorf("%d failures:\n%s", n, &out)
	}
	for _, f := range got.Findings {
		if f.Level == "fail" && len(f.Do) == 0 {
			t.Errorf("no remedy for %q", f.Text)
		}
	}
	out.Reset()
	Test(t.Context(), Options{File: "x.conf", Invalid: os.ErrNotExist, JSON: true}, &out)
	must(t, json.Unmarshal(out.Bytes(), &got))
	if got.Failures != 1 || got.Findings[0].Level != "fail" {
		t.Errorf("%s", &out)
	}
}

func TestTestEndsWhenTold(t *testing.T) {
	r := newRig(t)
	r.unconfined = true
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	if n := Test(ctx, r.options(), &out); n != 1 || !strings.Contains(out.String(), "not all was looked at") {
		t.Errorf("%d failures:\n%s", n, out.String())
	}
}

// What this machine reports must at least have its loopback interface.
func TestInterfacesOfThisMachine(t *testing.T) {
	all, err := Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Loopback {
			if runtime.GOOS == "openbsd" && !strings.Contains(strings.Join(i.Groups, " "), "lo") {
				t.Errorf("%s is in groups %v", i.Name, i.Groups)
			}
			return
		}
	}
	t.Errorf("no loopback in %v", all)
}
