package dnstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func TestReadPrefixes(t *testing.T) {
	p := func(text string) Entry {
		not := strings.HasPrefix(text, "!")
		return Entry{Prefix: netip.MustParsePrefix(strings.TrimPrefix(text, "!")), Not: not}
	}
	tests := []struct {
		name, file string
		want       []Entry
	}{
		{"nothing", "", nil},
		{"comments and empty lines", "# a\n\n   \n\t# b", nil},
		{"one without an end of line", "192.0.2.0/24", []Entry{p("192.0.2.0/24")}},
		{"hosts", "192.0.2.1\n2001:db8::1\n", []Entry{p("192.0.2.1/32"), p("2001:db8::1/128")}},
		{"negated", "!192.0.2.1\n! 2001:db8::/32\n", []Entry{p("!192.0.2.1/32"), p("!2001:db8::/32")}},
		{"blanks and a comment behind", "  10.0.0.0/8 \t# ten\n", []Entry{p("10.0.0.0/8")}},
		{"DOS", "\ufeff10.0.0.0/8\r\n\r\n::/0\r\n", []Entry{p("10.0.0.0/8"), p("::/0")}},
		{"the whole Internet", "0.0.0.0/0\n255.255.255.255\n", []Entry{p("0.0.0.0/0"), p("255.255.255.255/32")}},
		{"repeated", "10.0.0.1\n10.0.0.1\n", []Entry{p("10.0.0.1/32"), p("10.0.0.1/32")}},
		{"IPv4 in IPv6", "::ffff:192.0.2.1\n", []Entry{p("::ffff:192.0.2.1/128")}},
		{"a comment over 64 KiB of lines", strings.Repeat("# x\n", 30000) + "10.0.0.1", []Entry{p("10.0.0.1/32")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadPrefixes(strings.NewReader(tt.file), "f")
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestReadPrefixesRefuses(t *testing.T) {
	tests := []struct{ name, line, want string }{
		{"a word", "example.org", `b.txt:3: "example.org" is no prefix: `},
		{"three octets", "10.1.2", `b.txt:3: "10.1.2" is no prefix: `},
		{"an octet too large", "10.1.2.256", `is no prefix: `},
		{"a leading zero", "010.0.0.1", `leading zero`},
		{"too long for IPv4", "10.0.0.0/33", `prefix length out of range`},
		{"too long for IPv6", "::/129", `prefix length out of range`},
		{"a length with a zero in front", "10.0.0.0/08", `is no prefix`},
		{"no length", "10.0.0.0/", `is no prefix`},
		{"a netmask", "10.0.0.0/255.0.0.0", `is no prefix`},
		{"two on a line", "10.0.0.1 10.0.0.2", `is no prefix`},
		{"host bits", "10.1.2.3/8", `b.txt:3: "10.1.2.3/8" has host bits set; 10.0.0.0/8 is meant`},
		{"IPv6 host bits", "!2001:db8::1/32", `"!2001:db8::1/32" has host bits set; 2001:db8::/32 is meant`},
		{"a zone", "fe80::1%em0", `"fe80::1%em0" is no prefix: a list has no interfaces`},
		{"not and nothing", "!", `"!" is no prefix`},
		{"not not", "!!10.0.0.1", `"!!10.0.0.1" is no prefix`},
		{"a page instead of a list", "<html><head><title>" + strings.Repeat("Please log in. ", 20), `is no prefix: 318 bytes are more than one takes`},
		{"a line without end", strings.Repeat("1", 200_000), `b.txt:3: line longer than 64 KiB`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadPrefixes(strings.NewReader("10.0.0.1\n# x\n"+tt.line+"\n10.0.0.2\n"), "b.txt")
			if err == nil || got != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v; want an error with %q", got, err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
		})
	}
}

func TestReadPrefixesTellsTenBadLines(t *testing.T) {
	var file strings.Builder
	for i := range 25 {
		fmt.Fprintf(&file, "10.0.0.%d\nbad%d\n", i, i)
	}
	_, err := ReadPrefixes(strings.NewReader(file.String()), "f")
	if err == nil {
		t.Fatal("taken")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 11 || !strings.HasPrefix(lines[9], `f:20: "bad9"`) || lines[10] != "f: 15 more bad lines" {
		t.Errorf("%q", lines)
	}
}

func TestReadPrefixesPassesReadErrors(t *testing.T) {
	broken := errors.New("input/output error")
	_, err := ReadPrefixes(io.MultiReader(strings.NewReader("10.0.0.1\n10.0"), iotest.ErrReader(broken)), "f")
	if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "f:2: ") {
		t.Errorf("got %v", err)
	}
}

// FuzzReadPrefixes holds the reader against a plain one made of netip's parser:
// both take the same files, and find the same in them.
func FuzzReadPrefixes(f *testing.F) {
	for _, seed := range []string{
		"192.0.2.1\n!10.0.0.0/8 # x\r\n\n2001:db8::/32", "\ufeff::1", "1.2.3.4/", "01.2.3.4", "1.2.3.4/032", "256.1.1.1",
		"fe80::1%em0", "! ::/0", "10.0.0.1/8", "1.2.3.4.5", "0.0.0.0/0", "\x00", "::ffff:1.2.3.4/96", "1.2.3.4/-1", "!\n", "\ufeff\ufeff1.1.1.1",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := ReadPrefixes(bytes.NewReader(file), "f")
		var want []Entry
		bad := false
		text := strings.TrimPrefix(string(file), "\ufeff")
		for line := range strings.SplitSeq(text, "\n") {
			line, _, _ = strings.Cut(line, "#")
			line = strings.TrimSpace(line)
			if line == "" {
				continue
			}
			var e Entry
			var perr error
			if len(line) > maxPrefix {
				bad = true
				continue
			}
			bare, not := strings.CutPrefix(line, "!")
			e.Not = not
			bare = strings.TrimSpace(bare)
			if strings.Contains(bare, "/") {
				e.Prefix, perr = netip.ParsePrefix(bare)
			} else {
				var a netip.Addr
				a, perr = netip.ParseAddr(bare)
				e.Prefix = netip.PrefixFrom(a, a.BitLen())
				if perr == nil && a.Zone() != "" {
					perr = errors.New("zone")
				}
			}
			if perr != nil || e.Prefix.Masked() != e.Prefix {
				bad = true
				continue
			}
			want = append(want, e)
		}
		if bad != (err != nil) && len(file) < maxLine {
			t.Fatalf("refused %v, should be %v: %v", err != nil, bad, err)
		}
		if err != nil {
			if got != nil {
				t.Fatalf("%d entries beside an error", len(got))
			}
			return
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		// What was read, written the way such files are, reads the same.
		var again bytes.Buffer
		for _, e := range got {
			fmt.Fprintln(&again, entryString(e))
		}
		back, err := ReadPrefixes(&again, "again")
		if err != nil || !slices.Equal(back, got) {
			t.Fatalf("read back %v, %v", back, err)
		}
	})
}

func TestReadPrefixesAgreesOnRandomEntries(t *testing.T) {
	want := random(20_000, 9, false)
	var file bytes.Buffer
	for _, e := range want {
		fmt.Fprintln(&file, entryString(e))
	}
	got, err := ReadPrefixes(&file, "f")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Error(cmp.Diff(len(want), len(got)), "entries differ")
	}
}

func BenchmarkReadPrefixes(b *testing.B) {
	var file bytes.Buffer
	for _, e := range random(1_000_000, 9, false) {
		fmt.Fprintln(&file, entryString(e))
	}
	b.SetBytes(int64(file.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadPrefixes(bytes.NewReader(file.Bytes()), "f"); err != nil {
			b.Fatal(err)
		}
	}
}
