package states

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/privsep/privseptest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

func stateKey(a, b string) pfsim.Key {
	return pfsim.Key{netip.MustParseAddrPort(a), netip.MustParseAddrPort(b)}
}

func TestKillStates(t *testing.T) {
	const (
		in, out = pfioctl.DirIn, pfioctl.DirOut
		me, lan = "198.51.100.1:61000", "192.168.1.5:40000"
	)
	old := set(t, "10.0.0.0/24", "10.7.0.0/16", "2001:db8:1::/48")
	now := set(t, "10.0.0.0/24", "10.1.0.0/16", "198.51.100.1/32", "192.168.9.0/24", "2001:db8::/32")
	own := []netip.Addr{netip.MustParseAddr("198.51.100.1")}
	b := newBench(t, nil)
	b.up()
	for i, s := range []struct {
		name   string
		state  pfsim.State
		killed bool
	}{
		{"not blocked", pfsim.State{Dir: in, Wire: stateKey("192.0.2.1:1", me)}, false},
		{"newly blocked source", pfsim.State{Dir: in, Wire: stateKey("10.1.2.3:1", me)}, true},
		{"newly blocked destination", pfsim.State{Dir: out, Wire: stateKey("10.1.2.3:443", me)}, true},
		{"second address of the key", pfsim.State{Dir: in, Wire: stateKey(lan, "10.1.2.3:80")}, true},
		{"blocked before", pfsim.State{Dir: in, Wire: stateKey("10.0.0.9:1", me)}, false},
		{"blocked no more", pfsim.State{Dir: in, Wire: stateKey("10.7.0.1:1", me)}, false},
		{"own address, newly named", pfsim.State{Dir: in, Wire: stateKey("192.0.2.2:1", "198.51.100.1:22")}, false},
		{"behind NAT, blocked outside", pfsim.State{Dir: out, Wire: stateKey("10.1.0.1:443", me), Stack: stateKey("10.1.0.1:443", lan)}, true},
		{"behind NAT, blocked inside", pfsim.State{Dir: out, Wire: stateKey("192.0.2.3:443", me), Stack: stateKey("192.0.2.3:443", "192.168.9.7:40000")}, true},
		{"behind NAT, not blocked", pfsim.State{Dir: out, Wire: stateKey("192.0.2.3:443", me), Stack: stateKey("192.0.2.3:443", lan)}, false},
		{"redirected to a blocked one", pfsim.State{Dir: in, Wire: stateKey("192.0.2.4:1", me), Stack: stateKey("192.0.2.4:1", "10.1.0.2:80")}, true},
		{"IPv6", pfsim.State{Dir: in, Wire: stateKey("[2001:db8:2::1]:1", "[2001:db9::1]:80")}, true},
		{"IPv6, blocked before", pfsim.State{Dir: in, Wire: stateKey("[2001:db8:1::1]:1", "[2001:db9::1]:80")}, false},
		{"IPv6, not blocked", pfsim.State{Dir: in, Wire: stateKey("[2001:db9::2]:1", "[2001:db9::1]:80")}, false},
		{"IPv6 outside, blocked IPv4 inside", pfsim.State{Dir: in, Wire: stateKey("[2001:db9::2]:1", "[64:ff9b::1]:80"), Stack: stateKey("192.0.2.9:1", "10.1.0.3:80")}, true},
		{"of another firewall", pfsim.State{Dir: in, Wire: stateKey("10.1.2.4:1", me), Creator: 99}, true},
	} {
		t.Run(s.name, func(t *testing.T) {
			s.state.ID = uint64(i + 1)
			b.kernel.AddState(s.state)
			want := slices.Clone(b.left())
			killed := 0
			if s.killed {
				want = want[:len(want)-1]
				killed = 1
			}
			res, err := b.KillStates(old, now, own, time.Now().Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			if res != (Killed{Considered: len(want) + killed, Killed: killed}) {
				t.Errorf("%v of %d states", res, len(want)+killed)
			}
			if got := b.left(); !slices.Equal(got, want) {
				t.Errorf("left %v, want %v", got, want)
			}
		})
	}
	// With nothing new nobody is asked.
	b.kernel.AddState(pfsim.State{Dir: in, Wire: stateKey("10.1.2.3:1", me)})
	before := len(b.left())
	if res, err := b.KillStates(now, now, own, time.Now().Add(time.Hour)); err != nil || res != (Killed{}) || len(b.left()) != before {
		t.Errorf("%v, %v: %d states left", res, err, len(b.left()))
	}
	if got, want := b.order.String(), "pf opened, confined as states"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// The clock stands still but where the test has it go on.
func TestKillStatesUntilTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		none, cut := set(t), set(t, "10.0.0.0/8")
		b := newBench(t, nil)
		manyStates(b.kernel, 1000)
		b.up()

		// The time is over when the states have been read.
		if res, err := b.KillStates(none, cut, nil, time.Now()); err != nil || res != (Killed{Left: 1000}) {
			t.Errorf("%v, %v", res, err)
		}
		// It is over in the middle.
		deadline, n := time.Now().Add(time.Second), 0
		b.device.before = func(req uint) error {
			if isKill(b.kernel, req) {
				if n++; n == 300 {
					time.Sleep(time.Until(deadline))
				}
			}
			return nil
		}
		res, err := b.KillStates(none, cut, nil, deadline)
		if err != nil || res != (Killed{Considered: 300, Killed: 300, Left: 700}) || len(b.left()) != res.Left {
			t.Errorf("%v, %v: %d states left", res, err, len(b.left()))
		}
	})
}

