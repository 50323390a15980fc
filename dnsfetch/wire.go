package dnsfetch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// A list goes from one process to another as messages: a header, chunks of its columns, a commit.
// All numbers have the most significant byte first; a text is its length in two bytes and that
// many printable ASCII characters.
//
//	header  layout 1, restarts 1, parts 4, bytes 8, nanoseconds 8, entries of IPv4 4 and IPv6 4,
//	        name text, server text, failed servers 1 and so many errors (see Error.AppendBinary)
//	chunk   family 1 (4 or 6), entries: 8 bytes each as packV4 has them, or 18 as v6packed
//	commit  entries of IPv4 4 and IPv6 4, CRC-32C of all entries' bytes 4
//
// IPv4 entries come before IPv6 entries. How entries are cut into chunks has no meaning.
//
// The checksum finds mistakes in programs. It is no proof of anything: whoever makes up entries
// makes up the checksum as well.

// MaxMessage is the most bytes that a header, a commit or an error has, and the most that a chunk
// may have.
const MaxMessage = 256 << 10

// Part is what a message has of a list.
type Part uint8

// The parts, in the order in which they go.
const (
	PartHeader Part = 1 + iota
	PartChunk
	PartCommit
)

const (
	wireV4 = 8
	wireV6 = len(v6packed{})
	// maxText bounds a text. A name of 255 bytes, each of them escaped, has less.
	maxText = 1 << 10
	// What nobody waits for and no list has.
	maxElapsed   = 24 * time.Hour
	maxWireParts = 1 << 20
)

