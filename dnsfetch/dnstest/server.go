package dnstest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Options are a server's settings; the zero value is right for tests.
type Options struct {
	// Addr is the address and port to listen on; "" is 127.0.0.1:0, any free
	// port of the loopback interface.
	Addr string
	// Zone is the zone that the server answers for; "" is the root: every name
	// is the server's. It refuses (REFUSED) questions about names outside.
	Zone string
	// Clients are the networks whose questions are answered; nil is every one.
	// Others are refused, as by a policy server that does not know a device.
	Clients []netip.Prefix
	// Idle is how long a connection without a question is kept; 0 is without limit.
	Idle time.Duration
	// KeepQueries is how many questions Queries remembers; 0 is 10,000.
	KeepQueries int
	// Log is called for each question when its answer is made; calls may overlap.
	Log func(Query)
}

// Server is a policy server. Its methods may be called at any time from any
// goroutine.
type Server struct {
	opts   Options
	zone   []byte // wire form
	addr   netip.AddrPort
	done   chan struct{} // closed by Close
	wg     sync.WaitGroup
	logged queryLog

	mu      sync.Mutex
	nodes   map[string]*node
	lists   map[string][]string // canonical list name → keys of its nodes
	soa     []byte              // the SOA record of a negative answer, its owner in full
	faults  []*Injection
	tcp     net.Listener
	udp     net.PacketConn
	conns   map[*conn]bool
	connSeq int
	closed  bool
}

// Start starts a server without lists. It listens on TCP, and on the same port
// of UDP, where it answers nothing but "ask over TCP".
func Start(o Options) (*Server, error) {
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	s, err := newServer(o)
	if err != nil {
		return nil, fmt.Errorf("policy server: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.listen(o.Addr); err != nil {
		return nil, fmt.Errorf("policy server: %w", err)
	}
	return s, nil
}

// newServer makes a server that does not listen yet.
func newServer(o Options) (*Server, error) {
	if o.Zone == "" {
		o.Zone = "."
	}
	zone, err := wireName(o.Zone)
	if err != nil {
		return nil, fmt.Errorf("zone: %w", err)
	}
	s := &Server{
		opts:  o,
		zone:  zone,
		done:  make(chan struct{}),
		nodes: make(map[string]*node),
		lists: make(map[string][]string),
		conns: make(map[*conn]bool),
	}
	s.logged.keep = o.KeepQueries
	if s.logged.keep <= 0 {
		s.logged.keep = 10_000
	}
	if err := s.makeZone(); err != nil {
		return nil, fmt.Errorf("zone %s: %w", o.Zone, err)
	}
	return s, nil
}

// makeZone makes the records of the zone itself.
func (s *Server) makeZone() error {
	soa, ns := zoneRecords(dns.Fqdn(s.opts.Zone), 1)
	apex := &node{name: canonical(s.opts.Zone), sets: make(map[uint16]*rrset)}
	for _, rr := range []dns.RR{soa, ns} {
		buf := make([]byte, 1024)
		n, err := dns.PackRR(rr, buf, 0, nil, false)
		if err != nil {
			return err
		}
		apex.sets[rr.Header().Rrtype] = &rrset{records: 1, body: buf[:n]}
	}
	s.soa = apex.sets[dns.TypeSOA].body
	s.nodes[key(s.zone)] = apex
	return nil
}

// listen opens both sockets. A port chosen by the system may be free for only one of them; then it
// chooses again.
func (s *Server) listen(addr string) error {
	for try := 0; ; try++ {
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err != nil {
			tcp.Close()
			if _, port, _ := net.SplitHostPort(addr); port == "0" && try < 20 {
				continue
			}
			return err
		}
		s.tcp, s.udp = tcp, udp
		s.addr = tcp.Addr().(*net.TCPAddr).AddrPort()
		s.wg.Add(2)
		go s.accept(tcp)
		go s.serveUDP(udp)
		return nil
	}
}

// Addr returns the address and port that the server listens on.
func (s *Server) Addr() string { return s.AddrPort().String() }

// AddrPort returns the address and port that the server listens on.
func (s *Server) AddrPort() netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return netip.AddrPortFrom(s.addr.Addr().Unmap(), s.addr.Port())
}

// Down closes every connection and stops listening: connections are refused
// from then on. Lists, faults and counts are kept.
func (s *Server) Down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down()
}

