package dnsfetch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// made is a list of n4 and n6 entries, one in seven of them negated.
func made(n4, n6 int) *List {
	rnd := rand.New(rand.NewPCG(1, 2))
	c := &columns{}
	for i := range n4 {
		bits := uint8(32 - i%25)
		c.addV4(rnd.Uint32()&(^uint32(0)<<(32-bits)), bits, i%7 == 0)
	}
	for i := range n6 {
		var a [16]byte
		binary.BigEndian.PutUint64(a[:], rnd.Uint64())
		binary.BigEndian.PutUint64(a[8:], rnd.Uint64())
		p := netip.PrefixFrom(netip.AddrFrom16(a), 128-i%129).Masked()
		e := v6packed(append(p.Addr().AsSlice(), byte(p.Bits()), 0))
		if i%7 == 0 {
			e[17] = 1
		}
		c.addV6(e)
	}
	l := &List{Name: "basic.example.net", Server: "dns.example.net[192.0.2.1]:53", Layout: LayoutParts, Parts: 12, Restarts: 1, Bytes: 98765, Elapsed: 123456789,
		Failed: []*Error{{List: "basic.example.net", Server: "192.0.2.9:53", Err: fmt.Errorf("%w: %w", ErrConnect, syscall.ECONNREFUSED)}}}
	l.take(c)
	return l
}

// message is a part of a list as it is sent.
type message struct {
	part Part
	b    []byte
}