// castagnoli is the table of CRC-32C, which is made when it is first asked for.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Send gives all parts of the list to the function to, in order, until that returns an error.
// Chunks have at most size bytes, or [MaxMessage] when size is more or 0, and room for one entry
// at least. What the function is given is good only until it returns.
//
// A [Loader] makes the list from them again. A Name or Server that is not printable ASCII is
// escaped, and comes out so.
func (l *List) Send(size int, to func(p Part, b []byte) error) error {
	if size <= 0 || size > MaxMessage {
		size = MaxMessage
	}
	n4, n6 := 0, 0
	for _, c := range l.v4 {
		n4 += len(c)
	}
	for _, c := range l.v6 {
		n6 += len(c)
	}
	e := encoder{b: []byte{byte(l.Layout), byte(l.Restarts)}}
	e.b = binary.BigEndian.AppendUint32(e.b, uint32(l.Parts))
	e.b = binary.BigEndian.AppendUint64(e.b, uint64(l.Bytes))
	e.b = binary.BigEndian.AppendUint64(e.b, uint64(l.Elapsed))
	e.b = binary.BigEndian.AppendUint32(e.b, uint32(n4))
	e.b = binary.BigEndian.AppendUint32(e.b, uint32(n6))
	e.text(l.Name)
	e.text(l.Server)
	e.all(l.Failed)
	if err := to(PartHeader, e.b); err != nil {
		return err
	}
	// Nothing larger than what is needed, for the lists of three entries.
	buf := make([]byte, 1, max(min(size, 1+max(n4*wireV4, n6*wireV6)), 1+wireV6))
	sum := uint32(0)
	flush := func() error {
		if len(buf) == 1 {
			return nil
		}
		sum = crc32.Update(sum, castagnoli(), buf[1:])
		err := to(PartChunk, buf)
		buf = buf[:1]
		return err
	}
	buf[0] = 4
	for _, chunk := range l.v4 {
		for len(chunk) > 0 {
			room := (cap(buf) - len(buf)) / wireV4
			if room == 0 {
				if err := flush(); err != nil {
					return err
				}
				continue
			}
			n := min(room, len(chunk))
			b := buf[len(buf) : len(buf)+n*wireV4]
			for _, p := range chunk[:n] {
				binary.BigEndian.PutUint64(b, p)
				b = b[wireV4:]
			}
			buf, chunk = buf[:len(buf)+n*wireV4], chunk[n:]
		}
	}
	if err := flush(); err != nil {
		return err
	}
	buf[0] = 6
	for _, chunk := range l.v6 {
		for i := range chunk {
			if len(buf)+wireV6 > cap(buf) {
				if err := flush(); err != nil {
					return err
				}
			}
			buf = append(buf, chunk[i][:]...)
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return to(PartCommit, appendCommit(nil, n4, n6, sum))
}

func appendCommit(b []byte, n4, n6 int, sum uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(n4))
	b = binary.BigEndian.AppendUint32(b, uint32(n6))
	return binary.BigEndian.AppendUint32(b, sum)
}

// ErrWire is what is wrong with bytes that are not a list or an error as this package sends them.
var ErrWire = errors.New("not a list as it was sent")

// Loader makes a List from messages that come from elsewhere. It takes nothing on trust: each
// entry is one that [Client.Fetch] could have given, and memory is given as entries come, not as
// they are announced, and for no more than the limit. The errors match [ErrWire], and
// [ErrTooManyEntries] when that is what is wrong; after one no list comes of the Loader any more.
type Loader struct {
	list   List
	cols   columns
	n4, n6 int // announced
	sum    uint32
	state  Part // the last that came
	err    error
}

// NewLoader returns a Loader of the list that the header b begins. Of entries there may be most
// at the most, or DefaultMaxEntries when that is 0.
func NewLoader(b []byte, most int) (*Loader, error) {
	if most == 0 {
		most = DefaultMaxEntries
	}
	l := &Loader{state: PartHeader}
	d := newDecoder(b)
	layout, restarts := d.uint8(), d.uint8()
	parts, bytes, elapsed := d.uint32(), d.uint64(), d.uint64()
	n4, n6 := d.uint32(), d.uint32()
	name, server := d.text(), d.text()
	failed := d.all()
	if err := d.end(); err != nil {
		return nil, err
	}
	layoutKnown := false
	switch Layout(layout) {
	case LayoutParts, LayoutAPL, LayoutAddresses:
		layoutKnown = true
	}
	switch {
	case !layoutKnown:
		return nil, fmt.Errorf("%w: layout %d", ErrWire, layout)
	case restarts > maxRestarts:
		return nil, fmt.Errorf("%w: begun again %d times", ErrWire, restarts)
	case parts == 0 || parts > maxWireParts:
		return nil, fmt.Errorf("%w: %d parts", ErrWire, parts)
	case bytes > 1<<62:
		return nil, fmt.Errorf("%w: %d bytes", ErrWire, bytes)
	case elapsed > uint64(maxElapsed):
		return nil, fmt.Errorf("%w: it took %d ns", ErrWire, elapsed)
	case uint64(n4)+uint64(n6) > uint64(max(most, 0)):
		return nil, fmt.Errorf("%w: %w: %d announced, limit %d", ErrWire, ErrTooManyEntries, uint64(n4)+uint64(n6), most)
	case name == "" || server == "":
		return nil, fmt.Errorf("%w: no name or no server", ErrWire)
	}
	l.n4, l.n6 = int(n4), int(n6)
	l.list = List{
		Name: name, Server: server, Layout: Layout(layout), Parts: int(parts), Restarts: int(restarts),
		Bytes: int64(bytes), Elapsed: time.Duration(elapsed), Failed: failed,
	}
	return l, nil
}

// Name is the list's name as the header has it.
func (l *Loader) Name() string { return l.list.Name }

// Server is the server that the header names.
func (l *Loader) Server() string { return l.list.Server }

// Add takes the next chunk, which it does not keep.
func (l *Loader) Add(chunk []byte) error {
	if l.err == nil {
		l.err = l.add(chunk)
	}
	return l.err
}

func (l *Loader) add(chunk []byte) error {
	if len(chunk) < 2 {
		return fmt.Errorf("%w: chunk without entries", ErrWire)
	}
	family, b := chunk[0], chunk[1:]
	v6 := l.cols.n - l.v4()
	switch {
	case len(chunk) > MaxMessage:
		return fmt.Errorf("%w: chunk of %d bytes", ErrWire, len(chunk))
	case family == 4 && len(b)%wireV4 == 0:
		if v6 > 0 {
			return fmt.Errorf("%w: IPv4 entries come after IPv6 entries", ErrWire)
		}
		if len(b)/wireV4 > l.n4-l.cols.n {
			return fmt.Errorf("%w: more than the %d IPv4 entries announced", ErrWire, l.n4)
		}
		l.sum = crc32.Update(l.sum, castagnoli(), b)
		return l.addV4(b)
	case family == 6 && len(b)%wireV6 == 0:
		if len(b)/wireV6 > l.n6-v6 {
			return fmt.Errorf("%w: more than the %d IPv6 entries announced", ErrWire, l.n6)
		}
		l.sum = crc32.Update(l.sum, castagnoli(), b)
		return l.addV6(b)
	}
	return fmt.Errorf("%w: chunk of family %d with %d bytes", ErrWire, family, len(chunk))
}

// v4 is how many IPv4 entries came.
func (l *Loader) v4() int {
	return len(l.cols.v4.full)*chunkLen + len(l.cols.v4.last)
}

func (l *Loader) addV4(b []byte) error {
	c := &l.cols.v4
	for len(b) > 0 {
		if len(c.last) == cap(c.last) {
			c.grow()
		}
		n := min(len(b)/wireV4, cap(c.last)-len(c.last))
		to := c.last[len(c.last) : len(c.last)+n]
		from := b[:n*wireV4]
		for i := range to {
			p := binary.BigEndian.Uint64(from[i*wireV4:])
			bits := uint32(p) >> 1
			// A shift by 32 leaves nothing of the address: no host bits.
			if bits > 32 || uint32(p>>32)<<bits != 0 {
				return fmt.Errorf("%w: entry %x is not an IPv4 network", ErrWire, p)
			}
			to[i] = p
		}
		c.last = c.last[:len(c.last)+n]
		l.cols.n += n
		b = b[n*wireV4:]
	}
	return nil
}

func (l *Loader) addV6(b []byte) error {
	for ; len(b) > 0; b = b[wireV6:] {
		p := v6packed(b[:wireV6])
		hi, lo := binary.BigEndian.Uint64(p[:]), binary.BigEndian.Uint64(p[8:])
		bits := uint(p[16])
		host := lo
		if bits <= 64 {
			host |= hi << bits
		} else {
			host = lo << (bits - 64)
		}
		if bits > 128 || p[17] > 1 || host != 0 {
			return fmt.Errorf("%w: entry %x is not an IPv6 network", ErrWire, p)
		}
		l.cols.addV6(p)
	}
	return nil
}

// List returns the list when all of it has come and is what the commit b says.
func (l *Loader) List(b []byte) (*List, error) {
	if l.err != nil {
		return nil, l.err
	}
	n4 := l.v4()
	n6 := l.cols.n - n4
	switch {
	case n4 != l.n4 || n6 != l.n6:
		l.err = fmt.Errorf("%w: %d and %d entries came, announced were %d and %d", ErrWire, n4, n6, l.n4, l.n6)
	case string(b) != string(appendCommit(nil, n4, n6, l.sum)):
		l.err = fmt.Errorf("%w: count or checksum is another", ErrWire)
	}
	if l.err != nil {
		return nil, l.err
	}
	l.err = fmt.Errorf("%w: the list has been taken", ErrWire)
	list := l.list
	list.take(&l.cols)
	return &list, nil
}
