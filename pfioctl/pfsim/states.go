package pfsim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

// A State is an entry of the state table.
type State struct {
	Iface string            // it is bound to; empty for any, which is "all"
	Dir   pfioctl.Direction // DirIn or DirOut
	Proto uint8

	// Wire and Stack are its keys. An empty Stack is that of a state that does
	// not translate: as Wire.
	Wire, Stack Key

	// ID and Creator are given by the kernel where they are zero. States of
	// another creator are those that pfsync(4) brought.
	ID      uint64
	Creator uint32
}

// A Key is a state's addresses and ports: with Dir in they are source and
// destination, with Dir out destination and source.
type Key [2]netip.AddrPort

// stateID identifies a state (pf.c: pf_state_compare_id).
type stateID struct {
	id      uint64
	creator uint32
}

// hostID is what this host's states have as their creator.
const hostID = 0x70667369

// states is the state table, in the order in which they came. Those killed
// leave a gap, until there are more gaps than states.
type states struct {
	all  []State // a gap has no ID
	at   map[stateID]int
	last uint64
}

// AddState puts a state into the state table, as a packet does that a rule with
// "keep state" passes, and returns it with its ID and Creator. A state that is
// known by the same two is replaced. The limit of states does not hold here. It
// panics when a key is not of two addresses of one family.
func (k *Kernel) AddState(s State) State {
	if s.Iface == "" {
		s.Iface = "all"
	}
	if s.Stack == (Key{}) {
		s.Stack = s.Wire
	}
	for _, key := range []Key{s.Wire, s.Stack} {
		a, b := key[0].Addr().Unmap(), key[1].Addr().Unmap()
		if !a.IsValid() || a.BitLen() != b.BitLen() {
			panic(fmt.Sprintf("pfsim: state of %v and %v", key[0], key[1]))
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	t := &k.states
	if s.Creator == 0 {
		s.Creator = hostID
	}
	if s.ID == 0 {
		if t.last == 0 {
			t.last = uint64(k.boot.Unix()) << 32
		}
		t.last++
		s.ID = t.last
	}
	id := stateID{s.ID, s.Creator}
	if i, ok := t.at[id]; ok {
		t.all[i] = s
		return s
	}
	if t.at == nil {
		t.at = make(map[stateID]int)
	}
	t.at[id] = len(t.all)
	t.all = append(t.all, s)
	k.inUse[pfioctl.LimitStates]++
	return s
}

// States returns the state table, the oldest first.
func (k *Kernel) States() []State {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]State, 0, len(k.states.at))
	for _, s := range k.states.all {
		if s.ID != 0 {
			out = append(out, s)
		}
	}
	return out
}

// killState takes a state out, and reports whether it was there.
func (k *Kernel) killState(id stateID) bool {
	t := &k.states
	i, ok := t.at[id]
	if !ok {
		return false
	}
	delete(t.at, id)
	t.all[i] = State{}
	k.inUse[pfioctl.LimitStates]--
	if len(t.all) > 2*len(t.at)+16 {
		t.all = slices.DeleteFunc(t.all, func(s State) bool { return s.ID == 0 })
		for i, s := range t.all {
			t.at[stateID{s.ID, s.Creator}] = i
		}
	}
	return true
}

