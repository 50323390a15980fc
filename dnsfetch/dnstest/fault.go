package dnstest

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// On selects the answers that a fault affects. A zero field does not restrict; the
// zero On is every answer, be its question about a list or not.
type On struct {
	List string // name of the list that the question is about; its parts and siblings belong to it
	Part int    // part of the list, from 1: of LayoutAddresses, 1 is the name and 2 the first sibling; of LayoutAPL, 1 is the name
	Type uint16 // type asked for, such as dns.TypePTR
	Nth  int    // only the nth such question, from 1, counted from when the fault was set
	From int    // the nth such question and all that follow
}

// matches reports whether On selects a question, apart from Nth and
// From.
func (o On) matches(q Query) bool {
	return (o.List == "" || canonical(o.List) == q.List) &&
		(o.Part == 0 || o.Part == q.Part) &&
		(o.Type == 0 || o.Type == q.Type)
}

// Fault is one thing that goes wrong with an answer. The types of this package
// that implement it are all there are. Where several affect one answer they
// apply in the order in which they were set.
type Fault interface {
	apply(*answer)
}

// Injection is a fault that was set.
type Injection struct {
	s     *Server
	on    On
	fault Fault
	seen  int // questions that matched, under Server.mu
	fired int
}

// Fired returns the number of answers that the fault affected.
func (i *Injection) Fired() int {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return i.fired
}

// Heal takes the fault back. Answers under way keep it.
func (i *Injection) Heal() {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	for n, in := range i.s.faults {
		if in == i {
			i.s.faults = append(i.s.faults[:n:n], i.s.faults[n+1:]...)
			return
		}
	}
}

// Fail sets a fault, until it is healed. Answers over UDP have none.
func (s *Server) Fail(on On, f Fault) *Injection {
	in := &Injection{s: s, on: on, fault: f}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, in)
	return in
}

// Heal takes back every fault.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// faultName names a fault for the query log: its type and what it is set to.
func faultName(f Fault) string {
	if f, ok := f.(fmt.Stringer); ok {
		return f.String()
	}
	name := strings.TrimPrefix(fmt.Sprintf("%T", f), "dnstest.")
	if s := fmt.Sprintf("%+v", f); s != "{}" && !strings.HasPrefix(s, "0x") {
		name += s
	}
	return name
}

// Faults of the header and the question.
type (
	// Rcode answers with a response code and no records.
	Rcode uint8
	// Truncated answers NOERROR with TC set and the first Keep records of the
	// answer. With none of them it is what PowerDNS sends, over TCP, in place of an
	// answer that is longer than a message.
	Truncated struct{ Keep int }
	// NoRecords answers NOERROR without any record.
	NoRecords struct{}
	// WrongID answers under another ID than asked.
	WrongID struct{}
	// WrongOpcode answers with the opcode of a NOTIFY.
	WrongOpcode struct{}
	// NotResponse leaves QR clear, as in a query.
	NotResponse struct{}
	// WrongQuestion echoes another question than asked. Empty fields are as
	// asked; if all are, the name is wrong.invalid. The records keep their
	// owners.
	WrongQuestion struct {
		Name        string
		Type, Class uint16
	}
	// NoQuestion echoes none.
	NoQuestion struct{}
)

// Response codes to answer with.
const (
	FormErr  Rcode = dns.RcodeFormatError
	ServFail Rcode = dns.RcodeServerFailure
	NXDomain Rcode = dns.RcodeNameError
	NotImp   Rcode = dns.RcodeNotImplemented
	Refused  Rcode = dns.RcodeRefused
)

// String returns the code's name, such as REFUSED.
func (r Rcode) String() string {
	if s, ok := dns.RcodeToString[int(r)]; ok {
		return s
	}
	return fmt.Sprintf("RCODE%d", uint8(r))
}

