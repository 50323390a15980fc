package apply

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

var block = pfioctl.Table{Name: "ThreatSTOP-Block"}

// device counts the requests that go through it, and lets a test act between
// them.
type device struct {
	pfioctl.Device
	sets, dummies int
	before, after func(req uint, dummy bool) error
	kernel        *pfsim.Kernel
}

func (d *device) Ioctl(req uint, arg unsafe.Pointer) error {
	name, dummy := d.kernel.RequestName(req, arg)
	if name == "DIOCRSETADDRS" {
		if dummy {
			d.dummies++
		} else {
			d.sets++
		}
	}
	if d.before != nil {
		if err := d.before(req, dummy); err != nil {
			return err
		}
	}
	err := d.Device.Ioctl(req, arg)
	if d.after != nil && err == nil {
		err = d.after(req, dummy)
	}
	return err
}

func isSet(b *bench, req uint) bool {
	name, _ := b.kernel.RequestName(req, nil)
	return name == "DIOCRSETADDRS"
}

// bench is a simulated kernel with an enforcer on it.
type bench struct {
	t      *testing.T
	kernel *pfsim.Kernel
	device *device
	pf     *pfioctl.PF // beside the enforcer's
	*Enforcer
	target Target
}

func newBench(t *testing.T, o pfsim.Options) *bench {
	t.Helper()
	k := pfsim.New(o)
	d := &device{Device: k.Open(true), kernel: k}
	pf, err := pfioctl.New(d, k.Release())
	if err != nil {
		t.Fatal(err)
	}
	return &bench{
		t: t, kernel: k, device: d,
		pf:       k.OpenPF(),
		Enforcer: New(pf),
		target:   Target{Table: block, File: filepath.Join(t.TempDir(), "block.pftable"), Load: true},
	}
}

// holds checks the table and, with it, the file.
func (b *bench) holds(want list) {
	b.t.Helper()
	b.tableHolds(want)
	if st, err := stateOf(b.target.File, want); err != nil || !st.Same {
		b.t.Errorf("the file does not hold %v: %v", want, err)
	}
}

func (b *bench) tableHolds(want list) {
	b.t.Helper()
	addrs, err := b.pf.Get(b.target.Table)
	if err != nil {
		b.t.Fatal(err)
	}
	var got list
	for _, a := range addrs {
		got = append(got, a.String())
	}
	if !slices.Equal(got, want) {
		b.t.Errorf("table holds %v, want %v", got, want)
	}
}

