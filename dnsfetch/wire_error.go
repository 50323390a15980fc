package dnsfetch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"unicode/utf8"
)

// An error goes from one process to another as a tree. Each node begins with a byte that says what
// it is:
//
//	'E'  an Error: list, part and server as texts, and the reason, a node
//	'A'  several servers failed: their number in one byte, and an 'E' node for each
//	'N'  one of the errors in named: its place there, 1 byte
//	'O'  an errno: 2 bytes. Both processes are of one system, and the number means the same
//	'T'  any other: its text, and the errors that it matches: their number in one byte, and a node
//	     'N', 'O' or 'E' for each
//
// So errors.Is and errors.As find at the other end what they find here, and the text is the same
// as far as it is printable and not too long.
const (
	nodeError = 'E'
	nodeAll   = 'A'
	nodeNamed = 'N'
	nodeErrno = 'O'
	nodeText  = 'T'
)

// named are the errors that stay what they are. New ones go to the end, although both processes
// are the same program.
var named = []error{
	ErrName, ErrSource,
	ErrLookup, ErrConnect, ErrTimeout, ErrCut,
	ErrRefused, ErrServFail, ErrNXDomain, ErrRcode, ErrNoRecords, ErrTruncated,
	ErrShort, ErrTrailing, ErrHeader, ErrID, ErrQuestion, ErrOwner, ErrClass, ErrType, ErrAlias, ErrMalformed, ErrAPL,
	ErrEmpty, ErrOutside, ErrDuplicate, ErrLoop, ErrChanged, ErrTooManyParts, ErrTooManyEntries, ErrTooManyBytes,
	ErrWire,
	context.Canceled, context.DeadlineExceeded,
}

// The bounds of an error. What goes beyond is left out by the sender, and refused by the receiver.
const (
	maxNodes   = 512 // of one message, but for the rest of the last Error
	maxDepth   = 6   // Errors in Errors
	maxFailed  = 128 // servers that failed
	maxMatches = 16  // errors that a text matches
	maxErrno   = 1<<15 - 1
	// enough is when the sender ends: one more Error still fits into MaxMessage.
	enough = MaxMessage / 2
)

// AppendBinary appends e to b in the form that [ParseError] reads: at most [MaxMessage] bytes. It
// never fails. Text that is not printable ASCII is escaped, and long text is cut; of very many
// servers that failed only the first are kept.
func (e *Error) AppendBinary(b []byte) ([]byte, error) {
	enc := encoder{b: b, begin: len(b)}
	enc.error(e, 0)
	return enc.b, nil
}

// ParseError returns the Error that AppendBinary made b of. An error of its own matches [ErrWire].
func ParseError(b []byte) (*Error, error) {
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("%w: error of %d bytes", ErrWire, len(b))
	}
	d := newDecoder(b)
	e := d.error(0)
	if err := d.end(); err != nil {
		return nil, err
	}
	return e, nil
}

// told is an error of another process.
type told struct {
	text string
	is   []error
}

func (t *told) Error() string   { return t.text }
func (t *told) Unwrap() []error { return t.is }

// encoder appends to b.
type encoder struct {
	b     []byte
	begin int
	nodes int
}

// room reports whether another Error, or another error that one matches, may follow.
func (e *encoder) room() bool { return e.nodes < maxNodes && len(e.b)-e.begin < enough }

func (e *encoder) node(tag byte) {
	e.b = append(e.b, tag)
	e.nodes++
}

// text appends s, made printable and not too long.
func (e *encoder) text(s string) {
	at := len(e.b)
	e.b = append(e.b, 0, 0)
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		var c []byte
		switch {
		case r >= ' ' && r <= '~':
			c = []byte{byte(r)}
		case r == utf8.RuneError && n == 1:
			c = append(c, `\x`...)
			c = strconv.AppendUint(c, uint64(s[0]), 16)
		default:
			c = strconv.AppendQuoteRuneToASCII(c, r)
			c = c[1 : len(c)-1]
		}
		if len(e.b)-at-2+len(c) > maxText {
			break
		}
		e.b = append(e.b, c...)
		s = s[n:]
	}
	binary.BigEndian.PutUint16(e.b[at:], uint16(len(e.b)-at-2))
}

func (e *encoder) error(err *Error, depth int) {
	e.node(nodeError)
	e.text(err.List)
	e.text(err.Part)
	e.text(err.Server)
	e.reason(err.Err, depth+1)
}

// all appends as many errors as there is room for.
func (e *encoder) all(errs []*Error) { e.several(errs, 0) }

func (e *encoder) several(errs []*Error, depth int) {
	at := len(e.b)
	e.b = append(e.b, 0)
	for _, one := range errs {
		if e.b[at] == maxFailed || !e.room() {
			break
		}
		e.error(one, depth)
		e.b[at]++
	}
}

func (e *encoder) reason(err error, depth int) {
	if all, ok := err.(allFailed); ok && depth < maxDepth-1 {
		e.node(nodeAll)
		e.several(all, depth)
		return
	}
	if err == nil {
		err = errors.New("no reason given")
	}
	if e.identity(err, depth) {
		return
	}
	e.node(nodeText)
	e.text(err.Error())
	at := len(e.b)
	e.b = append(e.b, 0)
	e.matches(err, at, depth, 0)
}

