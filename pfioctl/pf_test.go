package pfioctl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"example.org/threatstopd/pfioctl/internal/abi"
	"example.org/threatstopd/pfioctl/internal/abi/measured"
)

// recorder is a device that keeps the bytes of each request and answers from a
// script. When the script has come to its end it answers success.
type recorder struct {
	t      *testing.T
	script []answer
	got    []sent
	closed bool
}

// answer changes the request as the kernel would, or returns its error.
type answer func(io *abi.PfiocTable, elements []byte) error

type sent struct {
	req      uint
	io       []byte // struct pfioc_table
	elements []byte // what its buffer held
}

func (d *recorder) Close() error { d.closed = true; return nil }

func (d *recorder) Ioctl(req uint, arg unsafe.Pointer) error {
	r := hostLayout("7.8").Req
	if req == r.GetLimit {
		d.got = append(d.got, sent{req: req, io: slices.Clone(unsafe.Slice((*byte)(arg), 8))})
		if len(d.script) > 0 {
			a := d.script[0]
			d.script = d.script[1:]
			io := &abi.PfiocTable{}
			err := a(io, nil)
			(*abi.PfiocLimit)(arg).Limit = uint32(io.Size)
			return err
		}
		return nil
	}
	io := (*abi.PfiocTable)(arg)
	var elements []byte
	if io.Buffer != nil {
		n := io.Size
		if io.Flags&abi.FlagFeedback != 0 {
			n = max(n, io.Size2)
		}
		elements = unsafe.Slice((*byte)(io.Buffer), int(n)*int(io.Esize))
	}
	d.got = append(d.got, sent{req, slices.Clone(unsafe.Slice((*byte)(arg), unsafe.Sizeof(*io))), slices.Clone(elements)})
	if len(d.script) == 0 {
		return nil
	}
	a := d.script[0]
	d.script = d.script[1:]
	saved := *io
	err := a(io, elements)
	if err != nil {
		*io = saved // copied out only when all is well
	}
	return err
}

// newRecorder returns one that answers with the script, and a PF on it.
func newRecorder(t *testing.T, script ...answer) (*recorder, *PF) {
	d := &recorder{t: t, script: script}
	return d, pfOn(d, hostLayout("7.8"))
}

func ok(*abi.PfiocTable, []byte) error { return nil }

func fails(err error) answer { return func(*abi.PfiocTable, []byte) error { return err } }

// lists answers with elements if there is room for them, else with their number.
func lists(elements ...[]byte) answer {
	return func(io *abi.PfiocTable, b []byte) error {
		if int(io.Size) >= len(elements) {
			for i, e := range elements {
				copy(b[i*int(io.Esize):], e)
			}
		}
		io.Size = int32(len(elements))
		return nil
	}
}

func limitOf(n int32) answer {
	return func(io *abi.PfiocTable, _ []byte) error { io.Size = n; return nil }
}

// vector builds expected bytes from the measured offsets.
type vector struct {
	t     *testing.T
	st    measured.Struct
	order binary.ByteOrder
	b     []byte
}

func newVector(t *testing.T, name string) *vector {
	l := hostLayout("7.8")
	st := measured.Read().Of("7.8", runtimeArch).Structs[name]
	return &vector{t: t, st: st, order: l.Order(), b: make([]byte, st.Size)}
}

func (v *vector) put(field string, value any) *vector {
	v.t.Helper()
	f, ok := v.st.Fields[field]
	if !ok {
		v.t.Fatalf("no field %s", field)
	}
	b := v.b[f[0]:][:f[1]]
	switch x := value.(type) {
	case string:
		copy(b, x)
	case []byte:
		copy(b, x)
	case uint64:
		v.order.PutUint64(b, x)
	case int:
		switch f[1] {
		case 1:
			b[0] = byte(x)
		case 2:
			v.order.PutUint16(b, uint16(x))
		case 4:
			v.order.PutUint32(b, uint32(int32(x)))
		case 8:
			v.order.PutUint64(b, uint64(int64(x)))
		default:
			v.t.Fatalf("%s has %d bytes", field, f[1])
		}
	}
	return v
}

// element is struct pfr_addr.
func element(t *testing.T, s string, fback abi.Feedback) []byte {
	e := addr(s)
	v := newVector(t, "pfr_addr").put("pfra_u", e.Prefix.Addr().AsSlice()).
		put("pfra_net", e.Prefix.Bits()).put("pfra_fback", int(fback)).put("pfra_af", 2)
	if e.Prefix.Addr().Is6() {
		v.put("pfra_af", 24)
	}
	if e.Not {
		v.put("pfra_not", 1)
	}
	return v.b
}

func elements(t *testing.T, s ...string) (b []byte) {
	for _, x := range s {
		b = append(b, element(t, x, 0)...)
	}
	return b
}

// addr reads an entry as pfctl writes it.
func addr(s string) Addr {
	rest, not := strings.CutPrefix(s, "!")
	if !strings.Contains(rest, "/") {
		ip := netip.MustParseAddr(rest)
		return Addr{netip.PrefixFrom(ip, ip.BitLen()), not}
	}
	return Addr{netip.MustParsePrefix(rest), not}
}

func addrs(s ...string) (out []Addr) {
	for _, x := range s {
		out = append(out, addr(x))
	}
	return out
}