func (b *bench) apply(want list) Result {
	b.t.Helper()
	res, err := b.Apply(b.target, want, head)
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

func TestApply(t *testing.T) {
	b := newBench(t, pfsim.Options{})
	first := list{"10.0.0.0/8", "!10.1.0.0/16", "192.0.2.1", "2001:db8::/32"}
	res := b.apply(first)
	want := Result{Table: block, Entries: 4, InForce: 4, Delta: pfioctl.Delta{Added: 4}, Created: true, Steps: 1, FileWritten: true, Holds: true}
	if res != want {
		t.Errorf("first:\n got %+v\nwant %+v", res, want)
	}
	b.holds(first)

	sets, before := b.device.sets, read(t, b.target.File)
	res = b.apply(first)
	want = Result{Table: block, Entries: 4, InForce: 4, Holds: true}
	if res != want || b.device.sets != sets || read(t, b.target.File) != before {
		t.Errorf("the same again: %+v, %d requests that change", res, b.device.sets-sets)
	}
	if res.Unchanged() != 4 {
		t.Errorf("unchanged: %d", res.Unchanged())
	}

	second := list{"10.0.0.0/8", "10.1.0.0/16", "192.0.2.2", "2001:db8::/32", "2001:db9::/32"}
	res = b.apply(second)
	want = Result{Table: block, Entries: 5, InForce: 5, Delta: pfioctl.Delta{Added: 2, Deleted: 1, Changed: 1}, Steps: 1, FileWritten: true, Holds: true}
	if res != want || res.Unchanged() != 2 {
		t.Errorf("changed:\n got %+v\nwant %+v", res, want)
	}
	b.holds(second)
}

// What somebody did to the table or to the file is mended.
func TestApplyMends(t *testing.T) {
	want := list{"10.0.0.0/8", "192.0.2.1"}
	b := newBench(t, pfsim.Options{})
	b.apply(want)
	if _, err := b.pf.Clear(block); err != nil {
		t.Fatal(err)
	}
	if res := b.apply(want); res.Delta.Added != 2 || res.FileWritten {
		t.Errorf("a flushed table: %+v", res)
	}
	b.holds(want)
	if err := os.WriteFile(b.target.File, []byte("0.0.0.0/0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if res := b.apply(want); res.Steps != 0 || !res.FileWritten {
		t.Errorf("an edited file: %+v", res)
	}
	b.holds(want)
	if err := os.Remove(b.target.File); err != nil {
		t.Fatal(err)
	}
	b.apply(want)
	b.holds(want)
}

// Where old and new do not fit side by side it takes two steps, and at no time
// is an address blocked that neither the old nor the new policy blocks.
func TestApplyInTwoSteps(t *testing.T) {
	b := newBench(t, pfsim.Options{MaxEntries: 10})
	older := list{"10.0.0.0/8", "!10.1.0.0/16", "172.16.0.1", "172.16.0.2", "172.16.0.3", "192.0.2.1"}
	newer := list{"10.0.0.0/8", "!10.1.0.0/17", "!10.1.128.0/17", "172.16.0.1", "!192.0.2.1", "198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4"}
	b.apply(older)
	var seen []string
	b.device.after = func(req uint, dummy bool) error {
		if !isSet(b, req) || dummy {
			return nil
		}
		var now []string
		results, err := b.pf.Test(block, netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.200.1"),
			netip.MustParseAddr("10.2.0.1"), netip.MustParseAddr("172.16.0.1"))
		if err != nil {
			return err
		}
		for _, r := range results {
			now = append(now, fmt.Sprint(r.Match))
		}
		seen = append(seen, strings.Join(now, " "))
		return nil
	}
	res := b.apply(newer)
	want := Result{Table: block, Entries: 9, InForce: 9, Delta: pfioctl.Delta{Added: 6, Deleted: 3, Changed: 1}, Steps: 2, FileWritten: true, Holds: true}
	if res != want {
		t.Errorf("\n got %+v\nwant %+v", res, want)
	}
	b.holds(newer)
	const right = "false false true true"
	if !slices.Equal(seen, []string{right, right}) {
		t.Errorf("10.1.0.1 10.1.200.1 10.2.0.1 172.16.0.1 blocked, after each step: %q, want %q twice", seen, right)
	}
}

func TestApplyRefuses(t *testing.T) {
	older := list{"172.16.0.1", "172.16.0.2", "172.16.0.3"}
	for name, tc := range map[string]struct {
		options pfsim.Options
		prepare func(*bench)
		want    list
		errno   error
		message []string
	}{
		"bad: more than the limit": {
			options: pfsim.Options{MaxEntries: 5},
			want:    list{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"},
			errno:   syscall.ENOMEM, message: []string{"used 3", "6", "limit 5"},
		},
		"bad: more than the limit beside another table": {
			options: pfsim.Options{MaxEntries: 6},
			prepare: func(b *bench) {
				other := pfioctl.Table{Name: "other"}
				if _, err := b.pf.AddTables(pfioctl.TablePersist, other); err != nil {
					b.t.Fatal(err)
				}
				if _, err := b.pf.Add(other, pfioctl.Addr{Prefix: netip.MustParsePrefix("::1/128")}); err != nil {
					b.t.Fatal(err)
				}
			},
			want:  list{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"},
			errno: syscall.ENOMEM, message: []string{"used 4", "limit 6"},
		},
		"bad: no slot for the scratch table": {
			options: pfsim.Options{MaxTables: 2},
			prepare: func(b *bench) {
				// AddTables itself needs slots while it runs.
				b.kernel.SetLimit(pfioctl.LimitTables, 1)
			},
			want: list{"10.0.0.1"}, errno: syscall.ENOMEM,
		},
		"bad: const table": {
			prepare: func(b *bench) {
				b.kernel.SetSecurelevel(0)
				if err := b.kernel.LoadFile(block, pfioctl.TablePersist|pfioctl.TableConst, strings.NewReader("172.16.0.1\n172.16.0.2\n172.16.0.3\n")); err != nil {
					b.t.Fatal(err)
				}
			},
			want: list{"10.0.0.1"}, errno: syscall.EPERM,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, tc.options)
			b.apply(older)
			file := read(t, b.target.File)
			if tc.prepare != nil {
				tc.prepare(b)
			}
			_, err := b.Apply(b.target, tc.want, head)
			if !errors.Is(err, tc.errno) {
				t.Fatalf("error %v, want %v", err, tc.errno)
			}
			var pf *pfioctl.Error
			if !strings.HasPrefix(err.Error(), "pf table ThreatSTOP-Block: ") || !errors.As(err, &pf) || pf.Advice() == "" {
				t.Errorf("error %q says no table or gives no advice", err)
			}
			for _, s := range tc.message {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error %q has no %q", err, s)
				}
			}
			b.tableHolds(older)
			if got := read(t, b.target.File); got != file {
				t.Errorf("the file was changed: %s", got)
			}
		})
	}
}

// The second of two steps can fail, when others take the room meanwhile. Then
// the message says what is in force, and the next run completes it.
func TestApplySecondStepFails(t *testing.T) {
	b := newBench(t, pfsim.Options{MaxEntries: 6})
	b.apply(list{"172.16.0.1", "172.16.0.2", "172.16.0.3", "172.16.0.4"})
	newer := list{"172.16.0.1", "198.51.100.1", "198.51.100.2", "198.51.100.3"}
	other := pfioctl.Table{Name: "other"}
	if _, err := b.pf.AddTables(pfioctl.TablePersist, other); err != nil {
		t.Fatal(err)
	}
	steps := 0
	b.device.after = func(req uint, dummy bool) error {
		if isSet(b, req) && !dummy {
			if steps++; steps == 1 {
				_, err := b.pf.Set(other, 4, func(yield func(netip.Prefix, bool) bool) {
					for i := range 4 {
						yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{1, 1, 1, byte(i)}), 32), false)
					}
				})
				return err
			}
		}
		return nil
	}
	file := read(t, b.target.File)
	_, err := b.Apply(b.target, newer, head)
	if !errors.Is(err, syscall.ENOMEM) || !strings.Contains(err.Error(), "holds the 1 entries that the old and the new policy have in common") {
		t.Fatalf("error %v", err)
	}
	b.tableHolds(list{"172.16.0.1"})
	if read(t, b.target.File) != file {
		t.Error("the file was changed")
	}
	if _, err := b.pf.Clear(other); err != nil {
		t.Fatal(err)
	}
	b.apply(newer)
	b.holds(newer)
}