// Faults of the records.
type (
	// WrongOwner puts the answer's last record under another name, "" for
	// wrong.invalid.
	WrongOwner struct{ Name string }
	// WrongClass puts the answer's last record in another class, 0 for CHAOS.
	WrongClass struct{ Class uint16 }
	// WrongType gives the answer's last record another type, 0 for NULL,
	// which may hold anything.
	WrongType struct{ Type uint16 }
	// Alias puts a CNAME record to Name ("" for alias.invalid) in front of the
	// answer's records and these under that name, as a server does that follows
	// aliases.
	Alias struct{ Name string }
	// CutRecords ends the message behind the first Keep records, on a record's
	// boundary, while the header still counts them all. A negative Keep leaves
	// out that many at the end.
	CutRecords struct{ Keep int }
	// CutBytes leaves out the message's last Bytes bytes. The length in front
	// of the message agrees with what is sent.
	CutBytes struct{ Bytes int }
	// Leftover puts Bytes bytes behind the last record, 0 for one.
	Leftover struct{ Bytes int }
	// HostBits sets the bits behind the prefix in every APL item.
	HostBits struct{}
	// TrailingZeros sends every APL item's address in full, which RFC 3123 §4
	// forbids.
	TrailingZeros struct{}
	// Negated turns every APL item's N bit over.
	Negated struct{}
	// RawAPL makes Data the whole data of the answer's first APL record, and
	// the only one. Without Data that is an APL record without items.
	RawAPL struct{ Data []byte }
	// PTRTarget adds a PTR record to the answer to a PTR question.
	PTRTarget struct{ Name string }
	// PTRLoop adds a PTR record that leads back to the list itself.
	PTRLoop struct{}
	// PTRDuplicate adds a PTR record that repeats the first.
	PTRDuplicate struct{}
	// PTROutside adds a PTR record that leads out of the list's domain.
	PTROutside struct{}
	// PTRMissing adds a PTR record for a part that does not exist.
	PTRMissing struct{}
)

// Faults of the connection.
type (
	// SlowDrip sends the answer Bytes bytes at a time (0 is 1), with a pause of
	// Every (0 is 10 ms) between them.
	SlowDrip struct {
		Bytes int
		Every time.Duration
	}
	// CutMessage closes the connection when After bytes of the answer, the two
	// of its length among them, were sent: 0 sends none. A negative After leaves
	// out that many at the end. With Reset the connection is reset, and the
	// client may lose what was sent before, too.
	CutMessage struct {
		After int
		Reset bool
	}
	// WrongLength adds Delta to the length that stands in front of the message,
	// which must stay within 0 and 65535 and is cut there.
	WrongLength struct{ Delta int }
	// CloseAfter closes the connection when the answer was sent, with no regard
	// to questions that wait.
	CloseAfter struct{}
	// NoPipelining throws away the questions that arrived on the connection
	// before the answer was sent. It gives them a moment to arrive.
	NoPipelining struct{}
	// Silence sends no answer, and continues with the next question.
	Silence struct{}
	// Stall sends no answer and reads no further question, and leaves the
	// connection open.
	Stall struct{}
	// Delay waits before it answers; questions behind it wait, too.
	Delay struct{ For time.Duration }
	// Late sends the answer behind that to the next question on the connection,
	// which RFC 7766 §6.2.1.1 allows; it waits a moment for one.
	Late struct{}
	// Then runs Do when the answer was made and before it is sent: what Do
	// changes is in force for the next question. With Do setting the list anew,
	// the list changes while it is fetched.
	Then struct{ Do func() }
)

// String returns the fault's name.
func (Then) String() string { return "Then" }

func (r Rcode) apply(a *answer) {
	a.empty()
	a.rcode = int(r)
}

func (t Truncated) apply(a *answer) {
	CutRecords(t).apply(a)
	a.count = min(a.count, max(0, t.Keep))
	a.rcode, a.authority, a.nscount = dns.RcodeSuccess, nil, 0
	a.flags |= flagTC
}

func (NoRecords) apply(a *answer) {
	a.empty()
	a.rcode = dns.RcodeSuccess
}

func (WrongID) apply(a *answer)     { a.id ^= 0x5a5a }
func (WrongOpcode) apply(a *answer) { a.flags = a.flags&^flagOpcode | dns.OpcodeNotify<<11 }
func (NotResponse) apply(a *answer) { a.flags &^= flagQR }

func (w WrongQuestion) apply(a *answer) {
	if len(a.question) < 4 {
		return
	}
	a.unlink()
	if w == (WrongQuestion{}) {
		w.Name = "wrong.invalid"
	}
	name, tail := a.question[:len(a.question)-4], a.question[len(a.question)-4:]
	if w.Name != "" {
		name = mustWire(w.Name)
	}
	q := append([]byte(nil), name...)
	q = append(q, tail...)
	if w.Type != 0 {
		binary.BigEndian.PutUint16(q[len(q)-4:], w.Type)
	}
	if w.Class != 0 {
		binary.BigEndian.PutUint16(q[len(q)-2:], w.Class)
	}
	a.question = q
}

func (NoQuestion) apply(a *answer) {
	a.unlink()
	a.question, a.qdcount = nil, 0
}

func (w WrongOwner) apply(a *answer) {
	name := w.Name
	if name == "" {
		name = "wrong.invalid"
	}
	records := a.records()
	if len(records) == 0 {
		return
	}
	last := records[len(records)-1]
	body := append([]byte(nil), a.body[:last.start]...)
	body = append(body, mustWire(name)...)
	a.body = append(body, a.body[last.fixed:]...)
}

