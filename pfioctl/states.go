package pfioctl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"unsafe"
)

// Side names one of the two keys of a state: a state is looked up by what its
// packets look like on the wire, and by what they look like to the stack. The
// two differ where the state translates.
type Side int

const (
	Wire  Side = 0 // PF_SK_WIRE
	Stack Side = 1 // PF_SK_STACK
)

// States is the state table as it was read, in memory outside of the
// garbage-collected heap: 264 bytes a state.
type States struct {
	a array
	o *StateLayout
}

// States reads the state table (DIOCGETSTATES): one walk over it, after asking
// how long it is, which is a number that the kernel keeps. The walk is not of
// one moment: states may come and go during it. The caller closes the array.
//
// The promise "pf" of pledge(2) does not allow it: [ErrPledged]. Of a release
// that is not known the error wraps [ErrUnknownRelease], and [ErrMismatch] where
// the answer is not what is known of the release: the kernel does not check the
// size of the struct, so each one is looked at for whether it can be a state.
func (p *PF) States() (*States, error) {
	const op = "read states"
	o := &p.l.state
	if o.Size == 0 {
		return nil, fail(op, Table{}, 0, p.unknown())
	}
	s := &States{array{esize: o.Size}, o}
	if err := p.readStates(&s.a, o); err != nil {
		s.Close()
		return nil, fail(op, Table{}, 0, err)
	}
	return s, nil
}

func (p *PF) readStates(a *array, o *StateLayout) error {
	for range attempts {
		io := &PfiocStates{}
		if err := p.ioctl(p.l.req.GetStates, unsafe.Pointer(io)); err != nil {
			return err
		}
		n, err := o.count(io.Len)
		if err != nil {
			return err
		}
		// A little more than needed, for what is added meanwhile. Never
		// nothing: that is the question for the length.
		if err := a.grow(n + n/64 + 16); err != nil {
			return err
		}
		io.Len, io.Buffer = uintptr(a.room*a.esize), a.pointer()
		if err := p.ioctl(p.l.req.GetStates, unsafe.Pointer(io)); err != nil {
			return err
		}
		if n, err = o.count(io.Len); err != nil {
			return err
		}
		if n >= a.room {
			continue // there may be more
		}
		for i := range n {
			if err := o.check(a.at(i)); err != nil {
				return fmt.Errorf("state %d of %d: %w: %w", i+1, n, err, ErrMismatch)
			}
		}
		a.n = n
		return nil
	}
	return ErrChanging
}

// count is the number of states in so many bytes.
func (o *StateLayout) count(bytes uintptr) (int, error) {
	size := uintptr(o.Size)
	if bytes%size != 0 || bytes/size > 1<<31-1 {
		return 0, fmt.Errorf("%d bytes of states, which are not so many of %d: %w", bytes, size, ErrMismatch)
	}
	return int(bytes / size), nil
}

// pftmUnlinked is the last of the kernel's PFTM_*, of a state that is on its way
// out. The walk leaves those out, but one may go during it.
const pftmUnlinked = 22

// check says why an element cannot be a state. It holds what a state always
// has (pf.c: pf_state_export) against it, spread over the whole struct, so that
// of one with other sizes or places some element does not pass.
func (o *StateLayout) check(b []byte) error {
	wire, stack := b[o.Key+o.KeyAF], b[o.Key+o.KeySize+o.KeyAF]
	name := b[o.Ifname:][:ifNameSize]
	switch {
	case binary.BigEndian.Uint64(b[o.ID:]) == 0:
		return errors.New("no id") // pf.c: pf_state_insert gives one
	case name[0] <= ' ' || name[0] > '~' || name[ifNameSize-1] != 0:
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

func family(af byte) bool { return af == AFInet || af == AFInet6 }

// Len returns the number of states.
func (s *States) Len() int { return s.a.n }

// At returns state i, and panics if there is none.
func (s *States) At(i int) State {
	if uint(i) >= uint(s.a.n) {
		panic(fmt.Sprintf("pfioctl: state %d of %d", i, s.a.n))
	}
	return State{s.a.at(i), s.o}
}

// All returns the states in the kernel's order, which is about that of their
// age.
func (s *States) All() iter.Seq[State] {
	return func(yield func(State) bool) {
		for i := range s.a.n {
			if !yield(s.At(i)) {
				return
			}
		}
	}
}

// Close gives the memory back; the array is empty afterwards, and no State of
// it may be used.
func (s *States) Close() error { return s.a.close() }

// State is one state of a [States], where it lies there: it lasts until that is
// closed. Reading from it does not allocate, but for Interface.
type State struct {
	b []byte
	o *StateLayout
}

// ID and Creator are by what a state is known, among all firewalls that share
// their states by pfsync(4). Neither says anything by itself.
func (s State) ID() uint64      { return binary.BigEndian.Uint64(s.b[s.o.ID:]) }
func (s State) Creator() uint32 { return binary.BigEndian.Uint32(s.b[s.o.Creator:]) }

// Interface returns the interface that the state is bound to, "all" for any.
func (s State) Interface() string { return cstring(s.b[s.o.Ifname:][:ifNameSize]) }

// Direction returns in which direction the first packet passed.
func (s State) Direction() Direction { return Direction(s.b[s.o.Direction]) }

// Proto returns the protocol's number, on the side of the wire.
func (s State) Proto() uint8 { return s.b[s.o.Proto] }

// Addr returns one of the two addresses of a key, 0 or 1: of a state with
// direction in they are source and destination, of one with direction out
// destination and source. With af-to the two sides have different families.
func (s State) Addr(side Side, i int) netip.Addr {
	key := s.b[s.o.Key+int(side)*s.o.KeySize:]
	a := key[s.o.KeyAddr+16*i:]
	if key[s.o.KeyAF] == AFInet {
		return netip.AddrFrom4([4]byte(a))
	}
	return netip.AddrFrom16([16]byte(a))
}

// Port returns one of the two ports of a key, in the order of Addr. Of ICMP it
// is the id, or the type.
func (s State) Port(side Side, i int) uint16 {
	return binary.BigEndian.Uint16(s.b[s.o.Key+int(side)*s.o.KeySize+s.o.KeyPort+2*i:])
}

// KillState removes the state of this id and creator (DIOCKILLSTATES), and
// returns how many that were: 0 if it is gone already, else 1. At securelevel 2
// it is EPERM; the promise "pf" does not allow it.
//
// An id of zero is refused: to the kernel it says that the rest of the request,
// which is empty here, picks the states, and that picks all of them.
func (p *PF) KillState(id uint64, creator uint32) (killed int, err error) {
	const op = "kill state"
	o := p.l.kill
	switch {
	case o.Size == 0:
		return 0, fail(op, Table{}, 0, p.unknown())
	case id == 0:
		return 0, fail(op, Table{}, 0, errors.New("no id"))
	}
	b := make([]byte, o.Size)
	binary.BigEndian.PutUint64(b[o.ID:], id)
	binary.BigEndian.PutUint32(b[o.Creator:], creator)
	if err := p.ioctl(p.l.req.KillStates, unsafe.Pointer(&b[0])); err != nil {
		return 0, fail(op, Table{}, 0, err)
	}
	return int(p.l.ByteOrder().Uint32(b[o.Killed:])), nil
}
