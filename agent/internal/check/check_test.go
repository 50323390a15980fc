package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

func TestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		addr  string
		spoil func(r *rig)
		want  Answer
		say   []string
	}{
		"a listed host": {"192.0.2.66", nil, Blocked, []string{
			"table:    <ThreatSTOP-Block>: in it, by 192.0.2.66\n", "counters: 192.0.2.66: none", "table:    <ThreatSTOP-Allow>: not in it",
			"list:     allow list " + allowList + ": not on it", "list:     block list " + blockList + ": on it, by 192.0.2.66",
			"policy:   blocks it: entry 192.0.2.66 of list " + blockList, "hits:     none in pflogd's files", "\n192.0.2.66 is blocked\n"}},
		"an address of a listed network": {"2001:db8:5::7", nil, Blocked, []string{"in it, by 2001:db8::/32", "on it, by 2001:db8::/32", "2001:db8:5::7 is blocked"}},
		"one that an allow list has": {"203.0.113.7", nil, NotBlocked, []string{"<ThreatSTOP-Block>: not in it, by !203.0.113.7", "allow list " + allowList + ": on it, by 203.0.113.7",
			"block list " + blockList + ": on it, by 203.0.113.0/24", "policy:   does not block it", "203.0.113.7 is not blocked"}},
		"an own address":        {"198.18.0.1", nil, NotBlocked, []string{"not in it, by !198.18.0.1", "excepted: never blocked: 198.18.0.1 (own address of em0)", "policy:   does not block it"}},
		"one that nobody knows": {"10.1.1.1", nil, NotBlocked, []string{"<ThreatSTOP-Block>: not in it\n", "block list " + blockList + ": not on it", "10.1.1.1 is not blocked"}},
		"listed as IPv4-mapped": {"192.0.2.77", func(r *rig) {
			r.serve(blockList, "::ffff:192.0.2.77", "203.0.113.0/24")
			r.table("192.0.2.77 203.0.113.0/24 !203.0.113.7")
		}, Blocked, []string{"in it, by 192.0.2.77\n", "block list " + blockList + ": on it, by 192.0.2.77\n", "policy:   blocks it: entry 192.0.2.77 of list", "192.0.2.77 is blocked"}},
		"under an entry that is too wide": {"8.8.8.8", func(r *rig) {
			r.serve(blockList, "192.0.2.66", "8.0.0.0/6")
			r.o.Policy.MinPrefixV4 = 8
		}, NotBlocked, []string{"not on it\n", "entry 8.0.0.0/6 is dropped: ", "policy:   does not block it: entry 8.0.0.0/6 of list " + blockList + " is dropped: ", "8.8.8.8 is not blocked"}},
		"a network inside a listed one": {"203.0.113.128/25", nil, Blocked, []string{"in it, by 203.0.113.0/24\n", "on it, by 203.0.113.0/24\n", "policy:   blocks it: entry 203.0.113.0/24 of list", "203.0.113.128/25 is blocked"}},
		"a network with an allowed address": {"203.0.113.0/25", nil, InPart, []string{"in it, by 203.0.113.0/24, except for 1 entry inside\n", "allow list " + allowList + ": not on it; it has 1 entry inside\n",
			"policy:   blocks it in part\n", "203.0.113.0/25 is blocked in part"}},
		"a network around listed ones":  {"192.0.2.0/24", nil, InPart, []string{"not in it, except for 1 entry inside", "not on it; it has 1 entry inside", "policy:   blocks it in part\n", "192.0.2.0/24 is blocked in part"}},
		"a network with an own address": {"198.18.0.0/24", nil, InPart, []string{"in it, by 198.18.0.0/15, except for 1 entry inside", "excepted: never blocked: 198.18.0.1 (own address of em0)", "198.18.0.0/24 is blocked in part"}},
		"a network that nobody lists":   {"10.1.0.0/16", nil, NotBlocked, []string{"not in it\n", "policy:   does not block it\n", "10.1.0.0/16 is not blocked"}},
		"one given as IPv6":             {"::ffff:192.0.2.66", nil, Blocked, []string{"192.0.2.66 is blocked"}},
		"a list with a hole": {"192.0.2.130", func(r *rig) {
			r.serve(blockList, "192.0.2.0/24", "!192.0.2.128/25")
			r.table("192.0.2.0/24 !192.0.2.128/25")
		}, NotBlocked, []string{"not in it, by !192.0.2.128/25", "block list " + blockList + ": not on it, by !192.0.2.128/25"}},
		"a table that is late": {"192.0.2.66", func(r *rig) { r.table("10.0.0.1") }, NotBlocked, []string{"<ThreatSTOP-Block>: not in it", "policy:   blocks it", "note:     the table is not what the lists are now", "192.0.2.66 is not blocked"}},
		"an older table":       {"10.0.0.1", func(r *rig) { r.table("10.0.0.1") }, Blocked, []string{"in it, by 10.0.0.1", "does not block it", "note:     the table is not what", "10.0.0.1 is blocked"}},
		"pf disabled":          {"192.0.2.66", func(r *rig) { r.kernel.SetRunning(false) }, NotBlocked, []string{"in it, by 192.0.2.66", "pf:       is disabled: nothing is blocked", "192.0.2.66 is not blocked"}},
		"no table":             {"192.0.2.66", func(r *rig) { r.conf["BLOCK_TABLE"] = "none" }, NotBlocked, []string{"table:    <none> is not there"}},
		"pf out of reach":      {"192.0.2.66", func(r *rig) { r.o.OpenPF = func() (*pfioctl.PF, error) { return nil, errDenied } }, Blocked, []string{"pf:       cannot be asked", "192.0.2.66 is blocked"}},
		"no policy server":     {"192.0.2.66", func(r *rig) { r.dns.Close() }, Blocked, []string{"in it, by 192.0.2.66", "list:     no policy server can be reached", "192.0.2.66 is blocked"}},
		"nobody to ask": {"192.0.2.66", func(r *rig) {
			r.dns.Close()
			r.o.OpenPF = func() (*pfioctl.PF, error) { return nil, errDenied }
		}, CannotTell, []string{"192.0.2.66: not known"}},
		"own addresses unknown": {"192.0.2.66", func(r *rig) {
			r.o.Host = func() (policy.Facts, error) { return policy.Facts{}, errors.New("no route") }
		}, Blocked,
			[]string{"policy:   what it never blocks is not known: no route", "192.0.2.66 is blocked"}},
		"counted": {"203.0.113.9", func(r *rig) {
			for n := range 3 {
				p := pfsim.Packet{Dir: pfioctl.DirIn, Iface: "em0", Src: netip.MustParseAddr("203.0.113.9"), Dst: netip.MustParseAddr("198.18.0.1"), Proto: 17, Bytes: 100}
				if n == 2 {
					p.Dir, p.Src, p.Dst = pfioctl.DirOut, p.Dst, p.Src
				}
				r.kernel.Verdict(p)
			}
		}, Blocked, []string{"counters: 203.0.113.0/24: in blocked 2 packets (200 bytes), out blocked 1 packets (100 bytes) since "}},
		"no pflogd":                {"192.0.2.66", func(r *rig) { r.o.FlushPflogd = func() error { return errNoPflogd } }, Blocked, []string{"hits:     pflogd: not running: the latest may be missing"}},
		"logs that cannot be read": {"192.0.2.66", func(r *rig) { r.o.Logs = func() ([]*os.File, error) { return nil, errDenied } }, Blocked, []string{"hits:     open /dev/pf"}},
		"a log that is none": {"192.0.2.66", func(r *rig) {
			r.o.Logs = func() ([]*os.File, error) {
				r.write("log", "this is no log")
				f, err := os.Open(r.path("log"))
				return []*os.File{f}, err
			}
		}, Blocked, []string{"not a pcap file"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if tc.spoil != nil {
				tc.spoil(r)
			}
			out, answer := r.check(tc.addr)
			if answer != tc.want {
				t.Errorf("answer %d, want %d", answer, tc.want)
			}
			for _, s := range tc.say {
				if !strings.Contains(out, s) {
					t.Errorf("does not say %q", s)
				}
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
}

// prefix returns the network of an address, or a network as it is.
func prefix(text string) netip.Prefix {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
	}
	return netip.MustParsePrefix(text)
}

func (r *rig) check(addr string) (string, Answer) {
	r.t.Helper()
	var out bytes.Buffer
	answer, err := Check(r.t.Context(), []netip.Prefix{prefix(addr)}, r.options(), &out)
	must(r.t, err)
	return out.String(), answer
}

// Of many records the latest are shown, those of the address alone.
func TestCheckShowsTheLatestHits(t *testing.T) {
	r := newRig(t)
	day := time.Date(2026, 3, 1, 23, 59, 0, 0, time.UTC)
	own := netip.MustParseAddr("198.18.0.1")
	for n := range 100 {
		p := &capturetest.Packet{Time: day.Add(time.Duration(n) * time.Second), Action: capture.ActionBlock, Iface: "em0", Rule: 1, Src: badHost, Dst: own, Proto: capturetest.TCP, SrcPort: uint16(1000 + n), DstPort: 22}
		switch n % 3 {
		case 1:
			p.Src, p.Dst, p.Dir = own, badHost, capture.Out
		case 2:
			p.Src = netip.MustParseAddr("203.0.113.9")
		}
		r.files = append(r.files, p)
	}
	out, answer := r.check(badHost.String())
	if answer != Blocked || !strings.Contains(out, "hits:     67 in pflogd's files, the latest:\n") {
		t.Errorf("answer %d:\n%s", answer, out)
	}
	_, tail, _ := strings.Cut(out, "the latest:\n")
	lines := strings.Split(strings.TrimSpace(tail), "\n")
	if len(lines) != maxHits+1 || !strings.HasPrefix(lines[0], "2026-03-02 00:00:25") || !strings.Contains(lines[9], "00:00:39") || !strings.Contains(lines[9], "192.0.2.66.1099 > 198.18.0.1.22") {
		t.Errorf("%d lines:\n%s", len(lines), tail)
	}
	if strings.Contains(tail, "203.0.113.9") {
		t.Error("a record of another address")
	}
}

// As JSON it says the same.
func TestCheckJSON(t *testing.T) {
	r := newRig(t)
	r.files = append(r.files, &capturetest.Packet{Action: capture.ActionBlock, Iface: "em0", Src: netip.MustParseAddr("203.0.113.9"), Dst: netip.MustParseAddr("198.18.0.1"), Proto: capturetest.UDP})
	o := r.options()
	o.JSON = true
	o.FlushPflogd = func() error { return errNoPflogd }
	var out bytes.Buffer
	answer, err := Check(t.Context(), []netip.Prefix{prefix("192.0.2.66"), prefix("203.0.113.0/24")}, o, &out)
	must(t, err)
	var got struct {
		Notes   []map[string]string
		Checked []struct {
			Address, Answer string
			Notes           []map[string]string
			Hits            int
			Latest          []string
		}
	}
	must(t, json.Unmarshal(out.Bytes(), &got))
	if answer != InPart || len(got.Notes) != 1 || len(got.Checked) != 2 {
		t.Fatalf("answer %d:\n%s", answer, &out)
	}
	one, part := got.Checked[0], got.Checked[1]
	if one.Address != "192.0.2.66" || one.Answer != "blocked" || one.Hits != 0 || one.Notes[0]["about"] != "table" || one.Notes[0]["text"] != "<ThreatSTOP-Block>: in it, by 192.0.2.66" {
		t.Errorf("%+v", one)
	}
	if part.Address != "203.0.113.0/24" || part.Answer != "blocked in part" || part.Hits != 1 || len(part.Latest) != 1 {
		t.Errorf("%+v", part)
	}
}

func TestCheckNoAddress(t *testing.T) {
	r := newRig(t)
	r.unconfined = true
	if answer, err := Check(t.Context(), []netip.Prefix{{}}, r.options(), &bytes.Buffer{}); err == nil || answer != CannotTell {
		t.Errorf("answer %d, %v", answer, err)
	}
}

// Of several addresses each has its own answer; the result is that of the worst.
func TestCheckSeveral(t *testing.T) {
	r := newRig(t)
	r.serve(blockList, "192.0.2.66", "203.0.113.0/24", "8.0.0.0/6")
	o := r.options()
	o.Policy.MinPrefixV4 = 8
	var out bytes.Buffer
	answer, err := Check(t.Context(), []netip.Prefix{prefix("192.0.2.66"), prefix("8.8.8.8")}, o, &out)
	if answer != NotBlocked || err != nil {
		t.Errorf("answer %d, %v", answer, err)
	}
	for _, want := range []string{"\n192.0.2.66 is blocked\n", "\n8.8.8.8 is not blocked\n", "policy:   does not block it: entry 8.0.0.0/6 of list " + blockList + " is dropped: "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("does not say %q:\n%s", want, &out)
		}
	}
}