func (w WrongClass) apply(a *answer) {
	a.patchLast(2, w.Class, dns.ClassCHAOS)
}

func (w WrongType) apply(a *answer) {
	a.patchLast(0, w.Type, dns.TypeNULL)
}

func (al Alias) apply(a *answer) {
	target := []byte("\x05alias\x07invalid\x00")
	if al.Name != "" {
		target = mustWire(al.Name)
	}
	var set rrset
	at := set.beginRecord(dns.TypeCNAME, DefaultTTL)
	set.body = append(set.body, target...)
	set.endRecord(at)
	for _, r := range a.records() {
		set.body = append(append(set.body, target...), a.body[r.fixed:r.end]...)
	}
	a.body = set.body
	a.count++
}

func (c CutRecords) apply(a *answer) {
	records := a.records()
	keep := c.Keep
	if keep < 0 {
		keep += len(records)
	}
	keep = max(0, keep)
	if keep < len(records) {
		a.body = a.body[:records[keep].start]
		a.authority = nil
	}
}

func (c CutBytes) apply(a *answer) { a.cutEnd += c.Bytes }

func (l Leftover) apply(a *answer) {
	a.tail = append(a.tail, make([]byte, max(1, l.Bytes))...)
}

func (HostBits) apply(a *answer) {
	a.eachAPL(func(item []byte) []byte {
		family, bits, not := item[1], int(item[2]), item[3]&0x80
		addr := make([]byte, addrLen(family))
		copy(addr, item[aplHeader:])
		for i := bits; i < 8*len(addr); i++ {
			addr[i/8] |= 0x80 >> (i % 8)
		}
		addr = addr[:lastNonZero(addr)]
		return append([]byte{0, family, byte(bits), not | byte(len(addr))}, addr...)
	})
}

func (TrailingZeros) apply(a *answer) {
	a.eachAPL(func(item []byte) []byte {
		family := item[1]
		out := make([]byte, aplHeader+addrLen(family))
		copy(out, item)
		out[3] = item[3]&0x80 | byte(addrLen(family))
		return out
	})
}

func (Negated) apply(a *answer) {
	a.eachAPL(func(item []byte) []byte {
		out := append([]byte(nil), item...)
		out[3] ^= 0x80
		return out
	})
}

func (r RawAPL) apply(a *answer) {
	for _, rec := range a.records() {
		if rec.typ == dns.TypeAPL {
			set := rrset{}
			at := set.beginRecord(dns.TypeAPL, DefaultTTL)
			set.body = append(set.body, r.Data...)
			set.endRecord(at)
			a.body, a.count = set.body, 1
			return
		}
	}
}

func (p PTRTarget) apply(a *answer) { a.addPTR(mustWire(p.Name)) }
func (PTRLoop) apply(a *answer)     { a.addPTR([]byte{toQuestion >> 8, toQuestion & 0xff}) }
func (PTROutside) apply(a *answer)  { a.addPTR(mustWire("001-netb.outside.invalid")) }

func (PTRDuplicate) apply(a *answer) {
	if records := a.records(); len(records) > 0 {
		a.addPTR(append([]byte(nil), records[0].data(a.body)...))
	}
}

func (PTRMissing) apply(a *answer) {
	a.addPTR(append([]byte("\x0cmissing-netb"), toQuestion>>8, toQuestion&0xff))
}

func (d SlowDrip) apply(a *answer) {
	a.drip, a.dripEvery = max(1, d.Bytes), d.Every
	if a.dripEvery <= 0 {
		a.dripEvery = 10 * time.Millisecond
	}
}

func (c CutMessage) apply(a *answer) {
	after := c.After
	if after < 0 {
		after = max(0, after+2+a.len())
	}
	a.cut, a.cutAfter, a.reset = true, after, c.Reset
}

func (w WrongLength) apply(a *answer) { a.lie += w.Delta }
func (CloseAfter) apply(a *answer)    { a.closeAfter = true }
func (NoPipelining) apply(a *answer)  { a.discard = true }
func (Silence) apply(a *answer)       { a.silent = true }
func (Stall) apply(a *answer)         { a.stall = true }
func (d Delay) apply(a *answer)       { a.delay += d.For }
func (Late) apply(a *answer)          { a.late = true }
func (t Then) apply(a *answer)        { a.then = append(a.then, t.Do) }

// mustWire packs a name that a test wrote; one that is none is a mistake of
// the test.
func mustWire(name string) []byte {
	b, err := wireName(name)
	if err != nil {
		panic("dnstest: " + err.Error())
	}
	return b
}

func addrLen(family byte) int {
	if family == 1 {
		return 4
	}
	return 16
}