// When something else writes to the table, the file does not get what pf does
// not hold.
func TestApplyReadsBack(t *testing.T) {
	b := newBench(t, pfsim.Options{})
	b.device.after = func(req uint, dummy bool) error {
		if isSet(b, req) && !dummy {
			_, err := b.pf.Add(block, pfioctl.Addr{Prefix: netip.MustParsePrefix("203.0.113.9/32")})
			return err
		}
		return nil
	}
	_, err := b.Apply(b.target, list{"10.0.0.1"}, head)
	if err == nil || !strings.Contains(err.Error(), "holds 2 entries after it was set to 1") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(b.target.File); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file was written: %v", err)
	}
}

func TestApplyFileFails(t *testing.T) {
	b := newBench(t, pfsim.Options{})
	b.target.File = filepath.Join(t.TempDir(), "no such directory", "file")
	res, err := b.Apply(b.target, list{"10.0.0.1"}, head)
	if err == nil || !strings.HasPrefix(err.Error(), "persist file "+b.target.File) || res.InForce != 1 || res.FileWritten {
		t.Errorf("%+v, %v", res, err)
	}
	b.tableHolds(list{"10.0.0.1"})
}

// With RELOAD_PF=no the table stays as it is, and the file gets only what pf
// would take.
func TestApplyWithoutLoading(t *testing.T) {
	b := newBench(t, pfsim.Options{MaxEntries: 4})
	b.target.Load = false
	newer := list{"10.0.0.1", "10.0.0.2"}

	res := b.apply(newer)
	want := Result{Table: block, Entries: 2, Delta: pfioctl.Delta{Added: 2}, FileWritten: true}
	if res != want {
		t.Errorf("no table:\n got %+v\nwant %+v", res, want)
	}
	f, err := os.Open(b.target.File)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := b.kernel.LoadFile(block, pfioctl.TablePersist, f); err != nil {
		t.Fatalf("pfctl would not load the file: %v", err)
	}
	b.holds(newer)

	newest := list{"10.0.0.1", "10.0.0.3"}
	res = b.apply(newest)
	if res.Delta != (pfioctl.Delta{Added: 1, Deleted: 1}) || res.InForce != 2 || !res.FileWritten || b.device.sets != 0 {
		t.Errorf("with a table: %+v, %d requests that change", res, b.device.sets)
	}
	b.tableHolds(newer)

	before := read(t, b.target.File)
	_, err = b.Apply(b.target, list{"10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4"}, head)
	if !errors.Is(err, syscall.ENOMEM) || read(t, b.target.File) != before {
		t.Errorf("more than pf would take: %v", err)
	}
	if _, err := b.pf.DelTables(block); err != nil {
		t.Fatal(err)
	}
	_, err = b.Apply(b.target, many(5, 10), head)
	if !errors.Is(err, syscall.ENOMEM) || read(t, b.target.File) != before {
		t.Errorf("more than pf would take, no table: %v", err)
	}
}

