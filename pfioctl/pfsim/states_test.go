package pfsim

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

func key(a, b string) Key { return Key{netip.MustParseAddrPort(a), netip.MustParseAddrPort(b)} }

// someStates are states of all kinds.
func someStates() []State {
	return []State{
		{Iface: "em0", Dir: pfioctl.DirIn, Proto: protoTCP, Wire: key("192.0.2.1:40000", "198.51.100.1:22")},
		{Dir: pfioctl.DirOut, Proto: protoUDP, Wire: key("203.0.113.9:53", "198.51.100.1:61000"), Stack: key("203.0.113.9:53", "192.168.1.5:5353")},
		{Iface: "pppoe0", Dir: pfioctl.DirIn, Proto: protoTCP, Wire: key("[2001:db8::1]:1024", "[64:ff9b::c000:201]:80"), Stack: key("198.51.100.1:1024", "192.0.2.1:80")},
		{Iface: "em0", Dir: pfioctl.DirIn, Proto: 1, Wire: key("192.0.2.1:8", "198.51.100.1:8"), ID: 77, Creator: 0x01020304},
	}
}

// What pfioctl reads is what was put in, on each release.
func TestStatesAreRead(t *testing.T) {
	for _, release := range []string{"6.9", "7.2", "7.3", "7.4", "7.5", "7.6", "7.7", "7.8", "7.9", "8.0"} {
		t.Run(release, func(t *testing.T) {
			k := New(Options{Release: release})
			pf := newPF(t, k.Open(false), k)
			for range 100 { // more than are written at a time
				for _, s := range someStates() {
					k.AddState(s)
				}
			}
			want := k.States()
			if len(want) != 301 { // one has an ID of its own
				t.Fatalf("%d states", len(want))
			}
			var got []State
			err := pf.EachState(func(s pfioctl.State, left int) bool {
				iface := want[len(got)].Iface // not read
				got = append(got, State{iface, s.Dir, s.Proto, s.Wire, s.Stack, s.ID, s.Creator})
				if len(got)+left != len(want) {
					t.Errorf("%d states and %d left, want %d", len(got), left, len(want))
				}
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("read\n%v\nwant\n%v", got, want)
			}
			if st, err := pf.Status(); err != nil || st.States != len(want) {
				t.Errorf("status %+v, %v", st, err)
			}
		})
	}
}

func TestKillStates(t *testing.T) {
	k := New(Options{})
	pf := k.OpenPF()
	var all []State
	for range 50 {
		for _, s := range someStates()[:3] {
			all = append(all, k.AddState(s))
		}
	}
	mine := k.AddState(State{Dir: pfioctl.DirIn, Wire: key("192.0.2.1:1", "192.0.2.2:2"), ID: 5})
	other := k.AddState(State{Dir: pfioctl.DirIn, Wire: key("192.0.2.1:1", "192.0.2.2:2"), ID: 5, Creator: 6})
	kill := func(id uint64, creator uint32, want int) {
		t.Helper()
		if n, err := pf.KillState(id, creator); n != want || err != nil {
			t.Errorf("kill %d of %d: %d, %v, want %d", id, creator, n, err, want)
		}
	}
	kill(5, 7, 0)
	kill(6, hostID, 0)
	kill(5, 6, 1)
	kill(5, 6, 0)
	kill(5, 0, 1) // of nobody is of this host
	var want []State
	for i, s := range all {
		if i%5 == 0 {
			want = append(want, s)
			continue
		}
		kill(s.ID, s.Creator, 1)
		kill(s.ID, s.Creator, 0)
	}
	if got := k.States(); !reflect.DeepEqual(got, want) {
		t.Errorf("left\n%v\nwant\n%v", got, want)
	}
	if mine.ID != 5 || mine.Creator != hostID || other.Creator != 6 {
		t.Errorf("added %+v and %+v", mine, other)
	}
	if n := k.inUse[pfioctl.LimitStates]; n != len(want) {
		t.Errorf("%d states in use, want %d", n, len(want))
	}

	// The request that pfioctl does not make: nothing picks everything.
	request := func(edit func(b []byte)) (uint32, error) {
		o := k.layout.Kill
		b := make([]byte, o.Size)
		edit(b)
		err := k.Open(true).Ioctl(k.req.KillStates, unsafe.Pointer(&b[0]))
		return k.layout.Order().Uint32(b[o.Killed:]), err
	}
	if _, err := request(func(b []byte) { b[16] = abi.AFInet }); err != syscall.EOPNOTSUPP || len(k.States()) != len(want) {
		t.Errorf("a filter: %v, %d states left", err, len(k.States()))
	}
	if n, err := request(func([]byte) {}); n != uint32(len(want)) || err != nil || len(k.States()) != 0 {
		t.Errorf("an empty request: %d killed, %v, %d left", n, err, len(k.States()))
	}
	kill(all[0].ID, hostID, 0)
	if s := k.AddState(all[0]); len(k.States()) != 1 {
		t.Errorf("%+v cannot be added again", s)
	}
}

// The requests as they are: sizes that are small or no multiple, and memory
// that is not there.
func TestStateRequests(t *testing.T) {
	k := New(Options{})
	size := k.layout.State.Size
	for _, s := range someStates() {
		k.AddState(s)
	}
	d := k.Open(true)
	for _, tt := range []struct {
		name      string
		len, want int
		err       error
	}{
		{"asking for the length", 0, 4 * size, nil},
		{"no room for one", size - 1, 0, nil},
		{"room for two and a bit", 2*size + 7, 2 * size, nil},
		{"room for all", 4 * size, 4 * size, nil},
		{"room for more", 9 * size, 4 * size, nil},
	} {
		b := make([]byte, 10*size)
		io := &abi.PfiocStates{Len: uintptr(tt.len), Buffer: unsafe.Pointer(&b[0])}
		if err := d.Ioctl(k.req.GetStates, unsafe.Pointer(io)); err != tt.err || io.Len != uintptr(tt.want) {
			t.Errorf("%s: %d, %v, want %d", tt.name, io.Len, err, tt.want)
		}
		if tt.len > 0 && strings.Trim(string(b[tt.want:]), "\x00") != "" {
			t.Errorf("%s: written behind the answer", tt.name)
		}
	}
	io := &abi.PfiocStates{Len: uintptr(size)}
	if err := d.Ioctl(k.req.GetStates, unsafe.Pointer(io)); err != syscall.EFAULT || io.Len != uintptr(size) {
		t.Errorf("no memory: %v, %d", err, io.Len)
	}
}

func TestStatePermission(t *testing.T) {
	for _, tt := range []struct {
		write      bool
		level      int
		read, kill error
	}{
		{true, 1, nil, nil},
		{false, 1, nil, syscall.EACCES},
		{true, 2, nil, syscall.EPERM},
		{false, 2, nil, syscall.EPERM},
	} {
		k := New(Options{})
		k.SetSecurelevel(tt.level)
		d := k.Open(tt.write)
		b := make([]byte, k.layout.Kill.Size)
		b[0] = 1
		if err := d.Ioctl(k.req.KillStates, unsafe.Pointer(&b[0])); err != tt.kill {
			t.Errorf("write %v, securelevel %d: kill: %v, want %v", tt.write, tt.level, err, tt.kill)
		}
		if err := d.Ioctl(k.req.GetStates, unsafe.Pointer(&abi.PfiocStates{})); err != tt.read {
			t.Errorf("write %v, securelevel %d: read: %v, want %v", tt.write, tt.level, err, tt.read)
		}
		if _, err := newPF(t, d, k).SkippedInterfaces(); err != nil {
			t.Errorf("write %v, securelevel %d: interfaces: %v", tt.write, tt.level, err)
		}
	}
}

// 8.0 fills all the room that it is given; before, the last struct stayed empty.
func TestInterfacesFillTheirRoom(t *testing.T) {
	for release, want := range map[string]byte{"7.9": 0, "8.0": 'e'} {
		k := New(Options{Release: release})
		load(t, k, Ruleset{Skip: []string{"em0"}}) // all, em, em0
		o := k.layout.Iface
		b := make([]byte, 3*o.Size)
		io := &abi.PfiocIface{Buffer: unsafe.Pointer(&b[0]), Esize: int32(o.Size), Size: 3}
		must(t, k.Open(true).Ioctl(k.req.GetIfaces, unsafe.Pointer(io)))
		if last := b[2*o.Size+o.Name]; io.Size != 3 || last != want {
			t.Errorf("%s: %d interfaces, the last begins with %q, want %q", release, io.Size, last, want)
		}
		got, err := k.OpenPF().SkippedInterfaces()
		if err != nil || !slices.Equal(got, []string{"em0"}) {
			t.Errorf("%s: skipped %q, %v", release, got, err)
		}
	}
}

func TestInterfaces(t *testing.T) {
	k := New(Options{})
	pf := newPF(t, k.Open(false), k)
	skipped := func(want ...string) {
		t.Helper()
		if got, err := pf.SkippedInterfaces(); err != nil || !slices.Equal(got, want) {
			t.Errorf("skipped %q, %v, want %q", got, err, want)
		}
	}
	skipped()
	rules := Ruleset{
		Rules:   []Rule{{Action: pfioctl.ActionBlock, Iface: "em1"}, {Action: pfioctl.ActionPass, Anchor: "a"}},
		Anchors: map[string][]Rule{"a": {{Action: pfioctl.ActionPass, Iface: "egress"}}},
		Skip:    []string{"lo", "vmx3"},
	}
	if err := k.LoadRules(rules); err != nil {
		t.Fatal(err)
	}
	skipped("lo", "vmx3")

	o := k.layout.Iface
	list := func(filter string, size int) ([]string, int32, error) {
		b := make([]byte, 20*o.Size)
		io := &abi.PfiocIface{Buffer: unsafe.Pointer(&b[0]), Esize: int32(o.Size), Size: int32(size)}
		copy(io.Name[:], filter)
		err := k.Open(true).Ioctl(k.req.GetIfaces, unsafe.Pointer(io))
		var names []string
		for ; len(b) >= o.Size && b[o.Name] != 0; b = b[o.Size:] {
			names = append(names, strings.TrimRight(string(b[o.Name:][:16]), "\x00"))
		}
		return names, io.Size, err
	}
	for _, tt := range []struct {
		filter string
		size   int
		names  string
		n      int32
		err    error
	}{
		{"", 20, "all egress em em1 lo vmx vmx3", 7, nil},
		{"", 8, "all egress em em1 lo vmx vmx3", 7, nil},
		{"", 7, "all egress em em1 lo vmx", 7, nil}, // the last is counted only
		{"", 3, "all egress", 3, nil},
		{"", 0, "", 1, nil},
		{"em", 20, "em em1", 2, nil},
		{"em1", 20, "em1", 1, nil},
		{"em2", 20, "", 0, nil},
		{"", -1, "", -1, syscall.EINVAL},
	} {
		names, n, err := list(tt.filter, tt.size)
		if got := strings.Join(names, " "); got != tt.names || n != tt.n || err != tt.err {
			t.Errorf("%q with room for %d: %q, %d, %v, want %q, %d, %v", tt.filter, tt.size, got, n, err, tt.names, tt.n, tt.err)
		}
	}
	io := &abi.PfiocIface{Esize: int32(o.Size) - 1}
	if err := k.Open(true).Ioctl(k.req.GetIfaces, unsafe.Pointer(io)); err != syscall.ENODEV {
		t.Errorf("another size: %v", err)
	}
	io = &abi.PfiocIface{Esize: int32(o.Size), Size: 20}
	if err := k.Open(true).Ioctl(k.req.GetIfaces, unsafe.Pointer(io)); err != syscall.EFAULT {
		t.Errorf("no memory: %v", err)
	}

	rules.Skip = nil
	if err := k.LoadRules(rules); err != nil {
		t.Fatal(err)
	}
	skipped()

	// More than pfioctl has room for at first.
	for i := range 100 {
		rules.Skip = append(rules.Skip, fmt.Sprintf("tun%03d", i))
	}
	if err := k.LoadRules(rules); err != nil {
		t.Fatal(err)
	}
	skipped(rules.Skip...)
}

func TestStatesThatCannotBe(t *testing.T) {
	for _, s := range []State{
		{},
		{Wire: key("192.0.2.1:1", "[2001:db8::1]:1")},
		{Wire: key("192.0.2.1:1", "192.0.2.2:1"), Stack: key("[2001:db8::1]:1", "192.0.2.2:1")},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v was added", s)
				}
			}()
			New(Options{}).AddState(s)
		}()
	}
}
