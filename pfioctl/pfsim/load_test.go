package pfsim

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

func show(t *testing.T, k *Kernel, table string) string {
	t.Helper()
	var b bytes.Buffer
	if err := k.WriteShow(&b, pfioctl.Table{Name: table}, false); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestLoadFile(t *testing.T) {
	for _, c := range []struct {
		name, file, want string
		err              string
	}{
		{"hosts and networks", "10.1.2.3\n192.0.2.0/24\n2001:db8::1\n2001:db8::/32\n", "   10.1.2.3\n   192.0.2.0/24\n   2001:db8::/32\n   2001:db8::1\n", ""},
		{"comments and blank lines", "# head\n\n \t10.0.0.1 # tail\n#10.0.0.2\n10.0.0.3#4\n", "   10.0.0.1\n   10.0.0.3\n", ""},
		{"several on a line", "10.0.0.1 10.0.0.2\t10.0.0.3\r\n", "   10.0.0.1\n   10.0.0.2\n   10.0.0.3\n", ""},
		{"no newline at the end", "10.0.0.1", "   10.0.0.1\n", ""},
		{"negated", "!10.0.0.1\n!!10.0.0.2\n!!!10.0.0.3\n", "  !10.0.0.1\n   10.0.0.2\n  !10.0.0.3\n", ""},
		{"host bits are masked off", "10.1.2.3/8\n2001:db8::1/32\n", "   10.0.0.0/8\n   2001:db8::/32\n", ""},
		{"the end of the address left out", "10/8\n172.16/12\n192.168.1/24\n", "   10.0.0.0/8\n   172.16.0.0/12\n   192.168.1.0/24\n", ""},
		{"duplicates", "10.0.0.1\n10.0.0.1/32\n!10.0.0.1\n", "   10.0.0.1\n", ""},
		{"empty", "", "", ""},
		{"a prefix of no length", "0.0.0.0/0\n::/0\n", "   0.0.0.0/0\n   ::/0\n", ""},
		{"the addresses of all zeros are dropped", "0.0.0.0\n::\n10.0.0.1\n", "   10.0.0.1\n", ""},
		{"IPv4 behind zeros", "::1.2.3.4\n::5\n::1:0\n::ffff:1.2.3.4\n::ffff:0:0/96\n", "   ::5\n   ::0.1.0.0\n   ::1.2.3.4\n   ::ffff:0.0.0.0/96\n   ::ffff:1.2.3.4\n", ""},
		{"a name", "10.0.0.1\nexample.org\n", "", "line 2: no IP address found for example.org"},
		{"an interface", "em0\n", "", "line 1: no IP address found for em0"},
		{"too long a prefix", "10.0.0.0/33\n", "", "line 1: 10.0.0.0/33: invalid argument"},
		{"too long for any", "2001:db8::/129\n", "", "line 1: netmask is invalid: /129"},
		{"not a number", "10.0.0.0/x\n", "", "line 1: netmask is invalid: /x"},
		{"nothing negated", "!\n", "", "line 1: no IP address found for "},
		{"half an address", "10.0.0\n", "", "line 1: no IP address found for 10.0.0"},
		{"five numbers", "1.2.3.4.5/8\n", "", "line 1: no IP address found for 1.2.3.4.5/8"},
		{"a zone", "fe80::1%em0\n", "", "line 1: no IP address found for fe80::1%em0"},
		{"an entry without end", strings.Repeat("1", 300), "", "line 1: entry of 300 bytes: invalid argument"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := New(Options{})
			tb := pfioctl.Table{Name: "t"}
			if err := k.LoadFile(tb, pfioctl.TablePersist, strings.NewReader("198.51.100.1")); err != nil {
				t.Fatal(err)
			}
			err := k.LoadFile(tb, pfioctl.TablePersist, strings.NewReader(c.file))
			if c.err == "" {
				if err != nil {
					t.Fatal(err)
				}
				if got := show(t, k, "t"); got != c.want {
					t.Errorf("table:\n%swant:\n%s", got, c.want)
				}
			} else {
				if err == nil || err.Error() != "cannot define table t: "+c.err {
					t.Errorf("error %v, want %q", err, c.err)
				}
				if got := show(t, k, "t"); got != "   198.51.100.1\n" {
					t.Errorf("a load that failed left\n%s", got)
				}
			}
			checkKernel(t, k)
		})
	}
}