func TestReloadAdvice(t *testing.T) {
	b := newBench(t, pfsim.Options{MaxEntries: 10})
	b.apply(many(5, 10))
	if advice, err := b.ReloadAdvice(5); advice != "" || err != nil {
		t.Errorf("room for both: %q, %v", advice, err)
	}
	b.apply(many(6, 10))
	advice, err := b.ReloadAdvice(6)
	want := "pf.conf cannot be loaded again (used 6 + files 6 > limit 10): put `set limit table-entries 10000` into /etc/pf.conf, above its table lines, where alone it works"
	if advice != want || err != nil {
		t.Errorf("%q, %v\nwant %q", advice, err, want)
	}
	// And that is so.
	f, err := os.Open(b.target.File)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := b.kernel.LoadFile(block, pfioctl.TablePersist, f); err == nil {
		t.Error("pfctl loaded it all the same")
	}
}

func TestHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table")
	if err := new(disk).markHeld(path, when); err != nil {
		t.Errorf("no file: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
	vendors := "1.2.3.4\n# mine\n5.6.7.8\n"
	for _, body := range []string{vendors, head.lines() + "1.2.3.4\n", ""} {
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, since := range []string{"2026-03-01T04:05:06Z", "2026-03-02T04:05:06Z"} {
			at := when
			if since != "2026-03-01T04:05:06Z" {
				at = when.AddDate(0, 0, 1)
			}
			if err := new(disk).markHeld(path, at); err != nil {
				t.Fatal(err)
			}
			if got, err := heldIn(path); !got.Equal(at) || err != nil {
				t.Errorf("held %v, %v, want %v", got, err, at)
			}
			if got := strings.Replace(read(t, path), heldPrefix+since+"\n", "", 1); got != body {
				t.Errorf("the file is now\n%s\nwas\n%s", got, body)
			}
		}
		if err := new(disk).markHeld(path, when.AddDate(0, 0, -1)); err != nil {
			t.Fatal(err)
		}
		var none Header
		if err := new(disk).markHeld(path, none.Held); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); got != body {
			t.Errorf("the note taken out again:\n%s\nwas\n%s", got, body)
		}
		n, err := FileEntries(path)
		if want := strings.Count(body, "\n") - strings.Count(body, "#"); n != want || err != nil {
			t.Errorf("%d entries, %v, want %d", n, err, want)
		}
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	unlock, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("a second lock: %v", err)
	}
	unlock()
	unlock, err = Lock(dir)
	if err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	unlock()
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	if _, err := Lock(filepath.Join(dir, "none")); err == nil {
		t.Error("locked a directory that is not there")
	}
}
