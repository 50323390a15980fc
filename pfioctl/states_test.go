package pfioctl

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"example.org/threatstopd/pfioctl/internal/abi"
)

// stateDevice answers DIOCGETSTATES as pf_ioctl.c does, with structs of size
// bytes, and notes the last other request.
type stateDevice struct {
	l      *abi.Layout
	size   int
	states [][]byte
	counts int
	grows  int // states that come between being counted for the second time and being read
	walks  int

	err  error
	kill []byte
}

func (d *stateDevice) Close() error { return nil }

func (d *stateDevice) Ioctl(req uint, arg unsafe.Pointer) error {
	r := d.l.Req
	switch {
	case d.err != nil:
		return d.err
	case req == r.KillStates:
		b := unsafe.Slice((*byte)(arg), d.l.Kill.Size)
		d.kill = append([]byte(nil), b...)
		d.l.Order().PutUint32(b[d.l.Kill.Killed:], 1)
		return nil
	case req != r.GetStates:
		return syscall.ENODEV
	}
	io := (*abi.PfiocStates)(arg)
	if io.Len == 0 {
		io.Len = uintptr(len(d.states) * d.size)
		if d.counts++; d.counts == 2 {
			for ; d.grows > 0; d.grows-- {
				d.states = append(d.states, d.states[0])
			}
		}
		return nil
	}
	d.walks++
	b := unsafe.Slice((*byte)(io.Buffer), io.Len)
	n := 0
	for _, s := range d.states {
		if (n+1)*d.size > len(b) {
			break
		}
		copy(b[n*d.size:], s)
		n++
	}
	io.Len = uintptr(n * d.size)
	return nil
}

// state makes the struct of a state, with its offsets written out.
func state(id uint64, creator uint32, dir byte, keys ...[2]string) []byte {
	b := make([]byte, 264)
	binary.BigEndian.PutUint64(b, id)
	copy(b[8:], "em0")
	for i, k := range keys {
		at := b[24+40*i:]
		for j, s := range k {
			a := netip.MustParseAddrPort(s)
			at[38] = abi.AFInet6
			if a.Addr().Is4() {
				at[38] = abi.AFInet
			}
			copy(at[16*j:], a.Addr().AsSlice())
			binary.BigEndian.PutUint16(at[32+2*j:], a.Port())
		}
	}
	binary.BigEndian.PutUint32(b[236:], creator)
	b[250], b[251], b[252], b[255] = b[24+38], 6, dir, 2
	return b
}

func anyState() []byte {
	return state(7, 9, 1, [2]string{"192.0.2.1:1", "192.0.2.2:2"}, [2]string{"192.0.2.1:1", "192.0.2.2:2"})
}

func TestStates(t *testing.T) {
	d := &stateDevice{l: hostLayout("7.8"), size: 264, states: [][]byte{
		state(0x0102030405060708, 0x0a0b0c0d, 2, [2]string{"203.0.113.9:443", "198.51.100.1:61000"}, [2]string{"203.0.113.9:443", "192.168.1.5:40000"}),
		state(0xffffffffffffffff, 1, 1, [2]string{"[2001:db8::1]:1024", "[2001:db8::2]:80"}, [2]string{"192.0.2.1:1024", "192.0.2.2:80"}),
	}}
	all, err := readAll(pfOn(d, d.l))
	if err != nil || d.walks != 1 {
		t.Fatalf("%v in %d walks", err, d.walks)
	}
	ports := func(a, b string) [2]netip.AddrPort {
		return [2]netip.AddrPort{netip.MustParseAddrPort(a), netip.MustParseAddrPort(b)}
	}
	want := []State{
		{0x0102030405060708, 0x0a0b0c0d, DirOut, 6, ports("203.0.113.9:443", "198.51.100.1:61000"), ports("203.0.113.9:443", "192.168.1.5:40000")},
		{0xffffffffffffffff, 1, DirIn, 6, ports("[2001:db8::1]:1024", "[2001:db8::2]:80"), ports("192.0.2.1:1024", "192.0.2.2:80")},
	}
	if !slices.Equal(all, want) {
		t.Errorf("got  %v\nwant %v", all, want)
	}
	n := 0
	if err := pfOn(d, d.l).EachState(func(_ State, left int) bool { n++; return left != 1 }); err != nil || n != 1 {
		t.Errorf("stopped after %d states: %v", n, err)
	}
}

func readAll(p *PF) (all []State, err error) {
	err = p.EachState(func(s State, _ int) bool { all = append(all, s); return true })
	return all, err
}