func (s *Server) down() {
	if s.tcp != nil {
		s.tcp.Close()
		s.udp.Close()
		s.tcp, s.udp = nil, nil
	}
	for c := range s.conns {
		c.Close()
	}
}

// Up listens again, on the same address and port, after Down. It fails if
// another has taken the port.
func (s *Server) Up() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return fmt.Errorf("policy server: %w", net.ErrClosed)
	case s.tcp != nil:
		return nil
	}
	if err := s.listen(s.addr.String()); err != nil {
		return fmt.Errorf("policy server: %w", err)
	}
	return nil
}

// Close stops the server and returns when all connections are closed. It may be called again.
func (s *Server) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.done)
	}
	s.down()
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// Set adds lists or puts them in the place of others of the same name, all in
// one step, or none if one of them cannot be served: because its answers do not
// fit in messages, because it lies outside the zone, or because its names are
// another list's.
func (s *Server) Set(lists ...List) error {
	laid := make([]map[string]*node, len(lists))
	for i := range lists {
		nodes, err := lists[i].nodes()
		if err != nil {
			return err
		}
		zone := key(s.zone)
		for k, n := range nodes {
			if !inZone(k, zone) || k == zone {
				return fmt.Errorf("list %s: %s is not below the zone %s", lists[i].Name, n.name, s.opts.Zone)
			}
		}
		laid[i] = nodes
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	owner := make(map[string]string) // keys of the new nodes → their list
	replaced := make(map[string]bool)
	for i := range lists {
		name := canonical(lists[i].Name)
		replaced[name] = true
		for k, n := range laid[i] {
			if other, ok := owner[k]; ok {
				return fmt.Errorf("list %s: %s belongs to list %s", name, n.name, other)
			}
			owner[k] = name
		}
	}
	for k, name := range owner {
		switch n := s.nodes[k]; {
		case n == nil || replaced[n.list]:
		case n.list == "":
			return fmt.Errorf("list %s: %s belongs to the zone", name, n.name)
		default:
			return fmt.Errorf("list %s: %s belongs to list %s", name, n.name, n.list)
		}
	}
	for i := range lists {
		s.remove(canonical(lists[i].Name))
	}
	for i := range lists {
		name := canonical(lists[i].Name)
		for k, n := range laid[i] {
			s.nodes[k] = n
			s.lists[name] = append(s.lists[name], k)
		}
	}
	return nil
}

// Remove takes lists away; names that are none are no error.
func (s *Server) Remove(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		s.remove(canonical(name))
	}
}

func (s *Server) remove(name string) {
	for _, k := range s.lists[name] {
		delete(s.nodes, k)
	}
	delete(s.lists, name)
}

// Lists returns the names of the lists, sorted, without final dots.
func (s *Server) Lists() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.lists))
	for name := range s.lists {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// inZone reports whether a name is zone or below, both as keys. A suffix counts
// only at a label's boundary.
func inZone(name, zone string) bool {
	for len(name) > len(zone) {
		name = name[1+int(name[0]):]
	}
	return name == zone
}

// exists reports whether a name exists because something below it does (RFC 8020):
// then it has no records, but is no NXDOMAIN either.
func (s *Server) exists(k string) bool {
	for name := range s.nodes {
		if len(name) > len(k) && inZone(name, k) {
			return true
		}
	}
	return false
}

func (s *Server) accept(l net.Listener) {
	defer s.wg.Done()
	for {
		nc, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, or a client that was gone before it was
			// accepted: neither is a reason to stop.
			if !s.sleep(10 * time.Millisecond) {
				return
			}
			continue
		}
		s.mu.Lock()
		if s.tcp != l {
			s.mu.Unlock()
			nc.Close()
			continue
		}
		s.connSeq++
		c := &conn{Conn: nc, s: s, seq: s.connSeq, remote: nc.RemoteAddr().(*net.TCPAddr).AddrPort(),
			done: make(chan struct{})}
		s.conns[c] = true
		s.logged.connected(len(s.conns))
		s.wg.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.wg.Done()
			c.serve()
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		}()
	}
}

// sleep waits, and reports whether the server still runs.
func (s *Server) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.done:
		return false
	}
}