// identity appends err when it is one of those that stay what they are.
func (e *encoder) identity(err error, depth int) bool {
	switch err := err.(type) {
	case *Error:
		if depth < maxDepth && e.room() {
			e.error(err, depth)
			return true
		}
		return false
	case syscall.Errno:
		if err > 0 && err <= maxErrno {
			e.node(nodeErrno)
			e.b = binary.BigEndian.AppendUint16(e.b, uint16(err))
			return true
		}
		return false
	}
	for i, n := range named {
		if err == n {
			e.node(nodeNamed)
			e.b = append(e.b, byte(i))
			return true
		}
	}
	return false
}

// matches appends what err wraps, however deep, and counts it at the place at.
func (e *encoder) matches(err error, at, depth, wraps int) {
	var in []error
	switch err := err.(type) {
	case interface{ Unwrap() error }:
		in = []error{err.Unwrap()}
	case interface{ Unwrap() []error }:
		in = err.Unwrap()
	}
	for _, one := range in {
		switch {
		case one == nil:
		case e.b[at] == maxMatches || !e.room():
			return
		case e.identity(one, depth):
			e.b[at]++
		case wraps < maxDepth:
			e.matches(one, at, depth, wraps+1)
		}
	}
}

// decoder reads b from its beginning. After the first mistake it gives zeros.
type decoder struct {
	b     []byte
	len   int // of b at the beginning
	nodes int
	err   error
}

func newDecoder(b []byte) *decoder { return &decoder{b: b, len: len(b)} }

// room is that of the encoder at the same place.
func (d *decoder) room() bool { return d.nodes < maxNodes && d.len-len(d.b) < enough }

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: "+format, append([]any{ErrWire}, args...)...)
	}
	d.b = nil
}

// end returns what was wrong, bytes left over included.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes left over", len(d.b))
	}
	return d.err
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.fail("cut off")
		return make([]byte, min(n, 8))
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) uint8() byte    { return d.take(1)[0] }
func (d *decoder) uint16() uint16 { return binary.BigEndian.Uint16(d.take(2)) }
func (d *decoder) uint32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }
func (d *decoder) uint64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }

func (d *decoder) text() string {
	n := int(d.uint16())
	if n > maxText {
		d.fail("text of %d characters", n)
	}
	if d.err != nil || n > len(d.b) {
		d.fail("cut off")
		return ""
	}
	b := d.take(n)
	for _, c := range b {
		if c < ' ' || c > '~' {
			d.fail("text with the unprintable character %#x", c)
			return ""
		}
	}
	return string(b)
}

// node returns what the next node is.
func (d *decoder) node() byte {
	d.nodes++
	return d.uint8()
}

// error returns an Error, never nil.
func (d *decoder) error(depth int) *Error {
	if tag := d.node(); tag != nodeError {
		d.fail("error of kind %d where a list's was expected", tag)
	}
	return d.body(depth)
}

// body is what follows the tag.
func (d *decoder) body(depth int) *Error {
	if depth >= maxDepth {
		d.fail("errors within errors")
	}
	e := &Error{List: d.text(), Part: d.text(), Server: d.text()}
	if d.err == nil {
		e.Err = d.reason(depth + 1)
	}
	return e
}

func (d *decoder) all() []*Error { return d.several(0) }

func (d *decoder) several(depth int) []*Error {
	n := d.uint8()
	if n > maxFailed {
		d.fail("%d servers that failed", n)
	}
	var errs []*Error
	for ; n > 0 && d.err == nil; n-- {
		if !d.room() {
			d.fail("too many errors")
			break
		}
		errs = append(errs, d.error(depth))
	}
	return errs
}

func (d *decoder) reason(depth int) error {
	room := d.room()
	tag := d.node()
	switch tag {
	case nodeError:
		if !room {
			d.fail("too many errors")
			return nil
		}
	case nodeAll:
		if depth >= maxDepth-1 {
			d.fail("errors within errors")
			return nil
		}
		return allFailed(d.several(depth))
	case nodeText:
		t := &told{text: d.text()}
		n := d.uint8()
		if n > maxMatches {
			d.fail("error that is %d others", n)
		}
		for ; n > 0 && d.err == nil; n-- {
			if !d.room() {
				d.fail("too many errors")
				break
			}
			t.is = append(t.is, d.identity(d.node(), depth))
		}
		return t
	}
	return d.identity(tag, depth)
}

func (d *decoder) identity(tag byte, depth int) error {
	switch tag {
	case nodeError:
		return d.body(depth)
	case nodeNamed:
		i := int(d.uint8())
		if i >= len(named) {
			d.fail("error number %d is not known", i)
			return nil
		}
		return named[i]
	case nodeErrno:
		n := d.uint16()
		if n == 0 || n > maxErrno {
			d.fail("errno %d", n)
		}
		return syscall.Errno(n)
	}
	d.fail("error of unknown kind %d", tag)
	return nil
}
