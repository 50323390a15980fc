package dnstest

import (
	"encoding/binary"
	"net"
	"time"

	"github.com/miekg/dns"
)

// Bits of a message's second header word (RFC 1035 §4.1.1).
const (
	flagQR     = 1 << 15
	flagOpcode = 15 << 11
	flagAA     = 1 << 10
	flagTC     = 1 << 9
	flagRD     = 1 << 8
)

// answer is a message under construction, and how it is to be sent. Its byte slices
// may be shared with the lists: faults replace them, and never write to them.
type answer struct {
	id        uint16
	flags     uint16
	rcode     int
	qdcount   int
	question  []byte
	count     int // what the header counts
	body      []byte
	nscount   int
	authority []byte
	tail      []byte // behind the last record
	cutEnd    int    // bytes to leave out at the end

	lie        int // added to the length
	drip       int // bytes at a time, 0 for all
	dripEvery  time.Duration
	cut        bool
	cutAfter   int
	reset      bool
	closeAfter bool
	discard    bool
	silent     bool
	stall      bool
	late       bool
	delay      time.Duration
	then       []func()
}

// empty takes all records off the answer.
func (a *answer) empty() {
	a.count, a.body, a.nscount, a.authority = 0, nil, 0, nil
}

func (a *answer) len() int {
	return max(0, headerLen+len(a.question)+len(a.body)+len(a.authority)+len(a.tail)-a.cutEnd)
}

// buffers returns the message with its length in front. Only what is in front
// of the records is copied. What a fault made too long for a message is cut at
// the longest there is.
func (a *answer) buffers() net.Buffers {
	a.cutEnd += max(0, a.len()-maxMessage)
	b := make([]byte, 0, 2+headerLen+len(a.question))
	b = binary.BigEndian.AppendUint16(b, uint16(min(max(0, a.len()+a.lie), maxMessage)))
	b = binary.BigEndian.AppendUint16(b, a.id)
	b = binary.BigEndian.AppendUint16(b, a.flags|uint16(a.rcode&15))
	b = binary.BigEndian.AppendUint16(b, uint16(a.qdcount))
	b = binary.BigEndian.AppendUint16(b, uint16(a.count))
	b = binary.BigEndian.AppendUint16(b, uint16(a.nscount))
	b = binary.BigEndian.AppendUint16(b, 0)
	b = append(b, a.question...)
	bufs := net.Buffers{b, a.body, a.authority, a.tail}
	for i, over := len(bufs)-1, a.cutEnd; i >= 0 && over > 0; i-- {
		n := min(over, len(bufs[i]))
		if i == 0 {
			n = min(n, len(b)-2) // the length stays
		}
		bufs[i] = bufs[i][:len(bufs[i])-n]
		over -= n
	}
	return bufs
}

// record is the position of a record in an answer's body.
type record struct {
	start, fixed, end int // fixed: behind the owner, where the type stands
	typ               uint16
}

// data returns the record's data.
func (r record) data(body []byte) []byte { return body[r.fixed+10 : r.end] }

// records finds the answer's records again. They are the server's own.
func (a *answer) records() []record {
	var out []record
	for off := 0; off < len(a.body); {
		r := record{start: off, fixed: skipName(a.body, off)}
		r.typ = binary.BigEndian.Uint16(a.body[r.fixed:])
		r.end = r.fixed + 10 + int(binary.BigEndian.Uint16(a.body[r.fixed+8:]))
		out = append(out, r)
		off = r.end
	}
	return out
}

// skipName returns where the name at off ends.
func skipName(b []byte, off int) int {
	for b[off] != 0 {
		if b[off] >= 0xc0 {
			return off + 2
		}
		off += 1 + int(b[off])
	}
	return off + 1
}

// patchLast sets a word of the last record, at bytes behind its owner.
func (a *answer) patchLast(at int, v, zero uint16) {
	records := a.records()
	if len(records) == 0 {
		return
	}
	if v == 0 {
		v = zero
	}
	a.body = append([]byte(nil), a.body...)
	binary.BigEndian.PutUint16(a.body[records[len(records)-1].fixed+at:], v)
}

// unlink writes out every name that points to the question, so that the
// question can change without them.
func (a *answer) unlink() {
	name := a.question[:max(0, len(a.question)-4)]
	points := func(b []byte) bool {
		return len(b) >= 2 && binary.BigEndian.Uint16(b[len(b)-2:]) == toQuestion
	}
	var body []byte
	for _, r := range a.records() {
		if owner := a.body[r.start:r.fixed]; points(owner) {
			body = append(append(body, owner[:len(owner)-2]...), name...)
		} else {
			body = append(body, owner...)
		}
		data := r.data(a.body)
		if r.typ == dns.TypePTR && points(data) {
			body = append(body, a.body[r.fixed:r.fixed+8]...)
			body = binary.BigEndian.AppendUint16(body, uint16(len(data)-2+len(name)))
			body = append(append(body, data[:len(data)-2]...), name...)
		} else {
			body = append(body, a.body[r.fixed:r.end]...)
		}
	}
	a.body = body
}

// addPTR puts one more PTR record, with the target given, behind the answer's.
func (a *answer) addPTR(target []byte) {
	records := a.records()
	if len(records) == 0 || records[0].typ != dns.TypePTR {
		return
	}
	set := rrset{body: append([]byte(nil), a.body...)}
	at := set.beginRecord(dns.TypePTR, DefaultTTL)
	set.body = append(set.body, target...)
	set.endRecord(at)
	a.body = set.body
	a.count++
}

// eachAPL rewrites every item of the answer's APL records.
func (a *answer) eachAPL(rewrite func(item []byte) []byte) {
	var body []byte
	for _, r := range a.records() {
		if r.typ != dns.TypeAPL {
			body = append(body, a.body[r.start:r.end]...)
			continue
		}
		body = append(body, a.body[r.start:r.fixed+10]...)
		at := len(body) - 2
		for data := r.data(a.body); len(data) >= aplHeader; {
			n := min(aplHeader+int(data[3]&0x7f), len(data)) // less only in what RawAPL made
			body = append(body, rewrite(data[:n:n])...)
			data = data[n:]
		}
		binary.BigEndian.PutUint16(body[at:], uint16(len(body)-at-2))
	}
	a.body = body
}