// serveUDP answers everything with TC, so that the client turns to TCP.
func (s *Server) serveUDP(pc net.PacketConn) {
	defer s.wg.Done()
	buf := make([]byte, maxMessage)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || !s.sleep(time.Millisecond) {
				return
			}
			continue
		}
		m := buf[:n]
		q, ok := parseQuery(m)
		if !ok {
			continue
		}
		q.Net = "udp"
		q.Remote = from.(*net.UDPAddr).AddrPort()
		a := newAnswer(q, m)
		a.flags |= flagTC
		q.Rcode = dns.RcodeSuccess
		out := flatten(a.buffers())[2:]
		q.Bytes = len(out)
		s.logged.add(q)
		if s.opts.Log != nil {
			s.opts.Log(q)
		}
		pc.WriteTo(out, from)
	}
}

// conn is a connection.
type conn struct {
	net.Conn
	s      *Server
	seq    int
	remote netip.AddrPort
	held   []net.Buffers // late answers
	once   sync.Once
	done   chan struct{} // closed by Close
}

// moment is how long a connection waits for the next question, if a fault concerns it.
const moment = 50 * time.Millisecond

func (c *conn) serve() {
	r := bufio.NewReaderSize(c.Conn, 8192)
	var buf []byte
	for {
		wait := c.s.opts.Idle
		if len(c.held) > 0 {
			wait = moment
		}
		var deadline time.Time
		if wait > 0 {
			deadline = time.Now().Add(wait)
		}
		c.SetReadDeadline(deadline)
		m, err := readMessage(r, buf)
		if err != nil {
			var ne net.Error
			if len(c.held) > 0 && errors.As(err, &ne) && ne.Timeout() && c.release() {
				continue
			}
			return
		}
		buf = m
		if !c.answer(m, r) {
			return
		}
	}
}

// readMessage reads one message, into buf if it is large enough. A time-out
// before its first byte loses nothing.
func readMessage(r *bufio.Reader, buf []byte) ([]byte, error) {
	head, err := r.Peek(2)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head))
	r.Discard(2)
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err = io.ReadFull(r, buf)
	return buf, err
}

// release sends the late answers.
func (c *conn) release() bool {
	for _, b := range c.held {
		if _, err := b.WriteTo(c.Conn); err != nil {
			return false
		}
	}
	c.held = nil
	return true
}

// answer answers one question and reports whether the connection stays open.
func (c *conn) answer(m []byte, r *bufio.Reader) bool {
	q, ok := parseQuery(m)
	if !ok {
		return false
	}
	q.Net, q.Conn, q.Remote = "tcp", c.seq, c.remote
	a := c.s.resolve(&q, m)
	for _, do := range a.then {
		do()
	}
	if a.delay > 0 && !c.sleep(a.delay) {
		return false
	}
	switch {
	case a.stall:
		<-c.done
		return false
	case a.silent:
		return true
	case a.late:
		c.held = append(c.held, a.buffers())
		return true
	}
	if a.discard {
		c.SetReadDeadline(time.Now().Add(moment))
		for {
			if _, err := r.Discard(max(1, r.Buffered())); err != nil {
				break
			}
		}
	}
	if !c.send(a) || !c.release() {
		return false
	}
	if a.closeAfter {
		c.finish()
		return false
	}
	return true
}

// Close closes the connection and ends what it waits for.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.done) })
	return c.Conn.Close()
}

// sleep waits, and reports whether the connection was left open.
func (c *conn) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.done:
		return false
	}
}

// send sends an answer as its faults require and reports whether the
// connection stays open.
func (c *conn) send(a *answer) bool {
	bufs := a.buffers()
	if !a.cut && a.drip == 0 {
		_, err := bufs.WriteTo(c.Conn)
		return err == nil
	}
	b := flatten(bufs)
	if a.cut {
		b = b[:min(len(b), a.cutAfter)]
	}
	step := len(b)
	if a.drip > 0 {
		step = a.drip
	}
	for len(b) > 0 {
		n := min(step, len(b))
		if _, err := c.Write(b[:n]); err != nil {
			return false
		}
		if b = b[n:]; len(b) > 0 && !c.sleep(a.dripEvery) {
			return false
		}
	}
	switch {
	case a.cut && a.reset:
		if tc, ok := c.Conn.(*net.TCPConn); ok {
			tc.SetLinger(0)
		}
		return false
	case a.cut:
		c.finish()
		return false
	}
	return true
}

// finish ends the connection so that what was sent arrives: to close a socket
// with questions unread in it would reset the connection, and the client might
// lose the answer.
func (c *conn) finish() {
	tc, ok := c.Conn.(*net.TCPConn)
	if !ok || tc.CloseWrite() != nil {
		return
	}
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	io.Copy(io.Discard, c.Conn)
}

