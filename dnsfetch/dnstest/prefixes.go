package dnstest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
)

// maxLine is the longest line of a prefix file, in bytes.
const maxLine = 64 << 10

// maxPrefix is the longest text of a prefix: "!", 45 bytes of address, "/128",
// and some room for blanks.
const maxPrefix = 64

// maxLineErrors is how many bad lines are reported before the rest is only counted.
const maxLineErrors = 10

// ReadPrefixes reads a file of prefixes: one a line, in the form of pf's table
// files; an address without a length is a host, "!" in front negates, "#" begins
// a comment. Unlike pfctl it takes no host bits behind a prefix, since they are
// a mistake as often as a habit. File names r in errors. An error names up to
// ten bad lines, one to a line, and then no entries are returned.
func ReadPrefixes(r io.Reader, file string) ([]Entry, error) {
	var (
		full  [][]Entry // chunks, so that growing neither copies nor leaves garbage
		chunk []Entry
		errs  []error
		bad   int
	)
	br := bufio.NewReaderSize(r, maxLine)
	for n := 1; ; n++ {
		line, err := br.ReadSlice('\n')
		long := err == bufio.ErrBufferFull
		for err == bufio.ErrBufferFull {
			_, err = br.ReadSlice('\n')
		}
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		if n == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		var e Entry
		var ok bool
		lerr := errors.New("line longer than 64 KiB")
		if !long {
			e, ok, lerr = parseLine(line)
		}
		switch {
		case lerr != nil:
			if bad++; bad <= maxLineErrors {
				errs = append(errs, fmt.Errorf("%s:%d: %w", file, n, lerr))
			}
		case ok && bad == 0:
			if len(chunk) == cap(chunk) {
				full = append(full, chunk)
				chunk = make([]Entry, 0, min(max(64, 2*len(chunk)), 1<<16))
			}
			chunk = append(chunk, e)
		}
		if err == io.EOF {
			break
		}
	}
	if bad > maxLineErrors {
		errs = append(errs, fmt.Errorf("%s: %d more bad lines", file, bad-maxLineErrors))
	}
	if bad > 0 {
		return nil, errors.Join(errs...)
	}
	return slices.Concat(append(full, chunk)...), nil
}

// parseLine reads a line; ok is false for one that holds no prefix.
func parseLine(line []byte) (e Entry, ok bool, err error) {
	if i := bytes.IndexByte(line, '#'); i >= 0 {
		line = line[:i]
	}
	line = bytes.TrimSpace(line)
	if len(line) == 0 {
		return Entry{}, false, nil
	}
	if len(line) > maxPrefix {
		return Entry{}, false, fmt.Errorf("%.20q… is no prefix: %d bytes are more than one takes", line, len(line))
	}
	text := line
	if line[0] == '!' {
		e.Not = true
		line = bytes.TrimSpace(line[1:])
	}
	if e.Prefix, ok = parseV4(line); !ok {
		if e.Prefix, err = parseText(string(line)); err != nil {
			return Entry{}, false, fmt.Errorf("%q is no prefix: %w", text, err)
		}
	}
	if m := e.Prefix.Masked(); m != e.Prefix {
		return Entry{}, false, fmt.Errorf("%q has host bits set; %s is meant", text, m)
	}
	return e, true, nil
}

// parseV4 reads what nearly every line holds, an IPv4 address or prefix, as
// netip does and four times as fast. It gives up on everything else.
func parseV4(b []byte) (netip.Prefix, bool) {
	var a [4]byte
	i := 0
	number := func(most int) (int, bool) {
		n, from := 0, i
		for ; i < len(b) && '0' <= b[i] && b[i] <= '9'; i++ {
			if n = 10*n + int(b[i]-'0'); n > most || i > from && b[from] == '0' {
				return 0, false
			}
		}
		return n, i > from
	}
	for k := range a {
		if k > 0 {
			if i >= len(b) || b[i] != '.' {
				return netip.Prefix{}, false
			}
			i++
		}
		n, ok := number(255)
		if !ok {
			return netip.Prefix{}, false
		}
		a[k] = byte(n)
	}
	bits := 32
	if i < len(b) {
		if b[i] != '/' {
			return netip.Prefix{}, false
		}
		i++
		var ok bool
		if bits, ok = number(32); !ok || i != len(b) {
			return netip.Prefix{}, false
		}
	}
	return netip.PrefixFrom(netip.AddrFrom4(a), bits), true
}

// parseText reads an address or prefix of either family.
func parseText(s string) (netip.Prefix, error) {
	for _, c := range s {
		if c == '/' {
			return netip.ParsePrefix(s)
		}
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if a.Zone() != "" {
		return netip.Prefix{}, errors.New("a list has no interfaces")
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}