// getStates is DIOCGETSTATES (pf_ioctl.c: pf_states_get): asked with no length it
// returns how many bytes all take, else it fills what it is given with as many
// whole structs as fit, and does not say that there are more.
func (k *Kernel) getStates(io *abi.PfiocStates) error {
	o := k.layout.State
	if io.Len == 0 {
		io.Len = uintptr(len(k.states.at) * o.Size)
		return nil
	}
	const chunk = 64
	room := io.Len / uintptr(o.Size)
	b := make([]byte, 0, chunk*o.Size)
	nr := 0
	flush := func() error {
		n := len(b) / o.Size
		if copyout(io.Buffer, nr, b, o.Size) != n {
			return syscall.EFAULT
		}
		nr, b = nr+n, b[:0]
		return nil
	}
	for i := range k.states.all {
		s := &k.states.all[i]
		if s.ID == 0 {
			continue
		}
		if uintptr(nr+len(b)/o.Size) >= room {
			break
		}
		b = b[:len(b)+o.Size]
		s.export(b[len(b)-o.Size:], &o)
		if len(b) == cap(b) {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	io.Len = uintptr(nr * o.Size)
	return nil
}

// export is pf_state_export, of what a State has. The state is one of a
// connection that is up, and of no rule.
func (s *State) export(b []byte, o *abi.StateLayout) {
	const established = 2 // PFTM_TCP_ESTABLISHED
	clear(b)
	binary.BigEndian.PutUint64(b[o.ID:], s.ID)
	binary.BigEndian.PutUint32(b[o.Creator:], s.Creator)
	copy(b[o.Ifname:][:15], s.Iface)
	for side, key := range []Key{s.Wire, s.Stack} {
		to := b[o.Key+side*o.KeySize:][:o.KeySize]
		for i, a := range key {
			ip := a.Addr().Unmap()
			to[o.KeyAF] = abi.AFInet6
			if ip.Is4() {
				to[o.KeyAF] = abi.AFInet
			}
			copy(to[o.KeyAddr+16*i:], ip.AsSlice())
			binary.BigEndian.PutUint16(to[o.KeyPort+2*i:], a.Port())
		}
	}
	b[o.AF] = b[o.Key+o.KeyAF]
	b[o.Proto] = s.Proto
	b[o.Direction] = byte(s.Dir)
	b[o.Timeout] = established
}

// killStates is DIOCKILLSTATES. With an id it kills that state, of this host
// where no creator is named. Without one it kills what the rest of the request
// picks: when that is empty all states. What it could be else is not known here.
func (k *Kernel) killStates(io []byte) error {
	o, order := k.layout.Kill, k.layout.Order()
	id := stateID{binary.BigEndian.Uint64(io[o.ID:]), binary.BigEndian.Uint32(io[o.Creator:])}
	if id.id != 0 {
		if id.creator == 0 {
			id.creator = hostID
			binary.BigEndian.PutUint32(io[o.Creator:], hostID)
		}
		// A state that is not there leaves the field as it came.
		if k.killState(id) {
			order.PutUint32(io[o.Killed:], 1)
		}
		return nil
	}
	for i, b := range io {
		if b != 0 && (i < o.Creator || i >= o.Creator+4) && (i < o.Killed || i >= o.Killed+4) {
			return syscall.EOPNOTSUPP
		}
	}
	order.PutUint32(io[o.Killed:], uint32(len(k.states.at)))
	k.states.all, k.states.at = nil, nil
	k.inUse[pfioctl.LimitStates] = 0
	return nil
}

// getIfaces is DIOCIGETIFACES: all interfaces and groups that pf has heard of,
// which here is from rules and from "set skip on". Up to 7.9 one that has no room
// is counted and not written, and neither are those behind it (pf_if.c:
// pfi_get_ifaces); 8.0 fills all the room there is.
func (k *Kernel) getIfaces(io *abi.PfiocIface) error {
	o, order := k.layout.Iface, k.layout.Order()
	if io.Esize != int32(o.Size) {
		return syscall.ENODEV
	}
	if io.Size < 0 {
		return syscall.EINVAL
	}
	name, _, _ := bytes.Cut(io.Name[:], []byte{0})
	filter := string(name)
	var b []byte
	for _, name := range k.ifaces() {
		if filter != "" && name != filter && group(name) != filter {
			continue
		}
		if k.num >= 80 && len(b)/o.Size >= int(io.Size) {
			break
		}
		b = append(b, make([]byte, o.Size)...)
		if k.num < 80 && len(b)/o.Size >= int(io.Size) {
			break
		}
		e := b[len(b)-o.Size:]
		copy(e[o.Name:][:15], name)
		if k.skip[name] {
			order.PutUint32(e[o.Flags:], abi.IfaceSkip)
		}
	}
	n := len(b) / o.Size
	if copyout(io.Buffer, 0, b, o.Size) != n {
		return syscall.EFAULT
	}
	io.Size = int32(n)
	return nil
}

// ifaces are the names of interfaces and groups, in the order of the kernel's
// tree.
func (k *Kernel) ifaces() []string {
	known := map[string]bool{"all": true}
	add := func(name string) {
		if name != "" {
			known[name], known[group(name)] = true, true
		}
	}
	for name := range k.skip {
		add(name)
	}
	rules := k.main.active
	for _, a := range k.anchors {
		rules = append(slices.Clip(rules), a.rs.active...)
	}
	for _, r := range rules {
		add(r.Iface)
	}
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
