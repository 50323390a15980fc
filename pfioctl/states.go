package pfioctl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"example.org/threatstopd/pfioctl/internal/abi"
)

// State is an entry of the state table. It is looked up by what its packets look
// like on the wire, and by what they look like to the stack. The two keys differ
// where the state translates; with af-to they have different families.
type State struct {
	// ID and Creator name the state among all firewalls that share their states
	// by pfsync(4). Neither has a meaning by itself.
	ID      uint64
	Creator uint32

	Dir   Direction // of the first packet
	Proto uint8     // on the side of the wire

	// Wire and Stack are two addresses and ports each: of a state with direction in
	// source and destination, of one with direction out destination and source. Of
	// ICMP the ports are the id, or the type.
	Wire, Stack [2]netip.AddrPort
}

// EachState reads the state table (DIOCGETSTATES) and calls f with each state, the
// oldest first, and with how many follow, until f returns false. Reading is one walk
// over the table, after asking how long it is, which is a number that the kernel keeps.
// The walk is not of one moment: states may come and go during it. It takes 264 bytes
// a state, outside of the garbage-collected heap.
//
// The promise "pf" of pledge(2) does not allow it: [ErrPledged]. Of a release
// that is not known the error wraps [ErrUnknownRelease]. The kernel does not check the
// size of the struct, so each state is checked for whether it can be one before the
// first is passed to f.
func (p *PF) EachState(f func(s State, left int) bool) error {
	o := &p.l.State
	a := array{esize: max(o.Size, 1)}
	defer a.close()
	if err := p.readStates(&a); err != nil {
		return fail("read states", Table{}, 0, err)
	}
	for i := 0; i < a.n && f(decodeState(o, a.at(i)), a.n-i-1); i++ {
	}
	return nil
}

func (p *PF) readStates(a *array) error {
	err := a.fill(0, func() (int, error) {
		n, err := p.getStates(nil, 0)
		if err == nil && n < a.room {
			n, err = p.getStates(a.pointer(), a.room*a.esize)
		}
		if n >= a.room {
			n++ // there may be more, and no room at all would be the question for the number
		}
		return n, err
	})
	for i := 0; err == nil && i < a.n; i++ {
		if err := checkState(&p.l.State, a.at(i)); err != nil {
			return fmt.Errorf("state %d of %d: %w: %w", i+1, a.n, err, errMismatch)
		}
	}
	return err
}

// getStates fills a buffer of so many bytes with states, and returns how many they are;
// without a buffer, how many there are.
func (p *PF) getStates(buffer unsafe.Pointer, bytes int) (int, error) {
	io := &abi.PfiocStates{Len: uintptr(bytes), Buffer: buffer}
	if err := p.ioctl(p.l.Req.GetStates, unsafe.Pointer(io)); err != nil {
		return 0, err
	}
	size := uintptr(p.l.State.Size)
	if io.Len%size != 0 || io.Len/size > 1<<31-1 {
		return 0, fmt.Errorf("%d bytes of states, which are not so many of %d: %w", io.Len, size, errMismatch)
	}
	return int(io.Len / size), nil
}

// pftmUnlinked is the last of the kernel's PFTM_*, of a state that is on its way
// out. The walk leaves those out, but one may go during it.
const pftmUnlinked = 22

// checkState returns why an element cannot be a state. It checks what every state
// has (pf.c: pf_state_export), all over the struct, so that of one with other sizes
// or places some element does not pass.
func checkState(o *abi.StateLayout, b []byte) error {
	wire, stack := b[o.Key+o.KeyAF], b[o.Key+o.KeySize+o.KeyAF]
	name := b[o.Ifname:][:abi.IfNameSize]
	switch {
	case binary.BigEndian.Uint64(b[o.ID:]) == 0:
		return errors.New("no id") // pf.c: pf_state_insert gives one
	case name[0] <= ' ' || name[0] > '~' || name[abi.IfNameSize-1] != 0:
		return fmt.Errorf("interface %q", name)
	case !family(wire) || !family(stack) || wire != b[o.AF]:
		return fmt.Errorf("address families %d and %d, of %d", wire, stack, b[o.AF])
	case b[o.Direction] != byte(DirIn) && b[o.Direction] != byte(DirOut):
		return fmt.Errorf("direction %d", b[o.Direction])
	case b[o.Timeout] > pftmUnlinked:
		return fmt.Errorf("kind of timeout %d", b[o.Timeout])
	}
	return nil
}

func family(af byte) bool { return af == abi.AFInet || af == abi.AFInet6 }

func decodeState(o *abi.StateLayout, b []byte) State {
	s := State{
		ID: binary.BigEndian.Uint64(b[o.ID:]), Creator: binary.BigEndian.Uint32(b[o.Creator:]),
		Dir: Direction(b[o.Direction]), Proto: b[o.Proto],
	}
	for side, key := range []*[2]netip.AddrPort{&s.Wire, &s.Stack} {
		from := b[o.Key+side*o.KeySize:]
		for i := range key {
			a := from[o.KeyAddr+16*i:]
			ip := netip.AddrFrom16([16]byte(a))
			if from[o.KeyAF] == abi.AFInet {
				ip = netip.AddrFrom4([4]byte(a))
			}
			key[i] = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(from[o.KeyPort+2*i:]))
		}
	}
	return s
}

// KillState removes the state of this id and creator (DIOCKILLSTATES), and
// returns how many that were: 0 if it is gone already, else 1. At securelevel 2
// it is EPERM; the promise "pf" does not allow it.
//
// An id of zero is refused: to the kernel it says that the rest of the request,
// which is empty here, picks the states, and that picks all of them.
func (p *PF) KillState(id uint64, creator uint32) (killed int, err error) {
	o := &p.l.Kill
	b := make([]byte, max(o.Size, 16))
	binary.BigEndian.PutUint64(b[o.ID:], id)
	binary.BigEndian.PutUint32(b[o.Creator:], creator)
	if err = errors.New("no id"); id != 0 {
		err = p.ioctl(p.l.Req.KillStates, unsafe.Pointer(&b[0]))
	}
	if err != nil {
		return 0, fail("kill state", Table{}, 0, err)
	}
	return int(p.l.Order().Uint32(b[o.Killed:])), nil
}
