package dnsfetch

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// appendAPL appends e to the rdata of an APL record in the one form that RFC 3123 §4.1 and
// §4.2 leave to senders: bits beyond the prefix cleared, trailing zero octets left out. It
// fails, and returns rdata unchanged, when the prefix is not valid. An IPv4-mapped address is
// written as IPv6.
func appendAPL(rdata []byte, e Entry) ([]byte, error) {
	p := e.Prefix.Masked()
	if !p.IsValid() {
		return rdata, fmt.Errorf("APL item %v: not a valid prefix", e.Prefix)
	}
	family := uint16(aplIPv6)
	if p.Addr().Is4() {
		family = aplIPv4
	}
	afd := p.Addr().AsSlice()
	for len(afd) > 0 && afd[len(afd)-1] == 0 {
		afd = afd[:len(afd)-1]
	}
	length := byte(len(afd))
	if e.Not {
		length |= 0x80
	}
	rdata = binary.BigEndian.AppendUint16(rdata, family)
	rdata = append(rdata, byte(p.Bits()), length)
	return append(rdata, afd...), nil
}

func decodeAPL(rdata []byte) ([]Entry, error) {
	var c columns
	if err := c.addAPL(rdata); err != nil {
		return nil, err
	}
	var l List
	l.take(&c)
	return slices.Collect(l.All()), nil
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAPLDecode(t *testing.T) {
	for _, tt := range []struct{ name, rdata, want string }{
		{"nothing", "", ""},
		{"a network", "0001 18 03 c00002", "192.0.2.0/24"},
		{"a host", "0001 20 04 c0000201", "192.0.2.1/32"},
		{"trailing zeros stripped", "0001 20 01 0a", "10.0.0.0/32"},
		{"trailing zero left", "0001 18 04 c0000200", "192.0.2.0/24"},
		{"all zeros left", "0001 00 04 00000000", "0.0.0.0/0"},
		{"everything", "0001 00 00", "0.0.0.0/0"},
		{"host bits set", "0001 10 04 0a01ffff", "10.1.0.0/16"},
		{"host bits within an octet", "0001 09 02 0aff", "10.128.0.0/9"},
		{"host bits in /0", "0001 00 04 ffffffff", "0.0.0.0/0"},
		{"host bits in /31", "0001 1f 04 0a000001", "10.0.0.0/31"},
		{"negated", "0001 10 82 0a01", "!10.1.0.0/16"},
		{"negated everything", "0001 00 80", "!0.0.0.0/0"},
		{"IPv6", "0002 20 04 20010db8", "2001:db8::/32"},
		{"IPv6 host", "0002 80 10 20010db8000000000000000000000001", "2001:db8::1/128"},
		{"IPv6 host bits", "0002 21 06 20010db8ffff", "2001:db8:8000::/33"},
		{"IPv6 host bits far behind", "0002 20 10 20010db8000000000000000000000001", "2001:db8::/32"},
		{"IPv6 in /127", "0002 7f 10 20010db8000000000000000000000003", "2001:db8::2/127"},
		{"IPv6 everything", "0002 00 10 ffffffffffffffffffffffffffffffff", "::/0"},
		{"IPv6 trailing zeros left", "0002 20 06 20010db80000", "2001:db8::/32"},
		{"IPv4-mapped stays IPv6", "0002 78 0f 00000000000000000000ffff0a0102", "::ffff:10.1.2.0/120"},
		{"mixed", "0001 18 03 c00002 0002 20 84 20010db8 0001 20 84 c0000201", "192.0.2.0/24 !192.0.2.1/32 !2001:db8::/32"},
		{"the same twice", "0001 08 01 0a 0001 08 01 0a", "10.0.0.0/8 10.0.0.0/8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeAPL(unhex(t, tt.rdata))
			if err != nil {
				t.Fatal(err)
			}
			var s []string
			for _, e := range got {
				s = append(s, e.String())
				if e.Prefix != e.Prefix.Masked() || !e.Prefix.IsValid() {
					t.Errorf("%v is not masked", e)
				}
			}
			if s := strings.Join(s, " "); s != tt.want {
				t.Errorf("got %q, want %q", s, tt.want)
			}
		})
	}
}

func TestAPLDecodeRefuses(t *testing.T) {
	for _, tt := range []struct{ name, rdata, want string }{
		{"header cut", "0001 18", "item 1: 3 bytes"},
		{"address cut", "0001 18 03 c000", "item 1: 3 octets of address announced, 2 left"},
		{"second item cut", "0001 18 03 c00002 00", "item 2: 1 bytes"},
		{"IPv4 with 5 octets", "0001 20 05 c000020100", "item 1: IPv4 with 5 octets"},
		{"IPv4 with /33", "0001 21 04 c0000201", "IPv4 with 4 octets and prefix length 33"},
		{"IPv6 with 17 octets", "0002 80 11 20010db800000000000000000000000100", "IPv6 with 17 octets"},
		{"IPv6 with /129", "0002 81 01 20", "prefix length 129"},
		{"family 0", "0000 08 01 0a", "address family 0"},
		{"family 3", "0001 08 01 0a 0003 08 01 0a", "item 2: address family 3"},
		{"family 257", "0101 08 01 0a", "address family 257"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeAPL(unhex(t, tt.rdata))
			if !errors.Is(err, ErrAPL) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, error %v; want ErrAPL with %q", got, err, tt.want)
			}
		})
	}
}