func TestStatesThatGrow(t *testing.T) {
	d := &stateDevice{l: hostLayout("7.8"), size: 264, states: [][]byte{anyState()}, grows: 100}
	all, err := readAll(pfOn(d, d.l))
	if err != nil || len(all) != 101 || d.walks != 2 {
		t.Errorf("%d states in %d walks: %v", len(all), d.walks, err)
	}

	none := &stateDevice{l: d.l, size: 264}
	if all, err := readAll(pfOn(none, none.l)); err != nil || len(all) != 0 {
		t.Errorf("of no states: %v, %v", all, err)
	}
}

// A kernel whose states are other structs is not misread.
func TestStatesOfAnotherStruct(t *testing.T) {
	with := func(at int, v ...byte) []byte {
		b := anyState()
		copy(b[at:], v)
		return b
	}
	many := func(n int, s []byte) (out [][]byte) {
		for range n {
			out = append(out, s)
		}
		return out
	}
	for _, tt := range []struct {
		name   string
		size   int
		states [][]byte
		want   string
	}{
		{"another size", 272, many(2, anyState()), "544 bytes of states, which are not so many of 264"},
		{"larger, and so many that it divides", 272, many(33, anyState()), "state 2 of 34: no id"},
		{"smaller, and so many that it divides", 256, many(33, anyState()), "state 2 of 32: "},
		{"no id", 264, [][]byte{anyState(), with(0, make([]byte, 8)...)}, "state 2 of 2: no id"},
		{"no interface", 264, [][]byte{with(8, 0)}, `state 1 of 1: interface "\x00m0`},
		{"an interface without end", 264, [][]byte{with(23, 'x')}, "state 1 of 1: interface"},
		{"family on the wire", 264, [][]byte{with(62, 0)}, "state 1 of 1: address families 0 and 2, of 2"},
		{"family of the stack", 264, [][]byte{with(102, 3)}, "state 1 of 1: address families 2 and 3, of 2"},
		{"family", 264, [][]byte{with(250, 24)}, "state 1 of 1: address families 2 and 2, of 24"},
		{"direction", 264, [][]byte{with(252, 0)}, "state 1 of 1: direction 0"},
		{"timeout", 264, [][]byte{with(255, 23)}, "state 1 of 1: kind of timeout 23"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &stateDevice{l: hostLayout("7.8"), size: tt.size, states: tt.states}
			_, err := readAll(pfOn(d, d.l))
			if !errors.Is(err, errMismatch) || !strings.HasPrefix(err.Error(), "pf: read states: "+tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
			if e := (*Error)(nil); !errors.As(err, &e) || e.Advice() == "" {
				t.Errorf("no advice with %v", err)
			}
		})
	}
	d := &stateDevice{l: hostLayout("8.1"), size: 264, states: [][]byte{anyState()}}
	p := pfOn(d, d.l)
	if _, err := readAll(p); !errors.Is(err, ErrUnknownRelease) {
		t.Errorf("of an unknown release: %v", err)
	}
	if _, err := p.KillState(1, 1); !errors.Is(err, ErrUnknownRelease) {
		t.Errorf("of an unknown release: %v", err)
	}
	d = &stateDevice{l: hostLayout("7.8"), err: syscall.EFAULT}
	if _, err := readAll(pfOn(d, d.l)); !errors.Is(err, syscall.EFAULT) {
		t.Errorf("error %v", err)
	}
}

func TestKillState(t *testing.T) {
	d := &stateDevice{l: hostLayout("7.8")}
	p := pfOn(d, d.l)
	n, err := p.KillState(0x0102030405060708, 0x0a0b0c0d)
	if n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	want := make([]byte, d.l.Kill.Size)
	copy(want, "\x01\x02\x03\x04\x05\x06\x07\x08\x0a\x0b\x0c\x0d")
	if string(d.kill) != string(want) {
		t.Errorf("request\n% x, want\n% x", d.kill, want)
	}

	// Without an id the kernel would kill all states.
	d.kill = nil
	if _, err := p.KillState(0, 1); err == nil || d.kill != nil {
		t.Errorf("id 0: %v, request % x", err, d.kill)
	}
	d.err = syscall.EPERM
	if _, err := p.KillState(1, 1); !errors.Is(err, syscall.EPERM) || err.Error() != "pf: kill state: "+syscall.EPERM.Error() {
		t.Errorf("error %v", err)
	}
}