func isKill(k *pfsim.Kernel, req uint) bool {
	name, _ := k.RequestName(req, nil)
	return name == "DIOCKILLSTATES"
}

func TestKillStatesFails(t *testing.T) {
	none, cut := set(t), set(t, "10.0.0.0/8")
	b := newBench(t, nil)
	manyStates(b.kernel, 10)
	b.up()
	in := time.Now().Add(time.Hour)
	n := 0
	b.device.before = func(req uint) error {
		if isKill(b.kernel, req) {
			if n++; n == 4 {
				return syscall.EPERM
			}
		}
		return nil
	}
	// The error comes with what is to be done about it.
	want := "pf: kill state: " + syscall.EPERM.Error() + ": the system runs at securelevel 2, which does not allow it"
	res, err := b.KillStates(none, cut, nil, in)
	if err == nil || err.Error() != want || res != (Killed{Considered: 3, Killed: 3, Left: 7}) || len(b.left()) != 7 {
		t.Errorf("%v, %v: %d states left", res, err, len(b.left()))
	}
	// A state that ends between being read and being killed.
	b.device.before = func(req uint) error {
		if isKill(b.kernel, req) && len(b.left()) == 7 {
			s := b.kernel.States()[0]
			if _, err := b.kernel.OpenPF().KillState(s.ID, s.Creator); err != nil {
				return err
			}
		}
		return nil
	}
	if res, err = b.KillStates(none, cut, nil, in); err != nil || res != (Killed{Considered: 7, Killed: 6}) {
		t.Errorf("%v, %v", res, err)
	}
	if reported := b.reported(); len(reported) != 1 {
		t.Errorf("a refusal of pf is the process's trouble: %q", reported)
	}
}

// The same as a process of its own, whose kernel is its own.
func TestProcess(t *testing.T) {
	b := &bench{t: t}
	b.start(privsep.Exec())
	b.up()
	none, cut := set(t), set(t, "10.0.0.0/25")
	for _, want := range []Killed{{Considered: 1000, Killed: 128}, {Considered: 872}} {
		if res, err := b.KillStates(none, cut, nil, time.Now().Add(time.Minute)); err != nil || res != want {
			t.Errorf("%v, %v, want %v", res, err, want)
		}
	}
}

// Where pf cannot be opened, or the process cannot be confined, there is no role, and
// why is reported.
func TestNoRole(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  func(b *bench) Env
		want string
	}{
		{"pf", func(*bench) Env {
			return Env{OpenPF: func() (*pfioctl.PF, error) { return nil, &pfioctl.Error{Op: "open /dev/pf", Err: syscall.EACCES} }}
		}, "pf: open /dev/pf: permission denied: the descriptor of /dev/pf is open for reading only: open it for writing"},
		{"confinement", func(b *bench) Env {
			return Env{
				OpenPF: func() (*pfioctl.PF, error) {
					k := pfsim.New(pfsim.Options{})
					return k.OpenPF(), nil
				},
				Confine: confiner{&b.order, errors.New("no such user")},
			}
		}, "no such user"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &bench{t: t}
			b.start(privseptest.InProcess(map[string]privsep.Body{Name: Body(tt.env(b))}))
			b.until("reported", func() bool { return slices.Contains(b.reported(), tt.want) })
			_, err := b.KillStates(set(t), set(t, "10.0.0.0/8"), nil, time.Now().Add(time.Minute))
			if !errors.Is(err, privsep.ErrDown) {
				t.Errorf("%v", err)
			}
		})
	}
}

// BenchmarkKillStates looks at 200,000 states for those of addresses that are newly
// blocked, one in a hundred, and kills these: from the two policies to the answer.
func BenchmarkKillStates(b *testing.B) {
	b.Run("200k", func(b *testing.B) {
		var entries []string
		for i := range 100_000 {
			entries = append(entries, fmt.Sprintf("%d.%d.%d.0/24", 11+i>>16, i>>8&255, i&255))
		}
		old := set(b, entries...)
		now := set(b, append(entries, "10.0.0.0/21")...)
		own := []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("192.168.1.1")}
		bench := newBench(b, nil)
		bench.up()
		manyStates(bench.kernel, 200_000)
		killed := 0
		b.ReportAllocs()
		for b.Loop() {
			res, err := bench.KillStates(old, now, own, time.Now().Add(time.Minute))
			if err != nil || res.Left != 0 || res.Killed != 2048 {
				b.Fatalf("%v, %v", res, err)
			}
			killed += res.Killed
			b.StopTimer()
			manyStates(bench.kernel, 2048)
			b.StartTimer()
		}
		b.ReportMetric(float64(killed)/float64(b.N), "killed/op")
	})
}

func expect(t *testing.T, all []string, part string) {
	t.Helper()
	for _, s := range all {
		if strings.Contains(s, part) {
			return
		}
	}
	t.Errorf("%q is not reported: %q", part, all)
}
