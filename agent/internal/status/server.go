package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.org/threatstopd/agent/internal/frame"
)

// Listeners are where a daemon answers. A nil one is not served.
type Listeners struct {
	Full     net.Listener // every request
	ReadOnly net.Listener // askStatus only
	Metrics  net.Listener // HTTP: GET /metrics
}

// Close closes them all.
func (l Listeners) Close() {
	for _, x := range []net.Listener{l.Full, l.ReadOnly, l.Metrics} {
		if x != nil {
			x.Close()
		}
	}
}

// maxClients is how many each listener serves at a time. One more takes the place of the
// one that has said nothing for longest; where all have asked for something, it is told so
// and dropped.
const maxClients = 32

// How long a client may take: to make its request, to take its answer, to take one line
// of a sync, which waits for it.
const (
	requestTime = 5 * time.Second
	answerTime  = 5 * time.Second
	lineTime    = 2 * time.Second
)

// freshFor is how old a status may be for those who may only look: they can ask as often
// as they like, and filling in a status takes time.
const freshFor = time.Second

// Serve answers on l until ctx ends, and closes it then. It returns when the last client is
// gone, a few seconds later at most, unless Backend takes longer to notice that its
// contexts have ended.
func Serve(ctx context.Context, l Listeners, b Backend) {
	serve(ctx, l, b, deadlines{requestTime, answerTime, lineTime})
}

// deadlines are the deadlines, which tests cannot wait for.
type deadlines struct{ request, answer, line time.Duration }

func serve(ctx context.Context, l Listeners, b Backend, t deadlines) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &server{ctx: ctx, b: b, t: t, conns: make(map[net.Conn]struct{})}
	defer s.wg.Wait()
	if l.Full != nil {
		s.wg.Go(func() { s.accept(l.Full, false) })
	}
	if l.ReadOnly != nil {
		s.wg.Go(func() { s.accept(l.ReadOnly, true) })
	}
	if l.Metrics != nil {
		s.wg.Go(func() { s.serveMetrics(l.Metrics) })
	}
	<-ctx.Done()
	l.Close()
	// Those that have not asked for anything need not be waited for.
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.SetReadDeadline(time.Unix(1, 0))
	}
}

type server struct {
	ctx context.Context
	b   Backend
	t   deadlines
	wg  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}

	syncing, flushing sync.Mutex // tried, never waited for

	cacheMu  sync.Mutex
	cached   Status
	cachedAt time.Time
}

// busy is what a client is told for which there is no room.
const busy = "too many clients: try again"

// accept serves a listener until it is closed.
func (s *server) accept(l net.Listener, readOnly bool) {
	var r room
	// Those that have lost their place are there until they are told so: there are
	// never more files open than this.
	slots := make(chan struct{}, 2*maxClients)
	acceptAll(s.ctx, l, func(c net.Conn) {
		x := &client{Conn: c}
		if !r.enter(x) {
			// A new socket has room for this.
			s.say(c, sayError, []byte(busy), s.t.line)
			c.Close()
			return
		}
		s.track(c)
		slots <- struct{}{}
		s.wg.Go(func() {
			defer func() { <-slots }()
			defer r.leave(x)
			defer s.untrack(c)
			s.serve(x, readOnly)
		})
	})
}

// A client is a connection that was accepted.
type client struct {
	net.Conn
	state atomic.Int32
}

// States of a client. It is silent until its request has been read; then it asks, unless
// its place has been given to another one.
const (
	silent int32 = iota
	asking
	evicted
)

// ask says that the client's request is there. It is false for one that has no place any
// more.
func (c *client) ask() bool { return c.state.CompareAndSwap(silent, asking) }

// A room has the clients of a listener, the oldest first. Clients that connect and say
// nothing, however many, keep out nobody who has something to ask.
type room struct {
	mu      sync.Mutex
	clients []*client
}

// enter takes a client in, and reports whether there was a place for it.
func (r *room) enter(c *client) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.clients) >= maxClients {
		i := slices.IndexFunc(r.clients, func(x *client) bool { return x.state.CompareAndSwap(silent, evicted) })
		if i < 0 {
			return false
		}
		// Whoever serves it has nothing else to do than to tell it so and end.
		r.clients[i].SetReadDeadline(time.Unix(1, 0))
		r.clients = slices.Delete(r.clients, i, i+1)
	}
	r.clients = append(r.clients, c)
	return true
}

// leave takes a client out; one that was evicted is out already.
func (r *room) leave(c *client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients = slices.DeleteFunc(r.clients, func(x *client) bool { return x == c })
}

