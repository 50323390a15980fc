package dnsfetch

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// fakeServer is a policy server that does just what its handler says.
type fakeServer struct {
	addr string

	mu    sync.Mutex
	conns int
	log   []string // questions, as "name TYPE"
}

// fakeQuery is one query as it came.
type fakeQuery struct {
	msg  []byte
	name string // presentation form, lower case, no last dot
	typ  uint16
	conn int // connections are counted from 0
	nth  int // query on that connection, from 0
}

func (q fakeQuery) String() string { return q.name + " " + dns.Type(q.typ).String() }

// handler answers q on w; false closes the connection.
type handler func(w net.Conn, q fakeQuery) bool

// serve starts a server on 127.0.0.1 that handles each connection on its own, query by query.
func serve(t testing.TB, h handler) *fakeServer {
	t.Helper()
	return serveOn(t, "127.0.0.1:0", h)
}

func serveOn(t testing.TB, addr string, h handler) *fakeServer {
	t.Helper()
	return serveConns(t, addr, func(s *fakeServer, c net.Conn, n int) {
		r := bufio.NewReader(c)
		for nth := 0; ; nth++ {
			q, err := s.read(r)
			if err != nil {
				return
			}
			q.conn, q.nth = n, nth
			if !h(c, q) {
				return
			}
		}
	})
}

// serveConns starts a server that calls talk for each connection, and closes it when talk returns.
func serveConns(t testing.TB, addr string, talk func(s *fakeServer, c net.Conn, n int)) *fakeServer {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("no such address here: %v", err)
	}
	s := &fakeServer{addr: l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			s.mu.Lock()
			n := s.conns
			s.conns++
			s.mu.Unlock()
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer c.Close()
				talk(s, c, n)
			}()
		}
	}()
	return s
}

// read reads and logs a query.
func (s *fakeServer) read(r io.Reader) (fakeQuery, error) {
	q, err := readQuery(r)
	if err == nil {
		s.mu.Lock()
		s.log = append(s.log, q.String())
		s.mu.Unlock()
	}
	return q, err
}

func readQuery(r io.Reader) (fakeQuery, error) {
	var l [2]byte
	if _, err := io.ReadFull(r, l[:]); err != nil {
		return fakeQuery{}, err
	}
	q := fakeQuery{msg: make([]byte, binary.BigEndian.Uint16(l[:]))}
	if _, err := io.ReadFull(r, q.msg); err != nil {
		return fakeQuery{}, err
	}
	name, off, err := dns.UnpackDomainName(q.msg, headerLen)
	if err != nil {
		return fakeQuery{}, err
	}
	q.name = strings.ToLower(strings.TrimSuffix(name, "."))
	q.typ = binary.BigEndian.Uint16(q.msg[off:])
	return q, nil
}

func (s *fakeServer) seen() (conns int, log []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns, slices.Clone(s.log)
}

// asked counts how often a question was asked.
func (s *fakeServer) asked(question string) (n int) {
	_, log := s.seen()
	for _, q := range log {
		if q == question {
			n++
		}
	}
	return n
}

// write frames and sends msg.
func write(w net.Conn, msg []byte) bool {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
	return err == nil
}

// reply begins the answer to q: the header and the question, with QR and AA set.
func reply(q fakeQuery, rcode byte) []byte {
	m := slices.Clone(q.msg)
	m[2] |= flagQR | flagAA
	m[3] = rcode
	return m
}

// rr is a record whose owner is the question's name unless given.
type rr struct {
	owner string
	typ   uint16 // 0: the question's
	class uint16 // 0: IN
	rdata []byte
}

// section counts of a header
const (
	atAnswer     = 6
	atAuthority  = 8
	atAdditional = 10
)

