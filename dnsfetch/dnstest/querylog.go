package dnstest

import (
	"net/netip"
	"sync"
	"time"
)

// Query is a question that the server was asked, and what became of it.
type Query struct {
	Time    time.Time
	Net     string // "tcp" or "udp"
	Conn    int    // number of the TCP connection, from 1, in the order they came
	Remote  netip.AddrPort
	ID      uint16
	Name    string // as asked, with the final dot; "" if the question could not be read
	Type    uint16
	Class   uint16
	List    string   // list that it is about, lower case, no final dot; "" for none
	Part    int      // part of that list, from 1; 0 for none
	Rcode   int      // of the answer, as are the following
	Records int      // that the header counts in its answer section
	Bytes   int      // length of the message
	Faults  []string // that affected it
}

// Stats are counts since the server was started or ResetStats was called.
type Stats struct {
	Conns   int   // TCP connections accepted
	MaxOpen int   // most of them open at one time
	TCP     int   // questions over TCP
	UDP     int   // questions over UDP
	Faulty  int   // answers that a fault affected
	Bytes   int64 // of all answers
}

type queryLog struct {
	mu    sync.Mutex
	keep  int
	ring  []Query
	next  int // where the ring is written next, once it is full
	stats Stats
}

func (l *queryLog) connected(open int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Conns++
	l.stats.MaxOpen = max(l.stats.MaxOpen, open)
}

func (l *queryLog) add(q Query) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if q.Net == "udp" {
		l.stats.UDP++
	} else {
		l.stats.TCP++
	}
	if len(q.Faults) > 0 {
		l.stats.Faulty++
	}
	l.stats.Bytes += int64(q.Bytes)
	if len(l.ring) < l.keep {
		l.ring = append(l.ring, q)
		return
	}
	l.ring[l.next] = q
	l.next = (l.next + 1) % l.keep
}

// Queries returns the questions that were asked, oldest first: the last
// Options.KeepQueries of them.
func (s *Server) Queries() []Query {
	l := &s.logged
	l.mu.Lock()
	defer l.mu.Unlock()
	return append(append([]Query(nil), l.ring[l.next:]...), l.ring[:l.next]...)
}

// Stats returns the server's counts.
func (s *Server) Stats() Stats {
	s.logged.mu.Lock()
	defer s.logged.mu.Unlock()
	return s.logged.stats
}

// ResetStats sets the counts to zero and forgets the questions.
func (s *Server) ResetStats() {
	l := &s.logged
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats, l.ring, l.next = Stats{}, nil, 0
}