func flatten(bufs net.Buffers) []byte {
	var out []byte
	for _, b := range bufs {
		out = append(out, b...)
	}
	return out
}

// parseQuery reads a question's header and, as far as it goes, its question. A
// message that is not even a query is not answered.
func parseQuery(m []byte) (Query, bool) {
	if len(m) < headerLen || binary.BigEndian.Uint16(m[2:])&flagQR != 0 {
		return Query{}, false
	}
	q := Query{Time: time.Now(), ID: binary.BigEndian.Uint16(m)}
	if end := questionEnd(m); end > 0 {
		name, _, err := dns.UnpackDomainName(m[:end], headerLen)
		if err == nil {
			q.Name = name
			q.Type = binary.BigEndian.Uint16(m[end-4:])
			q.Class = binary.BigEndian.Uint16(m[end-2:])
		}
	}
	return q, true
}

// questionEnd returns where a message's one question ends, 0 if there is not
// exactly one, uncompressed.
func questionEnd(m []byte) int {
	if binary.BigEndian.Uint16(m[4:]) != 1 {
		return 0
	}
	off := headerLen
	for {
		if off >= len(m) || m[off] > 63 || off-headerLen > 254 {
			return 0
		}
		if m[off] == 0 {
			break
		}
		off += 1 + int(m[off])
	}
	if off+5 > len(m) {
		return 0
	}
	return off + 5
}

// newAnswer begins the answer to a query.
func newAnswer(q Query, m []byte) *answer {
	a := &answer{id: q.ID}
	asked := binary.BigEndian.Uint16(m[2:])
	a.flags = flagQR | asked&(flagOpcode|flagRD)
	if end := questionEnd(m); end > 0 {
		a.qdcount, a.question = 1, append([]byte(nil), m[headerLen:end]...)
	}
	return a
}

// resolve makes the answer to a query, and logs it.
func (s *Server) resolve(q *Query, m []byte) *answer {
	a := newAnswer(*q, m)
	s.mu.Lock()
	switch {
	case a.qdcount == 0:
		a.rcode = dns.RcodeFormatError
	case a.flags&flagOpcode != 0:
		a.rcode = dns.RcodeNotImplemented
	default:
		s.lookup(q, a)
	}
	// No fault is applied under the lock; Then's function may call the server.
	var faults []Fault
	for _, in := range s.faults {
		if !in.on.matches(*q) {
			continue
		}
		in.seen++
		if in.on.Nth > 0 && in.seen != in.on.Nth || in.seen < in.on.From {
			continue
		}
		in.fired++
		faults = append(faults, in.fault)
	}
	s.mu.Unlock()
	for _, f := range faults {
		f.apply(a)
		q.Faults = append(q.Faults, faultName(f))
	}
	q.Rcode, q.Records, q.Bytes = a.rcode, a.count, a.len()
	s.logged.add(*q)
	if s.opts.Log != nil {
		s.opts.Log(*q)
	}
	return a
}

// lookup answers from the lists, under the server's lock.
func (s *Server) lookup(q *Query, a *answer) {
	k := key(a.question[:len(a.question)-4])
	switch {
	case !s.allowed(q.Remote.Addr().Unmap()),
		q.Class != dns.ClassINET,
		q.Type == dns.TypeAXFR || q.Type == dns.TypeIXFR || q.Type == dns.TypeANY,
		!inZone(k, key(s.zone)):
		a.rcode = dns.RcodeRefused
		return
	}
	a.flags |= flagAA
	n := s.nodes[k]
	if n != nil {
		q.List, q.Part = n.list, n.part
		if set := n.sets[q.Type]; set != nil {
			a.count, a.body = set.records, set.body
			return
		}
	} else {
		// What is below a list belongs to it for On.List, part or no part.
		name := canonical(q.Name)
		for list := range s.lists {
			if name == list || strings.HasSuffix(name, "."+list) {
				q.List = list
			}
		}
		if !s.exists(k) {
			a.rcode = dns.RcodeNameError
		}
	}
	a.nscount, a.authority = 1, s.soa
}

func (s *Server) allowed(client netip.Addr) bool {
	if s.opts.Clients == nil {
		return true
	}
	for _, p := range s.opts.Clients {
		if p.Contains(client) {
			return true
		}
	}
	return false
}