// add appends records to m and counts them in the section whose count is at offset at.
func add(m []byte, q fakeQuery, at int, rrs ...rr) []byte {
	for _, r := range rrs {
		if r.owner == "" {
			m = append(m, 0xc0, headerLen)
		} else {
			m = append(m, mustPack(r.owner)...)
		}
		if r.typ == 0 {
			r.typ = q.typ
		}
		if r.class == 0 {
			r.class = dns.ClassINET
		}
		m = binary.BigEndian.AppendUint16(m, r.typ)
		m = binary.BigEndian.AppendUint16(m, r.class)
		m = binary.BigEndian.AppendUint32(m, 7200)
		m = binary.BigEndian.AppendUint16(m, uint16(len(r.rdata)))
		m = append(m, r.rdata...)
	}
	binary.BigEndian.PutUint16(m[at:], binary.BigEndian.Uint16(m[at:])+uint16(len(rrs)))
	return m
}

// mustPack returns the wire form of a name.
func mustPack(s string) []byte {
	wire := make([]byte, maxNameLen)
	n, err := dns.PackDomainName(dns.Fqdn(s), wire, 0, nil, false)
	if err != nil {
		panic(s + ": " + err.Error())
	}
	return wire[:n]
}

func mustName(s string) string {
	n, err := parseName(s)
	if err != nil {
		panic(s + ": " + err.Error())
	}
	return n
}

// mustAPL makes APL rdata of "192.0.2.0/24 !192.0.2.1/32" and the like.
func mustAPL(items string) []byte {
	rdata := []byte{}
	for _, s := range strings.Fields(items) {
		s, not := strings.CutPrefix(s, "!")
		rdata = encodeAPL(rdata, MakeEntry(netip.MustParsePrefix(s), not))
	}
	return rdata
}

// zone maps "name TYPE" to the rdata of each record there.
type zone map[string][][]byte

func (z zone) apl(name string, items ...string) zone {
	for _, i := range items {
		z[name+" APL"] = append(z[name+" APL"], mustAPL(i))
	}
	return z
}

func (z zone) ptr(name string, targets ...string) zone {
	for _, t := range targets {
		z[name+" PTR"] = append(z[name+" PTR"], mustPack(t))
	}
	return z
}

func (z zone) addr(name string, addrs ...string) zone {
	for _, s := range addrs {
		a := netip.MustParseAddr(s)
		key := name + " A"
		if a.Is6() {
			key = name + " AAAA"
		}
		z[key] = append(z[key], a.AsSlice())
	}
	return z
}

// answer is what an authoritative server for z would say to q.
func (z zone) answer(q fakeQuery) []byte {
	rdatas, ok := z[q.String()]
	if !ok {
		rcode := byte(dns.RcodeNameError)
		for key := range z {
			if n, _, _ := strings.Cut(key, " "); n == q.name || strings.HasSuffix(n, "."+q.name) {
				rcode = dns.RcodeSuccess
			}
		}
		soa := append(mustPack("ns."+q.name), mustPack("hostmaster.")...)
		soa = append(soa, make([]byte, 20)...)
		return add(reply(q, rcode), q, atAuthority, rr{owner: "threatstop.local", typ: dns.TypeSOA, rdata: soa})
	}
	m := reply(q, 0)
	for _, rdata := range rdatas {
		m = add(m, q, atAnswer, rr{rdata: rdata})
	}
	return m
}

// serves answers from z.
func (z zone) serves(w net.Conn, q fakeQuery) bool { return write(w, z.answer(q)) }

// with returns a handler that gives answers from z, except to question.
func (z zone) with(question string, h handler) handler {
	return func(w net.Conn, q fakeQuery) bool {
		if q.String() == question {
			return h(w, q)
		}
		return z.serves(w, q)
	}
}

// changed is a handler that gives the answer from z as mutate leaves it.
func (z zone) changed(mutate func(m []byte) []byte) handler {
	return func(w net.Conn, q fakeQuery) bool { return write(w, mutate(z.answer(q))) }
}

// client returns a client for servers that has time to wait for slow machines.
func client(t testing.TB, o Options, servers ...string) *Client {
	t.Helper()
	if o.Servers == nil {
		o.Servers = servers
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Resolver == nil {
		o.Resolver = noResolver(t)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func entries(l *List) []string {
	var out []string
	for _, e := range slices.Concat(l.Chunks...) {
		out = append(out, e.String())
	}
	slices.Sort(out)
	return out
}

func fields(s string) []string {
	out := strings.Fields(s)
	slices.Sort(out)
	return out
}