// acceptAll hands on connections until the listener is closed or ctx ends. Errors such as
// too many open files pass.
func acceptAll(ctx context.Context, l net.Listener, each func(net.Conn)) {
	const least, most = 5 * time.Millisecond, time.Second
	pause := least
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			pause = least
			each(c)
		case errors.Is(err, net.ErrClosed) || ctx.Err() != nil:
			return
		default:
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(2*pause, most)
		}
	}
}

func (s *server) track(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.SetReadDeadline(time.Now().Add(s.t.request))
	if s.ctx.Err() != nil {
		c.SetReadDeadline(time.Unix(1, 0))
	}
	s.conns[c] = struct{}{}
}

func (s *server) untrack(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	c.Close()
}

// serve answers one request. What cannot be said to the client is of interest to nobody.
func (s *server) serve(c *client, readOnly bool) {
	kind, payload, err := frame.NewReader(c, requests).Next()
	if !c.ask() {
		s.refuse(c, busy)
		return
	}
	if err != nil {
		for _, wrong := range []error{frame.ErrNotFrame, frame.ErrVersion, frame.ErrKind, frame.ErrTooLong} {
			if errors.Is(err, wrong) {
				s.refuse(c, "request not understood: %v", err)
			}
		}
		return // else it said nothing, or half of it
	}
	if readOnly && kind != askStatus {
		s.refuse(c, "this socket tells the status, and takes no other request")
		return
	}
	switch kind {
	case askStatus:
		s.status(c, readOnly)
	case askSync:
		if len(payload) != 1 || payload[0]&^askForce != 0 {
			s.refuse(c, "request not understood: sync with %x", payload)
			return
		}
		s.sync(c, payload[0]&askForce != 0)
	case askFlush:
		s.flush(c)
	}
}

// say sends a frame, and reports whether the client took it in time.
func (s *server) say(c net.Conn, kind byte, payload []byte, within time.Duration) bool {
	c.SetWriteDeadline(time.Now().Add(within))
	return frame.Write(c, kind, payload) == nil
}

func (s *server) refuse(c net.Conn, format string, args ...any) {
	s.say(c, sayError, []byte(clip(fmt.Sprintf(format, args...), maxText)), s.t.answer)
}

func (s *server) status(c net.Conn, mayBeOld bool) {
	var st Status
	if mayBeOld {
		st = s.recent()
	} else {
		st = cut(s.b.Status())
	}
	b, err := json.Marshal(st)
	if err != nil {
		s.refuse(c, "status: %v", err)
		return
	}
	if len(b) > maxStatus {
		s.refuse(c, "status: %d bytes, at most %d can be sent", len(b), maxStatus)
		return
	}
	s.say(c, sayStatus, b, s.t.answer)
}

// recent returns a status that may be a second old.
func (s *server) recent() Status {
	s.cacheMu.Lock()
	defer s.cacheMu.Unlock()
	if s.cachedAt.IsZero() || time.Since(s.cachedAt) >= freshFor {
		s.cached, s.cachedAt = cut(s.b.Status()), time.Now()
	}
	return s.cached
}

// sync carries out a sync, and goes on with it when the client has gone.
func (s *server) sync(c net.Conn, force bool) {
	if !s.syncing.TryLock() {
		s.refuse(c, "a sync is under way already: try again when it has ended")
		return
	}
	var mu sync.Mutex
	listens := true
	exit := s.b.Sync(s.ctx, force, func(line string, warn bool) {
		mu.Lock()
		defer mu.Unlock()
		if !listens {
			return
		}
		payload := []byte{0}
		if warn {
			payload[0] = lineWarn
		}
		listens = s.say(c, sayLine, append(payload, clip(line, maxText)...), s.t.line)
	})
	// A client that has its answer may ask again.
	s.syncing.Unlock()
	mu.Lock()
	defer mu.Unlock()
	if listens {
		s.say(c, sayDone, []byte{byte(exit)}, s.t.answer)
	}
}

// flush delivers what waits, for as long as the client does.
func (s *server) flush(c net.Conn) {
	if !s.flushing.TryLock() {
		s.refuse(c, "a flush is under way already: try again when it has ended")
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	c.SetReadDeadline(time.Time{})
	s.wg.Go(func() {
		// The client has nothing more to say: it has gone, or breaks the rules.
		c.Read(make([]byte, 1))
		cancel()
	})
	payload := []byte{0}
	if err := s.b.Flush(ctx); err != nil {
		payload = append([]byte{1}, clip(err.Error(), maxText)...)
	}
	s.flushing.Unlock()
	s.say(c, sayDone, payload, s.t.answer)
}