// TestLoadCountsOldAndNew is the trap of a reload: the old and the new entries
// are held together.
func TestLoadCountsOldAndNew(t *testing.T) {
	hosts := func(n, net int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "10.%d.%d.%d\n", net, i>>8, i&255)
		}
		return b.String()
	}
	k := New(Options{MaxEntries: 1000})
	tb := pfioctl.Table{Name: "t"}
	if err := k.LoadFile(tb, pfioctl.TablePersist, strings.NewReader(hosts(600, 1))); err != nil {
		t.Fatal(err)
	}
	err := k.LoadFile(tb, pfioctl.TablePersist, strings.NewReader(hosts(600, 1)))
	if !errors.Is(err, syscall.ENOMEM) {
		t.Fatalf("600 old and 600 new of 1000: %v, want ENOMEM", err)
	}
	if k.entries != 600 {
		t.Errorf("%d entries after the load that failed, want 600", k.entries)
	}
	checkKernel(t, k)
	rs := Ruleset{
		Limits: map[pfioctl.Limit]int{pfioctl.LimitTableEntries: 1200},
		Tables: []TableLine{{tb, pfioctl.TablePersist, strings.NewReader(hosts(600, 2))}},
	}
	if err := k.LoadRules(rs); err != nil {
		t.Errorf("with the limit raised above the table: %v", err)
	}
	if k.entries != 600 {
		t.Errorf("%d entries, want 600", k.entries)
	}
	if err := k.LoadRules(Ruleset{Limits: map[pfioctl.Limit]int{pfioctl.LimitTableEntries: 599}}); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("a limit below what is in use: %v, want EBUSY", err)
	}
	checkKernel(t, k)
}

// TestLimitsAtBoot is when the limit that a kernel boots with begins to bite.
func TestLimitsAtBoot(t *testing.T) {
	for _, c := range []struct {
		release  string
		enforced bool
	}{{"7.7", false}, {"7.8", true}, {"8.0", true}} {
		t.Run(c.release, func(t *testing.T) {
			k := New(Options{Release: c.release})
			pf := k.OpenPF()
			if n, err := pf.Limit(pfioctl.LimitTableEntries); n != 200000 || err != nil {
				t.Errorf("limit %d, %v, want 200000", n, err)
			}
			if k.hard[pfioctl.LimitTableEntries] != unlimited || k.hard[pfioctl.LimitTables] != unlimited {
				t.Error("enforced at boot")
			}
			if k.hard[abi.LimitAnchors] != 512 || k.hard[pfioctl.LimitStates] != 100000 {
				t.Error("those of anchors and states are not")
			}
			load(t, k, Ruleset{})
			if got := k.hard[pfioctl.LimitTableEntries] == 200000; got != c.enforced {
				t.Errorf("enforced after a load: %v, want %v", got, c.enforced)
			}
			load(t, k, Ruleset{Limits: map[pfioctl.Limit]int{pfioctl.LimitTableEntries: 400000}})
			if k.hard[pfioctl.LimitTableEntries] != 400000 {
				t.Error("a limit that pf.conf sets is not enforced")
			}
			if n, err := pf.Limit(pfioctl.LimitTableEntries); n != 400000 || err != nil {
				t.Errorf("limit %d, %v, want 400000", n, err)
			}
		})
	}
}

// TestLoadKeepsWithoutFile is the table line that an agent owns: no file, no
// list.
func TestLoadKeepsWithoutFile(t *testing.T) {
	k := New(Options{})
	tb := pfioctl.Table{Name: "t"}
	line := func(flags pfioctl.TableFlags) Ruleset { return Ruleset{Tables: []TableLine{{tb, flags, nil}}} }
	load(t, k, line(pfioctl.TablePersist))
	pf := k.OpenPF()
	if _, err := pf.Add(tb, pfioctl.Addr{Prefix: prefixOf("10.0.0.0/8")}); err != nil {
		t.Fatal(err)
	}
	load(t, k, line(pfioctl.TablePersist|pfioctl.TableConst))
	if got := show(t, k, "t"); got != "   10.0.0.0/8\n" {
		t.Errorf("after a load:\n%s", got)
	}
	if f := k.findTable("", "t").flags; f != flagPersist|flagConst|flagActive {
		t.Errorf("flags %#x, want PERSIST CONST ACTIVE", f)
	}
	load(t, k, line(0))
	if k.findTable("", "t") != nil {
		t.Error("a table that nothing keeps outlived its own commit")
	}
	checkKernel(t, k)
}