func array1(t *testing.T, s ...string) *Addrs {
	t.Helper()
	a, err := NewAddrs(len(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	for _, x := range s {
		if err := a.Append(addr(x).Prefix, addr(x).Not); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// stats is struct pfr_tstats.
func stats(t *testing.T, table Table, flags TableFlags, n int) []byte {
	return newVector(t, "pfr_tstats").
		put("pfrts_t.pfrt_anchor", table.Anchor).put("pfrts_t.pfrt_name", table.Name).
		put("pfrts_t.pfrt_flags", int(flags)).put("pfrts_cnt", n).b
}

// The bytes of each request, against the offsets and numbers that were measured
// on the headers.
func TestRequestBytes(t *testing.T) {
	bad := Table{Name: "bad"}
	inner := Table{Anchor: "outer/inner", Name: "bad"}
	for _, tt := range []struct {
		name     string
		call     func(t *testing.T, p *PF) error
		script   []answer
		nth      int // which request is meant
		req      string
		want     map[string]any
		elements func(t *testing.T) []byte
	}{
		{
			name: "set",
			call: func(t *testing.T, p *PF) error {
				_, err := p.SetAddrs(bad, array1(t, "10.0.0.0/8", "!10.1.0.0/16", "2001:db8::1"))
				return err
			},
			req:      "DIOCRSETADDRS",
			want:     map[string]any{"pfrio_table.pfrt_name": "bad", "pfrio_esize": 52, "pfrio_size": 3},
			elements: func(t *testing.T) []byte { return elements(t, "10.0.0.0/8", "!10.1.0.0/16", "2001:db8::1") },
		},
		{
			name: "set in an anchor",
			call: func(t *testing.T, p *PF) error {
				_, err := p.Compare(inner, array1(t, "::/0"))
				return err
			},
			req: "DIOCRSETADDRS",
			want: map[string]any{
				"pfrio_table.pfrt_name": "bad", "pfrio_table.pfrt_anchor": "outer/inner",
				"pfrio_esize": 52, "pfrio_size": 1, "pfrio_flags": 0x2,
			},
			elements: func(t *testing.T) []byte { return elements(t, "::/0") },
		},
		{
			name: "set to nothing",
			call: func(t *testing.T, p *PF) error { _, err := p.SetAddrs(bad, array1(t)); return err },
			req:  "DIOCRSETADDRS", want: map[string]any{"pfrio_table.pfrt_name": "bad", "pfrio_esize": 52},
		},
		{
			name: "set from an iterator",
			call: func(t *testing.T, p *PF) error {
				_, err := p.Set(bad, 0, seq(addrs("192.0.2.1", "0.0.0.0/0")...))
				return err
			},
			req:      "DIOCRSETADDRS",
			want:     map[string]any{"pfrio_table.pfrt_name": "bad", "pfrio_esize": 52, "pfrio_size": 2},
			elements: func(t *testing.T) []byte { return elements(t, "192.0.2.1", "0.0.0.0/0") },
		},
		{
			name: "add",
			call: func(t *testing.T, p *PF) error {
				_, err := p.Add(bad, addrs("192.0.2.1", "!192.0.2.0/24")...)
				return err
			},
			script:   []answer{limitOf(100), lists()},
			nth:      2,
			req:      "DIOCRADDADDRS",
			want:     map[string]any{"pfrio_table.pfrt_name": "bad", "pfrio_esize": 52, "pfrio_size": 2, "pfrio_flags": 0x4},
			elements: func(t *testing.T) []byte { return elements(t, "192.0.2.1", "!192.0.2.0/24") },
		},
		{
			name: "add sends each once",
			call: func(t *testing.T, p *PF) error {
				_, err := p.Add(bad, addrs("192.0.2.1", "::1", "192.0.2.1")...)
				return err
			},
			script:   []answer{limitOf(100), lists()},
			nth:      2,
			req:      "DIOCRADDADDRS",
			want:     map[string]any{"pfrio_table.pfrt_name": "bad", "pfrio_esize": 52, "pfrio_size": 2, "pfrio_flags": 0x4},
			elements: func(t *testing.T) []byte { return elements(t, "192.0.2.1", "::1") },
		},
		{
			name:     "delete",
			call:     func(t *testing.T, p *PF) error { _, err := p.Delete(bad, addr("192.0.2.1")); return err },
			req:      "DIOCRDELADDRS",
			want:     map[string]any{"pfrio_table.pfrt_name": "bad", "pfrio_esize": 52, "pfrio_size": 1, "pfrio_flags": 0x4},
			elements: func(t *testing.T) []byte { return elements(t, "192.0.2.1") },
		},
		{
			name: "clear", // esize 0
			call: func(t *testing.T, p *PF) error { _, err := p.Clear(inner); return err },
			req:  "DIOCRCLRADDRS",
			want: map[string]any{"pfrio_table.pfrt_name": "bad", "pfrio_table.pfrt_anchor": "outer/inner"},
		},
		{
			name: "get asks for the number first",
			call: func(t *testing.T, p *PF) error { _, err := p.Get(bad); return err },
			req:  "DIOCRGETADDRS", want: map[string]any{"pfrio_table.pfrt_name": "bad", "pfrio_esize": 52},
		},
		{
			name: "get under pledge",
			call: func(t *testing.T, p *PF) error { p.Pledged(); _, err := p.Get(bad); return err },
			req:  "DIOCRSETADDRS", want: map[string]any{"pfrio_table.pfrt_name": "bad", "pfrio_esize": 52, "pfrio_size2": 16, "pfrio_flags": 0x6},
			elements: func(t *testing.T) []byte { return make([]byte, 16*52) },
		},
		{
			name:     "test",
			call:     func(t *testing.T, p *PF) error { _, err := p.Test(bad, netip.MustParseAddr("10.1.2.3")); return err },
			req:      "DIOCRTSTADDRS",
			want:     map[string]any{"pfrio_table.pfrt_name": "bad", "pfrio_esize": 52, "pfrio_size": 1, "pfrio_flags": 0x20},
			elements: func(t *testing.T) []byte { return elements(t, "10.1.2.3") },
		},
		{
			name: "counters of addresses",
			call: func(t *testing.T, p *PF) error { _, err := p.AddrStats(bad); return err },
			req:  "DIOCRGETASTATS", want: map[string]any{"pfrio_table.pfrt_name": "bad", "pfrio_esize": hostLayout("7.8").AStats.Size},
		},

		{
			name:   "add tables, persist always",
			call:   func(t *testing.T, p *PF) error { _, err := p.AddTables(TableCounters, bad, inner); return err },
			script: []answer{ok, lists(stats(t, bad, TableActive, 0), stats(t, inner, TableActive, 0)), lists(stats(t, bad, TableActive, 0), stats(t, inner, TableActive, 0))},
			req:    "DIOCRADDTABLES", want: map[string]any{"pfrio_esize": 1064, "pfrio_size": 2},
			elements: func(t *testing.T) []byte {
				return append(newVector(t, "pfr_table").put("pfrt_name", "bad").put("pfrt_flags", 0x41).b,
					newVector(t, "pfr_table").put("pfrt_anchor", "outer/inner").put("pfrt_name", "bad").put("pfrt_flags", 0x41).b...)
			},
		},
		{
			name: "delete a table of an anchor, once",
			call: func(t *testing.T, p *PF) error {
				_, err := p.DelTables(inner, bad, Table{"//outer/inner", "bad"}, bad)
				return err
			},
			req: "DIOCRDELTABLES", want: map[string]any{"pfrio_esize": 1064, "pfrio_size": 1},
			elements: func(t *testing.T) []byte {
				return newVector(t, "pfr_table").put("pfrt_anchor", "outer/inner").put("pfrt_name", "bad").b
			},
		},
		{
			name: "and then its namesake of the main ruleset",
			call: func(t *testing.T, p *PF) error { _, err := p.DelTables(bad, inner); return err },
			nth:  1,
			req:  "DIOCRDELTABLES", want: map[string]any{"pfrio_esize": 1064, "pfrio_size": 1},
			elements: func(t *testing.T) []byte { return newVector(t, "pfr_table").put("pfrt_name", "bad").b },
		},
		{
			name: "tables of an anchor",
			call: func(t *testing.T, p *PF) error { _, err := p.Tables("x"); return err },
			req:  "DIOCRGETTSTATS", want: map[string]any{"pfrio_table.pfrt_anchor": "x", "pfrio_esize": hostLayout("7.8").TStats.Size},
		},
		{
			name: "tables of all anchors",
			call: func(t *testing.T, p *PF) error { _, err := p.AllTables(); return err },
			req:  "DIOCRGETTSTATS", want: map[string]any{"pfrio_esize": hostLayout("7.8").TStats.Size, "pfrio_flags": 0x40},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, p := newRecorder(t, tt.script...)
			if err := tt.call(t, p); err != nil {
				t.Fatal(err)
			}
			if len(d.got) <= tt.nth {
				t.Fatalf("%d requests", len(d.got))
			}
			got := d.got[tt.nth]
			if want := measured.Read().Of("7.8", runtimeArch).Number(tt.req); got.req != want {
				t.Errorf("request %#x, want %s, %#x", got.req, tt.req, want)
			}
			v := newVector(t, "pfioc_table")
			for field, value := range tt.want {
				v.put(field, value)
			}
			// Where the array stands is not for a test to say.
			at := v.st.Fields["pfrio_buffer"]
			clear(got.io[at[0]:][:at[1]])
			if diff := cmp.Diff(v.b, got.io); diff != "" {
				t.Errorf("struct pfioc_table, want (-), got (+):\n%s", diff)
			}
			var want []byte
			if tt.elements != nil {
				want = tt.elements(t)
			}
			if diff := cmp.Diff(want, got.elements); diff != "" && len(want)+len(got.elements) > 0 {
				t.Errorf("elements, want (-), got (+):\n%s", diff)
			}
		})
	}
}

func TestResults(t *testing.T) {
	counts := func(io *abi.PfiocTable, _ []byte) error {
		io.Nadd, io.Ndel, io.Nchange = 3, 4, 5
		return nil
	}
	bad := Table{Name: "bad"}
	t.Run("set", func(t *testing.T) {
		_, p := newRecorder(t, counts)
		got, err := p.SetAddrs(bad, array1(t, "::1"))
		if want := (Delta{3, 4, 5}); got != want || err != nil {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
		if got.Zero() || !(Delta{}).Zero() {
			t.Error("Zero is wrong")
		}
	})
	for name, call := range map[string]func(*PF) (int, error){
		"delete":        func(p *PF) (int, error) { return p.Delete(bad, addr("::1")) },
		"clear":         func(p *PF) (int, error) { return p.Clear(bad) },
		"delete tables": func(p *PF) (int, error) { return p.DelTables(bad) },
	} {
		t.Run(name, func(t *testing.T) {
			_, p := newRecorder(t, counts)
			if n, err := call(p); n != 4 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
	t.Run("nothing to do makes no request", func(t *testing.T) {
		d, p := newRecorder(t)
		for _, call := range []func() (int, error){
			func() (int, error) { return p.Add(bad) },
			func() (int, error) { return p.Delete(bad) },
			func() (int, error) { return p.AddTables(0) },
			func() (int, error) { return p.DelTables() },
			func() (int, error) { r, err := p.Test(bad); return len(r), err },
		} {
			if n, err := call(); n != 0 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		}
		if len(d.got) != 0 {
			t.Errorf("%d requests", len(d.got))
		}
	})
	t.Run("test", func(t *testing.T) {
		_, p := newRecorder(t, func(io *abi.PfiocTable, b []byte) error {
			copy(b, element(t, "10.1.2.3", abi.FeedbackMatch))
			copy(b[52:], element(t, "!10.1.0.0/16", abi.FeedbackNotMatch))
			clear(b[104:156])
			return nil
		})
		ips := []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.1.9.9"), netip.MustParseAddr("::1")}
		got, err := p.Test(bad, ips...)
		want := []TestResult{
			{ips[0], true, true, addr("10.1.2.3")},
			{ips[1], false, true, addr("!10.1.0.0/16")},
			{Addr: ips[2]},
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// Adding and deleting report what the table has with the other negation. The
// kernel answers an add in reverse order, and of each element only address,
// length and code can be believed.
func TestConflict(t *testing.T) {
	bad := Table{Name: "bad"}
	reversed := func(io *abi.PfiocTable, b []byte) error {
		copy(b, element(t, "2001:db8::/32", abi.FeedbackAdded))
		stale := element(t, "!10.0.0.0/8", abi.FeedbackConflict)
		copy(stale[4:16], "stale bytes!")
		copy(b[52:], stale)
		io.Nadd = 1
		return nil
	}
	_, p := newRecorder(t, limitOf(100), lists(), reversed)
	n, err := p.Add(bad, addrs("10.0.0.0/8", "2001:db8::/32")...)
	const want = "pf table bad: add 2 addresses: entry 10.0.0.0/8: in the table with the other negation"
	if n != 1 || !errors.Is(err, ErrConflict) || err.Error() != want {
		t.Errorf("%d, %v, want 1, %s", n, err, want)
	}

	_, p = newRecorder(t, func(io *abi.PfiocTable, b []byte) error {
		copy(b, element(t, "!10.0.0.0/8", abi.FeedbackConflict))
		copy(b[52:], element(t, "!::1", abi.FeedbackConflict))
		copy(b[104:], element(t, "::2", abi.FeedbackDeleted))
		io.Ndel = 1
		return nil
	})
	n, err = p.Delete(bad, addrs("!10.0.0.0/8", "!::1", "::2")...)
	const want2 = "pf table bad: delete 3 addresses: entry !10.0.0.0/8 and 1 others: in the table with the other negation"
	if n != 1 || !errors.Is(err, ErrConflict) || err.Error() != want2 {
		t.Errorf("%d, %v, want 1, %s", n, err, want2)
	}

	d, p := newRecorder(t)
	_, err = p.Add(bad, addrs("10.0.0.0/8", "!10.0.0.0/8")...)
	const want3 = "pf table bad: add addresses: entries 10.0.0.0/8 and !10.0.0.0/8: one prefix cannot be both"
	if err == nil || err.Error() != want3 || len(d.got) != 0 {
		t.Errorf("%v after %d requests, want %s", err, len(d.got), want3)
	}
}

// Add at the limit would never return, so it must not be sent.
func TestAddStaysBelowTheLimit(t *testing.T) {
	bad, other := Table{Name: "bad"}, Table{Name: "em0", Anchor: "_pf"}
	for _, tt := range []struct {
		name        string
		limit, a, b int
		send        bool
	}{
		{"one below", 100, 90, 7, true},
		{"comes to it", 100, 90, 8, false},
		{"beyond it", 100, 90, 80, false},
		{"beyond it already", 100, 900, 8, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tables := lists(stats(t, bad, TableActive, tt.a), stats(t, other, TableActive, tt.b))
			d, p := newRecorder(t, limitOf(int32(tt.limit)), tables, tables)
			_, err := p.Add(bad, addrs("192.0.2.1", "192.0.2.2")...)
			r := p.l.Req
			if got := d.got[len(d.got)-1].req == r.AddAddrs; got != tt.send {
				t.Errorf("sent: %v, want %v", got, tt.send)
			}
			if tt.send {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var e *Error
			if !errors.Is(err, ErrLimit) || !errors.As(err, &e) || e.Used != tt.a+tt.b || e.Limit != tt.limit || e.Count != 2 {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A list may grow between the answer that has its length and the next.
func TestListsThatGrow(t *testing.T) {
	bad := Table{Name: "bad"}
	var grown []answer
	all := []string{}
	for i := range 100 {
		all = append(all, fmt.Sprintf("10.0.%d.0/24", i))
	}
	several := func(n int) (out [][]byte) {
		for _, s := range all[:n] {
			out = append(out, element(t, s, 0))
		}
		return out
	}
	for _, n := range []int{3, 60, 40} {
		grown = append(grown, lists(several(n)...))
	}
	t.Run("get", func(t *testing.T) {
		d, p := newRecorder(t, grown...)
		got, err := p.Get(bad)
		if err != nil || len(d.got) != 3 || !slices.Equal(got, addrs(all[:40]...)) {
			t.Errorf("%v after %d requests: %v", err, len(d.got), got)
		}
	})
	t.Run("get of nothing", func(t *testing.T) {
		d, p := newRecorder(t, lists())
		got, err := p.Get(bad)
		if err != nil || len(got) != 0 || len(d.got) != 1 {
			t.Errorf("%v, %v", got, err)
		}
	})
	// What SETADDRS to nothing would delete comes backwards, if it fits.
	deleted := func(n int) answer {
		return func(io *abi.PfiocTable, b []byte) error {
			need := io.Size2 < int32(n)
			io.Size2 = int32(n)
			if need {
				return nil
			}
			for i, s := range all[:n] {
				copy(b[(n-1-i)*52:], element(t, s, abi.FeedbackDeleted))
			}
			io.Ndel = int32(n)
			return nil
		}
	}
	t.Run("get under pledge", func(t *testing.T) {
		d, p := newRecorder(t, deleted(30), deleted(100), deleted(60))
		p.Pledged()
		got, err := p.Get(bad)
		if err != nil || len(d.got) != 3 || !slices.Equal(got, addrs(all[:60]...)) {
			t.Errorf("%v after %d requests: %v", err, len(d.got), got)
		}
	})
	t.Run("get under pledge of another kernel's order", func(t *testing.T) {
		_, p := newRecorder(t, func(io *abi.PfiocTable, b []byte) error {
			for i, s := range []string{"::2", "10.0.0.0/8", "10.0.0.0/9", "::1", "9.0.0.0/8"} {
				copy(b[i*52:], element(t, s, abi.FeedbackDeleted))
			}
			io.Size2 = 5
			return nil
		})
		p.Pledged()
		got, err := p.Get(bad)
		if err != nil || !slices.Equal(got, addrs("9.0.0.0/8", "10.0.0.0/9", "10.0.0.0/8", "::1", "::2")) {
			t.Errorf("order %v, %v", got, err)
		}
	})
	for name, call := range map[string]func(*PF) error{
		"get":              func(p *PF) error { _, err := p.Get(bad); return err },
		"get under pledge": func(p *PF) error { p.Pledged(); _, err := p.Get(bad); return err },
		"address counters": func(p *PF) error { _, err := p.AddrStats(bad); return err },
		"tables":           func(p *PF) error { _, err := p.Tables(""); return err },
		"entries in use":   func(p *PF) error { _, _, err := p.Used(); return err },
	} {
		t.Run(name+" of what never stops growing", func(t *testing.T) {
			var script []answer
			for i := range 3 * attempts {
				script = append(script, func(io *abi.PfiocTable, _ []byte) error {
					io.Size, io.Size2 = int32(100+200*i), int32(100+200*i)
					return nil
				})
			}
			d, p := newRecorder(t, script...)
			if err := call(p); !errors.Is(err, errChanging) || len(d.got) != attempts {
				t.Errorf("%v after %d requests", err, len(d.got))
			}
		})
	}
}

func TestInterruptedRequestsAreRepeated(t *testing.T) {
	d, p := newRecorder(t, fails(syscall.EINTR), fails(syscall.EINTR), func(io *abi.PfiocTable, _ []byte) error { io.Ndel = 7; return nil })
	if n, err := p.Clear(Table{Name: "bad"}); n != 7 || err != nil || len(d.got) != 3 {
		t.Errorf("%d, %v after %d requests", n, err, len(d.got))
	}
}

func TestRefusedBeforeTheKernelSeesIt(t *testing.T) {
	bad := Table{Name: "bad"}
	long := strings.Repeat("x", 32)
	prefix := func(s string) Addr { return Addr{Prefix: netip.MustParsePrefix(s)} }
	set := func(t Table) func(p *PF) error {
		return func(p *PF) error { _, err := p.Set(t, 0, seq()); return err }
	}
	setOf := func(e Addr) func(p *PF) error {
		return func(p *PF) error { _, err := p.Set(bad, 0, seq(e)); return err }
	}
	for _, tt := range []struct {
		name string
		call func(p *PF) error
		want string
	}{
		{"bad: no name", set(Table{}), "pf: set addresses: a table needs a name"},
		{"bad: name of 32 bytes", set(Table{Name: long}), "pf table " + long + ": set addresses: name of 32 bytes, at most 31 are allowed"},
		{"bad: NUL in the name", set(Table{Name: "a\x00b"}), "pf table a\x00b: set addresses: NUL in the name"},
		{"bad: anchor of 1024 bytes", set(Table{strings.Repeat("a", 1024), "x"}), "pf table x in anchor " + strings.Repeat("a", 1024) + ": set addresses: anchor of 1024 bytes, at most 1023 are allowed"},
		{"bad: NUL in the anchor", set(Table{"a\x00", "x"}), "pf table x in anchor a\x00: set addresses: NUL in the anchor"},
		{"bad: the kernel's anchor", set(Table{"_pf", "x"}), "pf table x in anchor _pf: set addresses: anchor _pf is the kernel's own"},
		{"bad: the kernel's anchor with a slash", set(Table{"/_pf", "x"}), "pf table x in anchor /_pf: set addresses: anchor _pf is the kernel's own"},
		{"bad: host bits", setOf(prefix("10.0.0.1/8")), "pf table bad: set addresses: entry 10.0.0.1/8: host bits are set, the network is 10.0.0.0/8"},
		{"bad: host bits, negated", setOf(Addr{netip.MustParsePrefix("2001:db8::1/64"), true}), "pf table bad: set addresses: entry !2001:db8::1/64: host bits are set, the network is !2001:db8::/64"},
		{"bad: host bits of the upper half", setOf(prefix("2001:db8::/8")), "pf table bad: set addresses: entry 2001:db8::/8: host bits are set, the network is 2000::/8"},
		{"bad: host bits with length 0", setOf(prefix("0.0.0.1/0")), "pf table bad: set addresses: entry 0.0.0.1/0: host bits are set, the network is 0.0.0.0/0"},
		{"bad: zero prefix", setOf(Addr{}), "pf table bad: set addresses: entry invalid Prefix: not a prefix"},
		{"bad: prefix too long", setOf(Addr{Prefix: netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), 33)}), "pf table bad: set addresses: entry invalid Prefix: not a prefix"},
		{"bad: address with a zone", func(p *PF) error { _, err := p.Test(bad, netip.MustParseAddr("fe80::1%em0")); return err }, "pf table bad: test addresses: address fe80::1%em0: a table holds addresses without a zone"},
		{"bad: no address", func(p *PF) error { _, err := p.Test(bad, netip.Addr{}); return err }, "pf table bad: test addresses: address invalid IP: a table holds addresses without a zone"},
		{"bad: the kernel's flag", func(p *PF) error { _, err := p.AddTables(TableActive, bad); return err }, "pf: add 1 table: flags 0x4 are not for the user to set"},
		{"bad: table to add", func(p *PF) error { _, err := p.AddTables(0, bad, Table{}); return err }, "pf: add tables: a table needs a name"},
		{"bad: anchor to list", func(p *PF) error { _, err := p.Tables(strings.Repeat("a", 1024)); return err }, "pf: list tables: anchor of 1024 bytes, at most 1023 are allowed"},
		{"bad: limit", func(p *PF) error { _, err := p.Limit(7); return err }, "pf: read limit unknown: limit 7: there is none"},
		{"bad: limit below 0", func(p *PF) error { _, err := p.Limit(-1); return err }, "pf: read limit unknown: limit -1: there is none"},
		{"bad: closed array", func(p *PF) error {
			a := array1(t, "::1")
			a.Close()
			_, err := p.SetAddrs(bad, a)
			return err
		}, "pf table bad: set addresses: array is closed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, p := newRecorder(t)
			err := tt.call(p)
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v\nwant  %s", err, tt.want)
			}
			if len(d.got) != 0 {
				t.Errorf("%d requests made", len(d.got))
			}
		})
	}
	t.Run("OK: the kernel's tables can be read", func(t *testing.T) {
		d, p := newRecorder(t)
		if _, err := p.Get(Table{"_pf", "em0"}); err != nil || len(d.got) != 1 {
			t.Errorf("%v after %d requests", err, len(d.got))
		}
	})
	t.Run("OK: 31 bytes, spaces and slashes", func(t *testing.T) {
		d, p := newRecorder(t)
		if _, err := p.Clear(Table{"an anchor/of two", strings.Repeat("/ ", 15) + "x"}); err != nil || len(d.got) != 1 {
			t.Errorf("%v after %d requests", err, len(d.got))
		}
	})
}

func TestErrorsAndAdvice(t *testing.T) {
	block := Table{Name: "ThreatSTOP-Block"}
	inAnchor := Table{Anchor: "threatstop", Name: "bad"}
	many := func(t *testing.T, n int) *Addrs {
		a := array1(t)
		for i := range n {
			ip := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
			if err := a.Append(netip.PrefixFrom(ip, 32), false); err != nil {
				t.Fatal(err)
			}
		}
		return a
	}
	enomem := syscall.ENOMEM.Error()
	for _, tt := range []struct {
		name   string
		script []answer
		call   func(t *testing.T, p *PF) error
		err    error
		want   string
		advice string
	}{
		{
			name:   "table-entries limit",
			script: []answer{fails(syscall.ENOMEM), limitOf(200000), lists(stats(t, block, TableActive, 180000)), lists(stats(t, block, TableActive, 180000))},
			call: func(t *testing.T, p *PF) error {
				_, err := p.SetAddrs(block, many(t, 26424))
				return err
			},
			err:    syscall.ENOMEM,
			want:   "pf table ThreatSTOP-Block: set 26424 addresses: " + enomem + " (used 180000 + new 26424 > limit 200000)",
			advice: "put `set limit table-entries 520000` into /etc/pf.conf, above its table lines, where alone it works; loading pf.conf counts a table's old and new entries together",
		},
		{
			name:   "tables limit while setting",
			script: []answer{fails(syscall.ENOMEM), limitOf(200000), lists(stats(t, block, 0, 1)), lists(stats(t, block, 0, 1)), limitOf(1)},
			call:   func(t *testing.T, p *PF) error { _, err := p.SetAddrs(block, many(t, 1)); return err },
			err:    syscall.ENOMEM,
			want:   "pf table ThreatSTOP-Block: set 1 address: " + enomem + " (used 1 + new 1 > limit 1)",
			advice: "put `set limit tables 100` into /etc/pf.conf, above its table lines, where alone it works",
		},
		{
			name:   "out of memory",
			script: []answer{fails(syscall.ENOMEM), limitOf(200000), lists(), limitOf(10)},
			call:   func(t *testing.T, p *PF) error { _, err := p.SetAddrs(block, many(t, 2)); return err },
			err:    syscall.ENOMEM,
			want:   "pf table ThreatSTOP-Block: set 2 addresses: " + enomem + " (used 0 + new 2, limit 200000)",
			advice: "put `set limit table-entries 10000` into /etc/pf.conf, above its table lines, where alone it works; loading pf.conf counts a table's old and new entries together",
		},
		{
			name:   "out of memory, and no numbers to be had",
			script: []answer{fails(syscall.ENOMEM), fails(syscall.ENODEV)},
			call:   func(t *testing.T, p *PF) error { _, err := p.SetAddrs(block, many(t, 2)); return err },
			err:    syscall.ENOMEM,
			want:   "pf table ThreatSTOP-Block: set 2 addresses: " + enomem,
			advice: "the limit of table entries or of tables is reached, or the kernel is out of memory: see pfctl -sm",
		},
		{
			name:   "tables limit",
			script: []answer{fails(syscall.ENOMEM), limitOf(1000), lists(stats(t, block, 0, 1)), lists(stats(t, block, 0, 1))},
			call:   func(t *testing.T, p *PF) error { _, err := p.AddTables(0, block, inAnchor); return err },
			err:    syscall.ENOMEM,
			want:   "pf: add 2 tables: " + enomem + " (used 1 + new 2, limit 1000)",
			advice: "put `set limit tables 100` into /etc/pf.conf, above its table lines, where alone it works",
		},
		{
			name:   "add at the limit",
			script: []answer{limitOf(200000), lists(stats(t, block, 0, 199999)), lists(stats(t, block, 0, 199999))},
			call:   func(t *testing.T, p *PF) error { _, err := p.Add(block, addr("192.0.2.1")); return err },
			err:    ErrLimit,
			want:   "pf table ThreatSTOP-Block: add 1 address: would reach the limit, where the kernel waits without end (used 199999 + new 1, limit 200000)",
			advice: "put `set limit table-entries 500000` into /etc/pf.conf, above its table lines, where alone it works; loading pf.conf counts a table's old and new entries together",
		},
		{
			name:   "no such table",
			script: []answer{fails(syscall.ESRCH)},
			call:   func(t *testing.T, p *PF) error { _, err := p.Get(block); return err },
			err:    syscall.ESRCH,
			want:   "pf table ThreatSTOP-Block: get addresses: " + syscall.ESRCH.Error(),
			advice: "the table is not defined: add `table <ThreatSTOP-Block> persist` to /etc/pf.conf and load it with pfctl -f",
		},
		{
			name:   "no such table in an anchor",
			script: []answer{fails(syscall.ESRCH)},
			call:   func(t *testing.T, p *PF) error { p.Pledged(); _, err := p.Get(inAnchor); return err },
			err:    syscall.ESRCH,
			want:   "pf table bad in anchor threatstop: get addresses: " + syscall.ESRCH.Error(),
			advice: "the table is not defined in anchor threatstop: add `table <bad> persist` to what is loaded there",
		},
		{
			name:   "no such anchor",
			script: []answer{fails(syscall.ENOENT)},
			call:   func(t *testing.T, p *PF) error { _, err := p.Tables("x"); return err },
			err:    syscall.ENOENT,
			want:   "pf: list tables of anchor x: " + syscall.ENOENT.Error(),
			advice: "there is no such anchor: load the ruleset that uses it",
		},
		{
			name:   "table stays inactive",
			script: []answer{ok, lists(stats(t, block, TableReferenced, 0)), lists(stats(t, block, TableReferenced, 0))},
			call:   func(t *testing.T, p *PF) error { _, err := p.AddTables(0, block); return err },
			err:    errInactive,
			want:   "pf table ThreatSTOP-Block: add tables: table was not made active",
			advice: "OpenBSD 7.1 to 7.3 do not bring a table to life that only a rule mentions: add `table <ThreatSTOP-Block> persist` to /etc/pf.conf and load it with pfctl -f",
		},
		{
			name:   "anchor cannot be made",
			script: []answer{ok, lists()},
			call: func(t *testing.T, p *PF) error {
				_, err := p.AddTables(0, Table{Anchor: strings.Repeat("a", 64), Name: "x"})
				return err
			},
			err:    errNoAnchor,
			want:   "pf table x in anchor " + strings.Repeat("a", 64) + ": add tables: the anchor could not be made",
			advice: "a part of an anchor's path has at most 63 bytes; see also `set limit anchors` in pf.conf(5)",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, p := newRecorder(t, tt.script...)
			err := tt.call(t, p)
			var e *Error
			if !errors.As(err, &e) || !errors.Is(err, tt.err) {
				t.Fatalf("error %v", err)
			}
			if e.Error() != tt.want {
				t.Errorf("got  %s\nwant %s", e, tt.want)
			}
			if e.Advice() != tt.advice {
				t.Errorf("advice %s\nwant   %s", e.Advice(), tt.advice)
			}
		})
	}
	// Every errno that pf answers with has its advice, in one line.
	for _, errno := range []error{
		syscall.EPERM, syscall.ENOENT, syscall.ESRCH, syscall.ENXIO, syscall.EBADF, syscall.ENOMEM, syscall.EACCES,
		syscall.EFAULT, syscall.EBUSY, syscall.ENODEV, syscall.EINVAL, syscall.ENOTTY, syscall.ENAMETOOLONG,
		ErrLimit, ErrConflict, ErrPledged, ErrUnknownRelease, errInactive,
	} {
		e := &Error{Op: "x", Table: block, Err: fmt.Errorf("wrapped: %w", errno)}
		if s := e.Advice(); s == "" || strings.ContainsAny(s, "\n") {
			t.Errorf("advice for %v: %q", errno, s)
		}
	}
	if s := (&Error{Op: "x", Err: errors.New("else")}).Advice(); s != "" {
		t.Errorf("advice for what is not known: %q", s)
	}
}

// Under pledge a request that the promise "pf" does not allow ends the process,
// so it is not made.
func TestPledged(t *testing.T) {
	bad := Table{Name: "bad"}
	d, p := newRecorder(t, limitOf(1234))
	if n, err := p.Limit(LimitTableEntries); n != 1234 || err != nil {
		t.Fatal(n, err)
	}
	p.Pledged()
	d.got = nil
	for name, call := range map[string]func() error{
		"add":              func() error { p := pfOn(d, p.l); p.Pledged(); _, err := p.Add(bad, addr("::1")); return err },
		"delete":           func() error { _, err := p.Delete(bad, addr("::1")); return err },
		"test":             func() error { _, err := p.Test(bad, netip.MustParseAddr("::1")); return err },
		"address counters": func() error { _, err := p.AddrStats(bad); return err },
		"delete tables":    func() error { _, err := p.DelTables(bad); return err },
		"rules":            func() error { _, err := p.Rules(); return err },
		"states":           func() error { return p.EachState(nil) },
		"kill a state":     func() error { _, err := p.KillState(1, 1); return err },
		"another limit":    func() error { _, err := p.Limit(LimitTables); return err },
	} {
		if err := call(); !errors.Is(err, ErrPledged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(d.got) != 0 {
		t.Fatalf("%d requests were made", len(d.got))
	}
	if n, err := p.Limit(LimitTableEntries); n != 1234 || err != nil {
		t.Errorf("limit read before: %d, %v", n, err)
	}
	// The limit in an error is the one read before, too.
	d.script = []answer{fails(syscall.ENOMEM), lists(stats(t, bad, 0, 1234)), lists(stats(t, bad, 0, 1234))}
	_, err := p.SetAddrs(bad, array1(t, "::1"))
	if want := "pf table bad: set 1 address: " + syscall.ENOMEM.Error() + " (used 1234 + new 1 > limit 1234)"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	for name, call := range map[string]func() error{
		"set":    func() error { _, err := p.Set(bad, 0, seq(addr("::1"))); return err },
		"clear":  func() error { _, err := p.Clear(bad); return err },
		"tables": func() error { _, err := p.Tables(""); return err },
		"used":   func() error { _, _, err := p.Used(); return err },
		"get":    func() error { _, err := p.Get(bad); return err },
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTableStats(t *testing.T) {
	v := newVector(t, "pfr_tstats").put("pfrts_t.pfrt_anchor", "a/b").put("pfrts_t.pfrt_name", "bad").
		put("pfrts_t.pfrt_flags", 0x55).put("pfrts_cnt", 7).put("pfrts_match", uint64(1<<40)).put("pfrts_nomatch", 3).put("pfrts_tzero", 1795338114)
	for i := range 8 {
		v.order.PutUint64(v.b[v.st.Fields["pfrts_packets"][0]+8*i:], uint64(100+i))
		v.order.PutUint64(v.b[v.st.Fields["pfrts_bytes"][0]+8*i:], uint64(200+i))
	}
	v.order.PutUint32(v.b[v.st.Fields["pfrts_refcnt"][0]:], 11)
	v.order.PutUint32(v.b[v.st.Fields["pfrts_refcnt"][0]+4:], 12)
	_, p := newRecorder(t, lists(v.b), lists(v.b))
	got, err := p.Tables("a/b")
	want := []TableStats{{
		Table: Table{"a/b", "bad"}, Flags: TablePersist | TableActive | TableReferenced | TableCounters,
		Addresses: 7, Rules: 11, Anchors: 12, Match: 1 << 40, NoMatch: 3, Cleared: time.Unix(1795338114, 0),
		Packets: [2][4]uint64{{100, 101, 102, 103}, {104, 105, 106, 107}},
		Bytes:   [2][4]uint64{{200, 201, 202, 203}, {204, 205, 206, 207}},
	}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, want (-), got (+):\n%s", err, diff)
	}
	if !got[0].Active() || (TableStats{Flags: TableReferenced}).Active() {
		t.Error("Active is wrong")
	}
}

func TestAddrStats(t *testing.T) {
	v := newVector(t, "pfr_astats").put("pfras_tzero", 1795338114)
	copy(v.b, element(t, "!198.51.100.7", abi.FeedbackNone))
	for i := range 6 {
		v.order.PutUint64(v.b[v.st.Fields["pfras_packets"][0]+8*i:], uint64(100+i))
		v.order.PutUint64(v.b[v.st.Fields["pfras_bytes"][0]+8*i:], uint64(1)<<40+uint64(i))
	}
	none := slices.Clone(v.b)
	copy(none, element(t, "2001:db8:9::2", abi.FeedbackNoCount))
	_, p := newRecorder(t, lists(v.b, none), lists(v.b, none))
	l, err := p.AddrStats(Table{Name: "counted"})
	if err != nil {
		t.Fatal(err)
	}
	s := l.slice()
	since := time.Unix(1795338114, 0)
	const b = 1 << 40
	want := []AddrStats{
		{Addr: addr("!198.51.100.7"), Counted: true, Cleared: since,
			Packets: [2][3]uint64{{100, 101, 102}, {103, 104, 105}},
			Bytes:   [2][3]uint64{{b, b + 1, b + 2}, {b + 3, b + 4, b + 5}}},
		{Addr: addr("2001:db8:9::2"), Cleared: since},
	}
	if !slices.Equal(s, want) {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
}

// statusDevice answers DIOCGETSTATUS.
type statusDevice struct {
	req uint
	b   []byte
}

func (d statusDevice) Close() error { return nil }

func (d statusDevice) Ioctl(req uint, arg unsafe.Pointer) error {
	if req != d.req {
		return syscall.ENODEV
	}
	copy(unsafe.Slice((*byte)(arg), len(d.b)), d.b)
	return nil
}

func TestStatus(t *testing.T) {
	for _, release := range measured.Releases {
		t.Run(release, func(t *testing.T) {
			l := hostLayout(release)
			at := measured.Read().Of(release, runtimeArch)
			v := &vector{t: t, st: at.Structs["pf_status"], order: l.Order()}
			v.b = make([]byte, v.st.Size)
			v.put("running", 1).put("since", 20).put("states", 5).put("debug", 3).
				put("hostid", []byte{1, 2, 3, 4}).put("pf_chksum", "0123456789abcdef")
			d := statusDevice{at.Number("DIOCGETSTATUS"), v.b}
			got, err := pfOn(d, l).Status()
			want := Status{Running: true, Since: 20 * time.Second, States: 5, Checksum: [16]byte([]byte("0123456789abcdef"))}
			if err != nil || got != want {
				t.Errorf("%+v, %v\nwant %+v", got, err, want)
			}
			v.put("running", 0)
			if got, err := pfOn(d, l).Status(); err != nil || got.Running {
				t.Errorf("stopped: %+v, %v", got, err)
			}
		})
	}
	t.Run("unknown release", func(t *testing.T) {
		_, err := pfOn(statusDevice{}, hostLayout("8.1")).Status()
		if !errors.Is(err, ErrUnknownRelease) || err.Error() != "pf: read status: openbsd 8.1: the structs of this release are not known" {
			t.Errorf("error %v", err)
		}
	})
}

func TestAddrStrings(t *testing.T) {
	for _, s := range []string{
		"10.1.2.3", "10.0.0.0/8", "!10.1.0.0/16", "0.0.0.0/0", "!0.0.0.0", "::1", "::/0", "!2001:db8:1::/48", "2001:db8:1::5", "::ffff:1.2.3.4",
	} {
		if got := addr(s).String(); got != s {
			t.Errorf("%s for %s", got, s)
		}
	}
	if got := (Table{"a/b", "x"}).String() + ", " + (Table{"", "x"}).String(); got != "x in anchor a/b, x" {
		t.Error(got)
	}
}

// seq is what Set takes.
func seq(all ...Addr) iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		for _, e := range all {
			if !yield(e.Prefix, e.Not) {
				return
			}
		}
	}
}

func TestAddrs(t *testing.T) {
	all := addrs("10.0.0.0/8", "!10.1.0.0/16", "0.0.0.0/0", "255.255.255.255", "::/0", "2001:db8::/63", "!2001:db8::/64", "2001:db8::/65", "::1", "::ffff:1.2.3.4")
	a, err := NewAddrs(0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5000 { // several times over what it has room for
		if err := a.Append(all[i%len(all)].Prefix, all[i%len(all)].Not); err != nil {
			t.Fatal(err)
		}
		if err := a.Append(netip.MustParsePrefix("10.0.0.1/31"), false); err == nil {
			t.Fatal("host bits accepted")
		}
	}
	if a.Len() != 5000 {
		t.Fatalf("%d entries", a.Len())
	}
	for i := range a.Len() {
		if e := decodeAddr(a.slot(i)); e != all[i%len(all)] {
			t.Fatalf("entry %d is %v, want %v", i, e, all[i%len(all)])
		}
	}
	// What was there must not show through.
	if err := a.Fill(seq(addr("1.2.3.4"))); err != nil {
		t.Fatal(err)
	}
	if got := *a.slot(0); got != (abi.PfrAddr{Addr: [16]byte{1, 2, 3, 4}, AF: 2, Net: 32}) {
		t.Errorf("element %+v", got)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if err := a.Append(addr("::1").Prefix, false); err == nil || a.Len() != 0 {
		t.Errorf("closed array takes an entry: %v", err)
	}
	for _, n := range []int{-1, 1<<31 - 1} {
		if n > 0 && abi.HostPointer == 8 {
			continue // it may well be there
		}
		if _, err := NewAddrs(n); err == nil {
			t.Errorf("array of %d entries", n)
		}
	}
}

// What is appended is what a kernel reads, and only what it accepts.
func FuzzAddr(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0}, 8, false)
	f.Add([]byte{10, 0, 0, 1}, 31, true)
	f.Add(netip.MustParseAddr("2001:db8::").AsSlice(), 64, true)
	f.Add(netip.MustParseAddr("::ffff:1.2.3.4").AsSlice(), 127, true)
	f.Add([]byte{}, 0, false)
	f.Fuzz(func(t *testing.T, ip []byte, n int, not bool) {
		addr, _ := netip.AddrFromSlice(ip)
		e := Addr{netip.PrefixFrom(addr, n), not}
		a, err := NewAddrs(1)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		valid := e.Prefix.IsValid() && e.Prefix.Masked() == e.Prefix
		if err := a.Append(e.Prefix, e.Not); (err == nil) != valid {
			t.Fatalf("%v: %v", e, err)
		}
		if !valid {
			return
		}
		// pf_table.c: pfr_validate_addr, in its own words
		p := a.slot(0)
		if decodeAddr(p) != e {
			t.Fatalf("%v became %v", e, decodeAddr(p))
		}
		if p.AF != 2 && p.AF != 24 || p.AF == 2 && p.Net > 32 || p.Net > 128 || p.Not > 1 || p.Fback != 0 || p.Type > 2 {
			t.Fatalf("%+v would be refused", *p)
		}
		for bit := int(p.Net); bit < 128; bit++ {
			if p.Addr[bit/8]&(0x80>>(bit%8)) != 0 {
				t.Fatalf("%+v has a bit behind its prefix", *p)
			}
		}
	})
}
