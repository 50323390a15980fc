package enforce

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.org/threatstopd/agent/policy"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

func index(t testing.TB, entries ...string) *policy.Index {
	t.Helper()
	b := policy.NewBuilder(policy.Options{})
	id := b.List("test", policy.Block)
	for _, s := range entries {
		b.Add(id, netip.MustParsePrefix(s), false)
	}
	p, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return policy.NewIndex(p.Block)
}

func stateKey(a, b string) pfsim.Key {
	return pfsim.Key{netip.MustParseAddrPort(a), netip.MustParseAddrPort(b)}
}

// left are the IDs of the states that there are.
func (b *bench) left() (ids []uint64) {
	for _, s := range b.kernel.States() {
		ids = append(ids, s.ID)
	}
	return ids
}

func TestKillStates(t *testing.T) {
	const (
		in, out = pfioctl.DirIn, pfioctl.DirOut
		me, lan = "198.51.100.1:61000", "192.168.1.5:40000"
	)
	old := index(t, "10.0.0.0/24", "10.7.0.0/16", "2001:db8:1::/48")
	now := index(t, "10.0.0.0/24", "10.1.0.0/16", "198.51.100.1/32", "192.168.9.0/24", "2001:db8::/32")
	own := []netip.Addr{netip.MustParseAddr("198.51.100.1")}
	b := newBench(t, pfsim.Options{})
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
			s.state = b.kernel.AddState(s.state)
			want := slices.Clone(b.left())
			if s.killed {
				want = want[:len(want)-1]
			}
			res, err := b.KillStates(policy.NewlyBlocked(old, now, own), time.Now().Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			killed := 0
			if s.killed {
				killed = 1
			}
			if res.Killed != killed || res.Left != 0 || res.Considered != len(want)+killed {
				t.Errorf("%+v of %d states", res, len(want)+killed)
			}
			if got := b.left(); !slices.Equal(got, want) {
				t.Errorf("left %v, want %v", got, want)
			}
		})
	}

	// With no old policy nothing is new.
	before := len(b.left())
	b.kernel.AddState(pfsim.State{Dir: in, Wire: stateKey("10.1.2.3:1", me)})
	if res, err := b.KillStates(policy.NewlyBlocked(nil, now, own), time.Now().Add(time.Hour)); err != nil || res.Killed != 0 || len(b.left()) != before+1 {
		t.Errorf("%+v, %v: %d states left", res, err, len(b.left()))
	}
}

// manyStates puts states of n different addresses of 10/8 into the table.
func manyStates(k *pfsim.Kernel, n int) {
	me := netip.MustParseAddrPort("198.51.100.1:22")
	for i := range n {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 10<<24+uint32(i))
		k.AddState(pfsim.State{Dir: pfioctl.DirIn, Proto: 6, Wire: pfsim.Key{netip.AddrPortFrom(netip.AddrFrom4(a), 1024), me}})
	}
}

// The clock stands still but where the test has it go on.
func TestKillStatesUntilTheDeadline(t *testing.T) { synctest.Test(t, killStatesUntilTheDeadline) }

func killStatesUntilTheDeadline(t *testing.T) {
	cut := policy.NewlyBlocked(index(t), index(t, "10.0.0.0/8"), nil)
	b := newBench(t, pfsim.Options{})
	manyStates(b.kernel, 1000)
	kill := b.kernel.Layout().Requests().KillStates

	// The time is over when the states have been read.
	if res, err := b.KillStates(cut, time.Now()); err != nil || res != (StatesKilled{Left: 1000}) {
		t.Errorf("%+v, %v", res, err)
	}
	// It is over in the middle.
	deadline, n := time.Now().Add(time.Second), 0
	b.device.before = func(req uint, _ bool) error {
		if req == kill {
			if n++; n == 300 {
				time.Sleep(time.Until(deadline))
			}
		}
		return nil
	}
	res, err := b.KillStates(cut, deadline)
	if err != nil || res != (StatesKilled{Considered: 300, Killed: 300, Left: 700}) || len(b.left()) != res.Left {
		t.Errorf("%+v, %v: %d states left", res, err, len(b.left()))
	}
}

func TestKillStatesFails(t *testing.T) {
	cut := policy.NewlyBlocked(index(t), index(t, "10.0.0.0/8"), nil)
	b := newBench(t, pfsim.Options{})
	manyStates(b.kernel, 10)
	in := time.Now().Add(time.Hour)
	kill, n := b.kernel.Layout().Requests().KillStates, 0
	b.device.before = func(req uint, _ bool) error {
		if req == kill {
			if n++; n == 4 {
				return syscall.EPERM
			}
		}
		return nil
	}
	res, err := b.KillStates(cut, in)
	if !errors.Is(err, syscall.EPERM) || res != (StatesKilled{Considered: 3, Killed: 3, Left: 7}) || len(b.left()) != 7 {
		t.Errorf("%+v, %v: %d states left", res, err, len(b.left()))
	}

	// A state that ends between being read and being killed.
	b.device.before = func(req uint, _ bool) error {
		if req == kill && len(b.left()) == 7 {
			s := b.kernel.States()[0]
			if _, err := b.pf.KillState(s.ID, s.Creator); err != nil {
				return err
			}
		}
		return nil
	}
	if res, err = b.KillStates(cut, in); err != nil || res != (StatesKilled{Considered: 7, Killed: 6}) {
		t.Errorf("%+v, %v", res, err)
	}

	b.Enforcer.pf.Pledged()
	if _, err := b.KillStates(cut, in); !errors.Is(err, pfioctl.ErrPledged) {
		t.Errorf("pledged: %v", err)
	}
}
