package dnsfetch

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// manyParts is a list of n parts with one entry each, and the entries.
func manyParts(n int) (zone, []string) {
	z := zone{}
	var want []string
	for i := range n {
		part := fmt.Sprintf("%03d-netb.%s", i, list)
		e := fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)
		z.ptr(list, part).apl(part, e)
		want = append(want, e)
	}
	slices.Sort(want)
	return z, want
}

// TestHabits fetches from servers that do less than RFC 7766 asks of them.
func TestHabits(t *testing.T) {
	z, want := manyParts(60)
	var one sync.Mutex
	// oneAtATime serves no second connection before the first is closed.
	oneAtATime := func(s *fakeServer, c net.Conn, _ int) {
		one.Lock()
		defer one.Unlock()
		for {
			q, err := s.read(c)
			if err != nil || !z.serves(c, q) {
				return
			}
		}
	}
	for _, tt := range []struct {
		name string
		opt  Options
		talk func(s *fakeServer, c net.Conn, n int)
	}{
		{name: "a query a connection", talk: func(s *fakeServer, c net.Conn, _ int) {
			r := bufio.NewReader(c)
			if q, err := s.read(r); err == nil {
				z.serves(c, q)
				drain(c, r)
			}
		}},
		{name: "a query a connection, reset", talk: func(s *fakeServer, c net.Conn, _ int) {
			if q, err := s.read(c); err == nil {
				z.serves(c, q)
				c.(*net.TCPConn).SetLinger(0)
			}
		}},
		{name: "seven queries a connection", talk: func(s *fakeServer, c net.Conn, _ int) {
			r := bufio.NewReader(c)
			for range 7 {
				if q, err := s.read(r); err != nil || !z.serves(c, q) {
					return
				}
			}
			drain(c, r)
		}},
		{name: "drops what comes before it has answered", opt: Options{Timeout: time.Second}, talk: func(s *fakeServer, c net.Conn, _ int) {
			r := bufio.NewReader(c)
			for {
				q, err := s.read(r)
				if err != nil {
					return
				}
				r.Discard(r.Buffered())
				if !z.serves(c, q) {
					return
				}
			}
		}},
		{name: "one connection at a time", talk: oneAtATime},
		{name: "one connection, others are closed", talk: func(s *fakeServer, c net.Conn, n int) {
			if n == 0 {
				for {
					q, err := s.read(c)
					if err != nil || !z.serves(c, q) {
						return
					}
				}
			}
		}},
		{name: "answers in another order", talk: func(s *fakeServer, c net.Conn, _ int) {
			r := bufio.NewReader(c)
			for {
				q, err := s.read(r)
				if err != nil {
					return
				}
				batch := []fakeQuery{q}
				for r.Buffered() > 0 {
					if q, err = s.read(r); err != nil {
						return
					}
					batch = append(batch, q)
				}
				slices.Reverse(batch)
				for _, q := range batch {
					if !z.serves(c, q) {
						return
					}
				}
			}
		}},
		{name: "two connections break in mid-message", talk: func(s *fakeServer, c net.Conn, n int) {
			r := bufio.NewReader(c)
			for i := 0; ; i++ {
				q, err := s.read(r)
				if err != nil {
					return
				}
				if n < 2 && i == 3+n {
					c.Write([]byte{0, 99, 1, 2, 3})
					return
				}
				if !z.serves(c, q) {
					return
				}
			}
		}},
		{name: "all in one segment", talk: func(s *fakeServer, c net.Conn, _ int) {
			r := bufio.NewReader(c)
			w := bufio.NewWriterSize(c, 1<<16)
			for {
				q, err := s.read(r)
				if err != nil {
					return
				}
				m := z.answer(q)
				w.Write([]byte{byte(len(m) >> 8), byte(len(m))})
				w.Write(m)
				if r.Buffered() == 0 && w.Flush() != nil {
					return
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serveConns(t, "127.0.0.1:0", tt.talk)
			c := client(t, tt.opt, s.addr)
			l, err := c.Fetch(t.Context(), Request{Name: list})
			if err != nil {
				t.Fatal(err)
			}
			if got := entries(l); !slices.Equal(got, want) {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestSlowButSteady fetches a list that takes many times Timeout, an answer at a time.
func TestSlowButSteady(t *testing.T) {
	t.Parallel()
	z, want := manyParts(40)
	s := serve(t, func(w net.Conn, q fakeQuery) bool {
		time.Sleep(50 * time.Millisecond)
		return z.serves(w, q)
	})
	l, err := client(t, Options{Timeout: 500 * time.Millisecond}, s.addr).Fetch(t.Context(), Request{Name: list})
	if err != nil {
		t.Fatal(err)
	}
	if got := entries(l); !slices.Equal(got, want) || l.Elapsed < 2*time.Second {
		t.Errorf("in %v got %v", l.Elapsed, got)
	}
}

// shy is a server that answers one query on a connection, and whose port is closed for a while after
// each, or, after so many connections, for ever.
func shy(t *testing.T, z zone, pause time.Duration, conns int) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	wg.Go(func() {
		for range conns {
			c, err := l.Accept()
			l.Close()
			if err != nil {
				return
			}
			if q, err := readQuery(c); err == nil {
				z.serves(c, q)
			}
			c.Close()
			time.Sleep(pause)
			if l, err = net.Listen("tcp", addr); err != nil {
				t.Error(err)
				return
			}
		}
		l.Close()
	})
	return addr
}

// TestRefusedAfterProgress: connections that are refused do not end a list as long as some of it comes
// in between.
func TestRefusedAfterProgress(t *testing.T) {
	t.Parallel()
	z, want := manyParts(12)
	l, err := client(t, Options{}, shy(t, z, 120*time.Millisecond, 1+12+1)).Fetch(t.Context(), Request{Name: list})
	if err != nil {
		t.Fatal(err)
	}
	if got := entries(l); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	_, err = client(t, Options{}, shy(t, z, 0, 5)).Fetch(t.Context(), Request{Name: list})
	var e *Error
	if !errors.As(err, &e) || e.Kind != KindFailed || !errors.Is(err, ErrConnect) {
		t.Errorf("a server that has gone: error %v", err)
	}
}

// drain closes c in such a way that its client sees an orderly end, even if it still sends.
func drain(c net.Conn, r *bufio.Reader) {
	c.(*net.TCPConn).CloseWrite()
	r.WriteTo(discard{})
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// TestUnderWay checks that no more queries are under way than Pipeline allows, on one connection.
func TestUnderWay(t *testing.T) {
	z, want := manyParts(100)
	var mu sync.Mutex
	now, most := 0, 0
	s := serveConns(t, "127.0.0.1:0", func(s *fakeServer, c net.Conn, _ int) {
		answers := make(chan fakeQuery, 1000)
		defer close(answers)
		go func() {
			for q := range answers {
				time.Sleep(2 * time.Millisecond) // for the client to send all that it will
				mu.Lock()
				now--
				mu.Unlock()
				z.serves(c, q)
			}
		}()
		r := bufio.NewReader(c)
		for {
			q, err := s.read(r)
			if err != nil {
				return
			}
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			answers <- q
		}
	})
	l, err := client(t, Options{Pipeline: 5}, s.addr).Fetch(t.Context(), Request{Name: list})
	if err != nil {
		t.Fatal(err)
	}
	if got := entries(l); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if conns, _ := s.seen(); most > 5 || most < 2 || conns != 1 {
		t.Errorf("%d queries under way, %d connections", most, conns)
	}
}