func TestAppendAPL(t *testing.T) {
	for _, tt := range []struct {
		prefix string
		not    bool
		want   string
	}{
		{"192.0.2.0/24", false, "0001 18 03 c00002"},
		{"192.0.2.1/32", true, "0001 20 84 c0000201"},
		{"10.0.0.0/32", false, "0001 20 01 0a"},
		{"10.1.255.255/16", false, "0001 10 02 0a01"},
		{"0.0.0.0/0", false, "0001 00 00"},
		{"2001:db8::/32", false, "0002 20 04 20010db8"},
		{"::/0", true, "0002 00 80"},
		{"::ffff:10.0.0.0/104", false, "0002 68 0d 00000000000000000000ffff0a"},
	} {
		e := Entry{netip.MustParsePrefix(tt.prefix), tt.not}
		got, err := appendAPL([]byte("x"), e)
		if want := "x" + string(unhex(t, tt.want)); err != nil || string(got) != want {
			t.Errorf("%v: got %x, error %v; want %x", e, got, err, want)
		}
		// miekg/dns writes the same, as long as it is given no host bits.
		a := dns.APL{
			Hdr:      dns.RR_Header{Name: ".", Rrtype: dns.TypeAPL, Class: dns.ClassINET},
			Prefixes: []dns.APLPrefix{{Negation: tt.not, Network: ipNet(e.Prefix.Masked())}},
		}
		buf := make([]byte, 64)
		n, err := dns.PackRR(&a, buf, 0, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		if theirs := "x" + string(buf[11:n]); !e.Prefix.Addr().Is4In6() && theirs != string(got) {
			t.Errorf("%v: got %x, miekg/dns writes %x", e, got, theirs)
		}
	}
	for _, p := range []netip.Prefix{{}, netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), 33)} {
		if got, err := appendAPL([]byte("x"), Entry{Prefix: p}); err == nil || string(got) != "x" {
			t.Errorf("%v: got %x, error %v; want it refused", p, got, err)
		}
	}
}

// FuzzAPL checks that what is decoded is masked and valid and lies in the input, and that
// encoding it and decoding that gives the same.
func FuzzAPL(f *testing.F) {
	for _, s := range []string{
		"", "0001 18 03 c00002", "0001 10 04 0a01ffff", "0002 21 06 20010db8ffff 0001 00 80", "0003 08 01 0a",
		"0001 18 04 c0000200 0001 20 84 c0000201",
	} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, rdata []byte) {
		got, err := decodeAPL(rdata)
		if err != nil {
			if !errors.Is(err, ErrAPL) {
				t.Fatalf("unnamed error %v", err)
			}
			return
		}
		checkItems(t, rdata, got)
		var again []byte
		for _, e := range got {
			if again, err = appendAPL(again, e); err != nil {
				t.Fatal(err)
			}
		}
		if len(again) > len(rdata) {
			t.Errorf("strict form %x is longer than %x", again, rdata)
		}
		back, err := decodeAPL(again)
		if err != nil || !slices.Equal(back, got) {
			t.Errorf("%x decodes to %v, that encodes to %x, which decodes to %v, error %v", rdata, got, again, back, err)
		}
	})
}

// checkItems decodes rdata another way, item by item, and compares. IPv4 entries come first, as
// List has them.
func checkItems(t *testing.T, rdata []byte, got []Entry) {
	t.Helper()
	var v4, v6 []Entry
	for len(rdata) > 0 {
		n := int(rdata[3] & 0x7f)
		size, to := 4, &v4
		if rdata[1] == aplIPv6 {
			size, to = 16, &v6
		}
		addr, _ := netip.AddrFromSlice(append(slices.Clone(rdata[4:4+n]), make([]byte, size-n)...))
		*to = append(*to, Entry{netip.PrefixFrom(addr, int(rdata[2])), rdata[3] > 0x7f})
		rdata = rdata[4+n:]
	}
	want := append(v4, v6...)
	for i := range want {
		want[i].Prefix = want[i].Prefix.Masked()
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// BenchmarkAPL decodes a record as full as those of a part.
func BenchmarkAPL(b *testing.B) {
	const items = 900
	var v4, v6 []byte
	for i := range items {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(i * 7)})
		v4, _ = appendAPL(v4, Entry{Prefix: netip.PrefixFrom(a, 24+i%9)})
		a = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: byte(i * 7), 14: byte(i)})
		v6, _ = appendAPL(v6, Entry{Prefix: netip.PrefixFrom(a, 120+i%9)})
	}
	for _, c := range []struct {
		name  string
		rdata []byte
	}{{"v4/900", v4}, {"v6/900", v6}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.rdata)))
			b.ReportAllocs()
			var got columns
			for b.Loop() {
				if got.n >= 1e6 {
					got = columns{}
				}
				if err := got.addAPL(c.rdata); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(items*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