func sent(t testing.TB, l *List, size int) []message {
	t.Helper()
	var all []message
	if err := l.Send(size, func(p Part, b []byte) error {
		all = append(all, message{p, bytes.Clone(b)})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// load makes a list of messages.
func load(all []message, most int) (l *List, err error) {
	var in *Loader
	for _, m := range all {
		switch {
		case m.part == PartHeader:
			if in, err = NewLoader(m.b, most); err != nil {
				return nil, err
			}
		case m.part == PartChunk:
			// The rest is to say the same.
			if err = in.Add(m.b); err != nil {
				continue
			}
		default:
			return in.List(m.b)
		}
	}
	return nil, err
}

func TestListCrosses(t *testing.T) {
	for _, c := range []struct{ n4, n6, size, chunks int }{
		{0, 0, 0, 0},
		{1, 0, 0, 1},
		{0, 1, 0, 1},
		{3, 2, 1, 5}, // one entry of IPv6 fits, and two of IPv4 do
		{1000, 1000, 100, 0},
		{100_000, 50_000, 0, 4 + 4},
		{100_000, 0, 4096, 0},
	} {
		t.Run(fmt.Sprintf("%d and %d by %d", c.n4, c.n6, c.size), func(t *testing.T) {
			want := made(c.n4, c.n6)
			all := sent(t, want, c.size)
			if all[0].part != PartHeader || all[len(all)-1].part != PartCommit {
				t.Fatalf("parts %v … %v", all[0].part, all[len(all)-1].part)
			}
			for _, m := range all {
				if m.part == PartChunk && len(m.b) > max(c.size, 1+wireV6) && c.size > 0 || len(m.b) > MaxMessage {
					t.Errorf("a message of %d bytes", len(m.b))
				}
			}
			got, err := load(all, c.n4+c.n6+1)
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, want)
		})
	}
}

// same fails the test unless a and b say the same.
func same(t testing.TB, got, want *List) {
	t.Helper()
	if !slices.Equal(slices.Collect(got.All()), slices.Collect(want.All())) || got.Len() != want.Len() {
		t.Fatal("other entries came out")
	}
	g, w := *got, *want
	g.v4, g.v6, w.v4, w.v6 = nil, nil, nil, nil
	g.Failed, w.Failed = nil, nil
	if !reflect.DeepEqual(g, w) {
		t.Errorf("came out as %+v, was %+v", g, w)
	}
	if len(got.Failed) != len(want.Failed) {
		t.Fatalf("%d servers failed, were %d", len(got.Failed), len(want.Failed))
	}
	for i, e := range got.Failed {
		if e.Error() != want.Failed[i].Error() {
			t.Errorf("failed: %v, was %v", e, want.Failed[i])
		}
	}
}

func TestSendStops(t *testing.T) {
	stop := errors.New("stop")
	for _, at := range []int{1, 2, 3, 4} {
		n := 0
		err := made(3, 2).Send(40, func(Part, []byte) error {
			if n++; n == at {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) || n != at {
			t.Errorf("message %d: %v after %d", at, err, n)
		}
	}
}

// Of a header, chunks and a commit that are not as they should be none makes a list.
func TestLoaderRefuses(t *testing.T) {
	v4 := func(addr string, bits uint8, low byte) []byte {
		a := netip.MustParseAddr(addr).As4()
		p := packV4(binary.BigEndian.Uint32(a[:]), bits, false) | uint64(low)
		return binary.BigEndian.AppendUint64([]byte{4}, p)
	}
	v6 := func(addr string, bits, not byte) []byte {
		return append(append([]byte{6}, netip.MustParseAddr(addr).AsSlice()...), bits, not)
	}
	chunk := func(b []byte) func(*[]message) {
		return func(all *[]message) {
			*all = slices.Insert(*all, 1, message{PartChunk, b})
			h := (*all)[0].b
			n4, n6 := uint32(3), uint32(2)
			if b[0] == 4 {
				n4++
			} else {
				n6++
			}
			binary.BigEndian.PutUint32(h[22:], n4)
			binary.BigEndian.PutUint32(h[26:], n6)
		}
	}
	header := func(f func(h []byte) []byte) func(*[]message) {
		return func(all *[]message) { (*all)[0].b = f((*all)[0].b) }
	}
	put := func(at int, b ...byte) func(*[]message) {
		return header(func(h []byte) []byte { copy(h[at:], b); return h })
	}
	const lenHeader = 30
	ff := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for name, c := range map[string]struct {
		spoil func(*[]message)
		want  string
	}{
		"IPv4 host bits":          {chunk(v4("10.0.0.1", 8, 0)), "is not an IPv4 network"},
		"IPv4 0.0.0.1/0":          {chunk(v4("0.0.0.1", 0, 0)), "is not an IPv4 network"},
		"IPv4 prefix length 33":   {chunk(v4("10.0.0.1", 33, 0)), "is not an IPv4 network"},
		"IPv4 reserved bits":      {chunk(v4("10.0.0.1", 32, 0x80)), "is not an IPv4 network"},
		"IPv4 odd bytes":          {chunk(v4("10.0.0.1", 32, 0)[:8]), "chunk of family 4 with 8 bytes"},
		"IPv6 host bits low":      {chunk(v6("2001:db8::1", 127, 0)), "is not an IPv6 network"},
		"IPv6 host bits high":     {chunk(v6("2001:db8:1::", 32, 0)), "is not an IPv6 network"},
		"IPv6 host bits at 0":     {chunk(v6("8000::", 0, 0)), "is not an IPv6 network"},
		"IPv6 host bits at 64":    {chunk(v6("::8000:0:0:0", 64, 0)), "is not an IPv6 network"},
		"IPv6 prefix length 129":  {chunk(v6("2001:db8::", 129, 0)), "is not an IPv6 network"},
		"IPv6 prefix length 255":  {chunk(v6("::", 255, 0)), "is not an IPv6 network"},
		"IPv6 neither yes nor no": {chunk(v6("2001:db8::", 32, 2)), "is not an IPv6 network"},
		"IPv6 odd bytes":          {chunk(v6("2001:db8::", 32, 0)[:18]), "chunk of family 6 with 18 bytes"},
		"family 5":                {chunk([]byte{5, 1, 2, 3, 4}), "chunk of family 5"},
		"chunk without a family":  {func(all *[]message) { (*all)[1].b = nil }, "chunk without entries"},
		"chunk without entries":   {func(all *[]message) { (*all)[1].b = []byte{4} }, "chunk without entries"},
		"families the other way": {func(all *[]message) { (*all)[1], (*all)[2] = (*all)[2], (*all)[1] },
			"IPv4 entries come after IPv6 entries"},
		"chunk twice":       {func(all *[]message) { *all = slices.Insert(*all, 1, (*all)[1]) }, "more than the 3 IPv4 entries announced"},
		"IPv6 chunk twice":  {func(all *[]message) { *all = slices.Insert(*all, 2, (*all)[2]) }, "more than the 2 IPv6 entries announced"},
		"chunk missing":     {func(all *[]message) { *all = slices.Delete(*all, 2, 3) }, "3 and 0 entries came, announced were 3 and 2"},
		"chunk too long":    {func(all *[]message) { (*all)[1].b = append([]byte{4}, make([]byte, MaxMessage)...) }, "chunk of 262145 bytes"},
		"other checksum":    {func(all *[]message) { (*all)[3].b[11]++ }, "count or checksum is another"},
		"other count":       {func(all *[]message) { (*all)[3].b[3]++ }, "count or checksum is another"},
		"commit cut off":    {func(all *[]message) { (*all)[3].b = (*all)[3].b[:8] }, "count or checksum is another"},
		"layout 0":          {put(0, 0), "layout 0"},
		"layout 4":          {put(0, 4), "layout 4"},
		"begun again often": {put(1, maxRestarts+1), "begun again 4 times"},
		"no parts":          {put(2, 0, 0, 0, 0), "0 parts"},
		"many parts":        {put(2, ff[:4]...), "4294967295 parts"},
		"many bytes":        {put(6, ff...), "18446744073709551615 bytes"},
		"years":             {put(14, ff...), "it took"},
		"many entries":      {put(22, ff[:4]...), "too many entries"},
		"many more":         {put(22, ff...), "too many entries"},
		"one too many":      {put(22, 0, 0, 0, 9), "too many entries: 11 announced, limit 10"},
		"header cut off":    {header(func(h []byte) []byte { return h[:20] }), "cut off"},
		"empty header":      {header(func([]byte) []byte { return nil }), "cut off"},
		"more behind it":    {header(func(h []byte) []byte { return append(h, 0) }), "1 bytes left over"},
		"name is too long":  {put(lenHeader, 0x04, 0x01), "text of 1025 characters"},
		"name is longer":    {put(lenHeader, 0x03, 0xff), "cut off"},
		"no name":           {header(func(h []byte) []byte { return append(slices.Clone(h[:lenHeader]), 0, 0, 0, 1, 'x', 0) }), "no name or no server"},
		"no server":         {header(func(h []byte) []byte { return append(slices.Clone(h[:lenHeader]), 0, 1, 'x', 0, 0, 0) }), "no name or no server"},
		"line break":        {put(lenHeader+2, '\n'), "unprintable character 0xa"},
		"not ASCII":         {put(lenHeader+2, 0xc3, 0xa4), "unprintable character 0xc3"},
		"many failed":       {header(func(h []byte) []byte { return append(slices.Clone(h[:lenHeader]), 0, 1, 'x', 0, 1, 'y', 129) }), "129 servers that failed"},
	} {
		t.Run(name, func(t *testing.T) {
			all := sent(t, made(3, 2), 0)
			if len(all) != 4 {
				t.Fatalf("%d messages", len(all))
			}
			c.spoil(&all)
			l, err := load(all, 10)
			if l != nil || !errors.Is(err, ErrWire) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("list %v, error %v, want %q", l, err, c.want)
			}
		})
	}
}

func TestLoaderGivesOneList(t *testing.T) {
	all := sent(t, made(3, 0), 0)
	in, err := NewLoader(all[0].b, 3)
	if err != nil {
		t.Fatal(err)
	}
	if in.Name() != "basic.example.net" || in.Server() != "dns.example.net[192.0.2.1]:53" {
		t.Errorf("list %s of server %s", in.Name(), in.Server())
	}
	if err := in.Add(all[1].b); err != nil {
		t.Fatal(err)
	}
	l, err := in.List(all[2].b)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := in.List(all[2].b); again != nil || err == nil {
		t.Error("the list was given twice")
	}
	if err := in.Add(all[1].b); err == nil {
		t.Error("a chunk was taken after the list")
	}
	same(t, l, made(3, 0))
}

// What is announced costs nothing, and small chunks cost little more than large ones.
func TestLoaderMemory(t *testing.T) {
	all := sent(t, made(3_000_000, 0), 0)
	header := all[0].b
	if n := testing.AllocsPerRun(10, func() {
		if _, err := NewLoader(header, 3_000_000); err != nil {
			t.Fatal(err)
		}
	}); n > 20 {
		t.Errorf("a header costs %v allocations", n)
	}
	small := sent(t, made(100_000, 0), 1)
	in, err := NewLoader(small[0].b, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range small[1 : len(small)-1] {
		if err := in.Add(m.b); err != nil {
			t.Fatal(err)
		}
	}
	room := cap(in.cols.v4.last)
	for _, c := range in.cols.v4.full {
		room += cap(c)
	}
	if room > 100_000+chunkLen {
		t.Errorf("memory for %d entries where 100000 came", room)
	}
}

func crossed(t testing.TB, e *Error) *Error {
	t.Helper()
	b, err := e.AppendBinary([]byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	b = b[len("before"):]
	if len(b) > MaxMessage {
		t.Errorf("an error of %d bytes", len(b))
	}
	got, err := ParseError(b)
	if err != nil {
		t.Fatalf("%v: %v", e, err)
	}
	return got
}

// Every error variable of this package is found at the other end, however it is wrapped.
func TestErrorsCross(t *testing.T) {
	declared, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("no source here")
	} else if err != nil {
		t.Fatal(err)
	}
	n := 0
	ast.Inspect(declared, func(node ast.Node) bool {
		if v, ok := node.(*ast.ValueSpec); ok && strings.HasPrefix(v.Names[0].Name, "Err") {
			n++
		}
		return true
	})
	if n+3 != len(named) { // ErrWire and those of context
		t.Errorf("errors.go has %d errors, of which %d stay what they are", n, len(named)-3)
	}
	if len(named) > 256 {
		t.Fatal("the number of an error does not fit into a byte")
	}
	is := slices.Clone(named)
	for _, a := range advice {
		is = append(is, a.is)
	}
	is = append(is, syscall.ECONNREFUSED, syscall.ENETUNREACH)
	for _, want := range is {
		for _, e := range []*Error{
			{List: "l", Server: "s", Err: want},
			{List: "l", Part: "p", Server: "s", Err: fmt.Errorf("%w: more of it", want)},
			{List: "l", Err: fmt.Errorf("a: %w", fmt.Errorf("b: %w", &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", want)}))},
			{List: "l", Err: fmt.Errorf("%w: %w", ErrConnect, want)},
			{List: "l", Err: allFailed{{List: "l", Server: "s", Err: ErrOwner}, {List: "l", Server: "t", Err: fmt.Errorf("x: %w", want)}}},
			{List: "l", Err: errors.Join(io.EOF, fmt.Errorf("in: %w", &Error{List: "m", Err: want}))},
		} {
			got := crossed(t, e)
			if !errors.Is(got, want) {
				t.Errorf("%v is not %v any more", e, want)
			}
			if text := strings.ReplaceAll(e.Error(), "\n", `\n`); got.Error() != text {
				t.Errorf("said %q, now %q", text, got)
			}
			if twice := crossed(t, got); twice.Error() != got.Error() || !errors.Is(twice, want) {
				t.Errorf("came out as %v the second time", twice)
			}
			for _, other := range is {
				if errors.Is(e, other) != errors.Is(got, other) {
					t.Errorf("%v: is %v: %v", e, other, errors.Is(got, other))
				}
			}
		}
	}
}

// What goes through text only is printable, and there is an end of it.
func TestErrorTextIsBounded(t *testing.T) {
	e := crossed(t, &Error{List: "a\nb\x1b[31m", Part: "ä\u202e", Server: strings.Repeat("s", 5000), Err: errors.New("x\r\n\xff\x00y")})
	if e.List != `a\nb\x1b[31m` || e.Part != `\u00e4\u202e` || len(e.Server) != maxText || e.Err.Error() != `x\r\n\xff\x00y` {
		t.Errorf("%q", e)
	}
	var many allFailed
	for i := range 10_000 {
		many = append(many, &Error{List: "l", Server: fmt.Sprint(i), Err: fmt.Errorf("%w: %w: %s", ErrConnect, syscall.EACCES, strings.Repeat("x", 2000))})
	}
	e = crossed(t, &Error{List: "l", Err: many})
	if all, ok := e.Err.(allFailed); !ok || len(all) < 50 || !errors.Is(e, syscall.EACCES) {
		t.Errorf("%T", e.Err)
	}
	deep := error(ErrCut)
	for range 1000 {
		deep = &Error{List: "l", Err: fmt.Errorf("deep: %w", deep)}
	}
	if e = crossed(t, deep.(*Error)); !strings.HasPrefix(e.Error(), "list l: deep: list l: deep") {
		t.Error(e)
	}
	wide := make([]error, 1000)
	for i := range wide {
		wide[i] = errors.Join(ErrCut, ErrClass)
	}
	if e = crossed(t, &Error{List: "l", Err: errors.Join(wide...)}); !errors.Is(e, ErrClass) {
		t.Error(e)
	}
	if e = crossed(t, &Error{List: "l"}); e.Err == nil {
		t.Error("an error without a reason")
	}
	if e = crossed(t, &Error{List: "l", Err: context.DeadlineExceeded}); e.Err != context.DeadlineExceeded {
		t.Errorf("%#v", e.Err)
	}
}

func TestParseErrorRefuses(t *testing.T) {
	text := func(s string) []byte { return append([]byte{0, byte(len(s))}, s...) }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	head := join([]byte{nodeError}, text("l"), text(""), text("s"))
	nested := bytes.Repeat(head, maxDepth+1)
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"nothing":            {nil, "cut off"},
		"no reason":          {head, "cut off"},
		"not an error":       {[]byte{nodeNamed, 1}, "error of kind 78"},
		"unknown kind":       {join(head, []byte{'Z'}), "unknown kind 90"},
		"unknown error":      {join(head, []byte{nodeNamed, byte(len(named))}), "is not known"},
		"errno 0":            {join(head, []byte{nodeErrno, 0, 0}), "errno 0"},
		"errno 40000":        {join(head, []byte{nodeErrno, 0x9c, 0x40}), "errno 40000"},
		"errno cut off":      {join(head, []byte{nodeErrno, 1}), "cut off"},
		"line break":         {join(head, []byte{nodeText}, text("a\nb"), []byte{0}), "unprintable"},
		"long text":          {join(head, []byte{nodeText, 0xff, 0xff}, make([]byte, 70_000)), "text of 65535 characters"},
		"text in text":       {join(head, []byte{nodeText}, text("a"), []byte{1, nodeText}, text("b"), []byte{0}), "unknown kind 84"},
		"many matches":       {join(head, []byte{nodeText}, text("a"), []byte{17}), "17 others"},
		"many servers":       {join(head, []byte{nodeAll, 129}), "129 servers"},
		"server not one":     {join(head, []byte{nodeAll, 1, nodeNamed, 1}), "error of kind 78"},
		"too deep":           {join(nested, []byte{nodeNamed, 1}), "errors within errors"},
		"more behind it":     {join(head, []byte{nodeNamed, 1, 0}), "1 bytes left over"},
		"more than a packet": {make([]byte, MaxMessage+1), "error of 262145 bytes"},
	} {
		if e, err := ParseError(c.b); e != nil || !errors.Is(err, ErrWire) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, error %v, want %q", name, e, err, c.want)
		}
	}
}

// FuzzLoader: what is taken is a list that [Client.Fetch] could have given, and is the same when
// it is sent again.
func FuzzLoader(f *testing.F) {
	pack := func(all []message) []byte {
		var b []byte
		for _, m := range all {
			b = binary.BigEndian.AppendUint16(b, uint16(len(m.b)))
			b = append(b, m.b...)
		}
		return b
	}
	for _, l := range []*List{made(0, 0), made(3, 2), made(20, 0), made(0, 5)} {
		f.Add(pack(sent(f, l, 0)))
		f.Add(pack(sent(f, l, 40)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const most = 64
		var all [][]byte
		for len(b) >= 2 {
			n := min(int(binary.BigEndian.Uint16(b)), len(b)-2)
			all, b = append(all, b[2:2+n]), b[2+n:]
		}
		if len(all) < 2 {
			return
		}
		in, err := NewLoader(all[0], most)
		if err != nil {
			return
		}
		var columns []byte
		for _, c := range all[1 : len(all)-1] {
			if in.Add(c) == nil {
				columns = append(columns, c[1:]...)
			}
		}
		l, err := in.List(all[len(all)-1])
		if err != nil {
			return
		}
		if l.Len() > most {
			t.Fatalf("%d entries", l.Len())
		}
		n := 0
		for e := range l.All() {
			if n++; !e.Prefix.IsValid() || e.Prefix != e.Prefix.Masked() {
				t.Fatalf("entry %v", e)
			}
		}
		if n != l.Len() {
			t.Fatalf("%d entries of %d", n, l.Len())
		}
		var again []byte
		for _, m := range sent(t, l, 0) {
			switch m.part {
			case PartHeader:
				if !bytes.Equal(m.b, all[0]) {
					t.Fatalf("header %x, was %x", m.b, all[0])
				}
			case PartChunk:
				again = append(again, m.b[1:]...)
			case PartCommit:
				if !bytes.Equal(m.b, all[len(all)-1]) {
					t.Fatalf("commit %x, was %x", m.b, all[len(all)-1])
				}
			}
		}
		if !bytes.Equal(again, columns) {
			t.Fatalf("entries %x, were %x", again, columns)
		}
	})
}

// FuzzParseError: what is taken is printable, of an end, and the same when it is sent again.
func FuzzParseError(f *testing.F) {
	for _, e := range []*Error{
		{List: "l", Err: ErrCut},
		{List: "l", Part: "p", Server: "s", Err: fmt.Errorf("%w: %w: more", ErrConnect, syscall.EACCES)},
		{List: "l", Err: allFailed{{List: "l", Server: "s", Err: ErrRefused}, {List: "l", Server: "t", Err: fmt.Errorf("x: %w", context.Canceled)}}},
		{List: "l", Err: fmt.Errorf("y: %w", &Error{List: "m", Err: syscall.EACCES})},
	} {
		b, _ := e.AppendBinary(nil)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseError(b)
		if err != nil {
			if !errors.Is(err, ErrWire) {
				t.Fatal(err)
			}
			return
		}
		text := e.Error()
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) && !slices.ContainsFunc(errnos(e), func(n syscall.Errno) bool { return strings.Contains(text, n.Error()) }) {
			t.Fatalf("%q", text)
		}
		again, _ := e.AppendBinary(nil)
		if !bytes.Equal(again, b) {
			t.Fatalf("%x, was %x", again, b)
		}
	})
}

// errnos are those within an error.
func errnos(err error) []syscall.Errno {
	var all []syscall.Errno
	switch err := err.(type) {
	case syscall.Errno:
		all = append(all, err)
	case interface{ Unwrap() error }:
		all = errnos(err.Unwrap())
	case interface{ Unwrap() []error }:
		for _, one := range err.Unwrap() {
			all = append(all, errnos(one)...)
		}
	}
	return all
}

// BenchmarkTransfer sends lists through a socket pair, frames them as little as possible, and
// loads them at the other end.
func BenchmarkTransfer(b *testing.B) {
	for _, c := range []struct{ n4, n6 int }{{26_424, 0}, {120_430, 0}, {1_000_000, 0}, {0, 1_000_000}} {
		b.Run(fmt.Sprintf("v4=%d,v6=%d", c.n4, c.n6), func(b *testing.B) {
			near, far := pair(b)
			l := made(c.n4, c.n6)
			next := make(chan struct{})
			defer close(next)
			go func() {
				var head [5]byte
				for range next {
					if err := l.Send(0, func(p Part, m []byte) error {
						head[0] = byte(p)
						binary.BigEndian.PutUint32(head[1:], uint32(len(m)))
						buffers := net.Buffers{head[:], m}
						_, err := buffers.WriteTo(near)
						return err
					}); err != nil {
						b.Error(err)
						near.Close()
					}
				}
			}()
			b.ReportAllocs()
			b.SetBytes(int64(c.n4*wireV4 + c.n6*wireV6))
			buf := make([]byte, MaxMessage)
			for b.Loop() {
				next <- struct{}{}
				var in *Loader
				for done := false; !done; {
					var head [5]byte
					if _, err := io.ReadFull(far, head[:]); err != nil {
						b.Fatal(err)
					}
					m := buf[:binary.BigEndian.Uint32(head[1:])]
					_, err := io.ReadFull(far, m)
					switch {
					case err != nil:
					case Part(head[0]) == PartHeader:
						in, err = NewLoader(m, 0)
					case Part(head[0]) == PartChunk:
						err = in.Add(m)
					default:
						var got *List
						if got, err = in.List(m); err == nil && got.Len() != l.Len() {
							b.Fatalf("%d entries", got.Len())
						}
						done = true
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// pair is a socket pair, as processes have it between them.
func pair(b *testing.B) (near, far net.Conn) {
	b.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		b.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		syscall.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "socket pair")
		if ends[i], err = net.FileConn(f); err != nil {
			b.Fatal(err)
		}
		f.Close()
		b.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}
