package status

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Service is what the daemon does for the clients of its sockets. Its functions are called from
// several goroutines.
type Service struct {
	// Status returns what is known now. It waits neither for the network nor for the disk.
	Status func() Status
	// Sync fetches the policy, enforces it, and returns the exit status of --sync-now. force
	// enforces also a table that shrank too much. say takes a line of progress, warn set for
	// standard error, and waits at most 2 s; Sync calls it from one goroutine. One Sync runs
	// at a time. It continues when its client has gone; ctx ends when the daemon does.
	Sync func(ctx context.Context, force bool, say func(line string, warn bool)) (exit int)
	// Location is the zone of the times in text.
	Location *time.Location
}

// An Event is one line of the answer to POST /sync: a line of text or, as the last, Exit. An
// answer without Exit was cut off.
type Event struct {
	Text string `json:"text,omitempty"`
	Warn bool   `json:"warn,omitempty"` // for standard error
	Exit *int   `json:"exit,omitempty"` // exit status of --sync-now
}

// maxClients is how many connections each listener admits.
const maxClients = 32

// limits are how long a client may take: for its request, for its answer, for one line of a sync.
type limits struct{ request, answer, line time.Duration }

// Serve answers on l until ctx ends, and closes it. It returns when the last client is gone,
// a few seconds later, unless Sync takes longer to notice the end of its context.
func Serve(ctx context.Context, l Listeners, s Service) {
	serve(ctx, l, s, limits{request: 5 * time.Second, answer: 5 * time.Second, line: 2 * time.Second})
}

func serve(ctx context.Context, l Listeners, s Service, t limits) {
	x := &server{Service: s, ctx: ctx, t: t}
	metrics := http.NewServeMux()
	metrics.HandleFunc("GET /metrics", x.reply("text/plain; version=0.0.4; charset=utf-8",
		func(st *Status, w io.Writer, _ *http.Request) error { return st.WriteMetrics(w) }))
	readOnly := http.NewServeMux()
	readOnly.Handle("/metrics", metrics)
	readOnly.HandleFunc("GET /{$}", x.reply("text/html; charset=utf-8",
		func(st *Status, w io.Writer, _ *http.Request) error { return st.WritePage(w, s.Location) }))
	readOnly.HandleFunc("GET /status", x.reply("application/json",
		func(st *Status, w io.Writer, _ *http.Request) error { return st.WriteJSON(w) }))
	readOnly.HandleFunc("GET /status.txt", x.reply("text/plain; charset=us-ascii",
		func(st *Status, w io.Writer, r *http.Request) error {
			return st.WriteText(w, s.Location, r.URL.Query().Has("v"))
		}))
	full := http.NewServeMux()
	full.Handle("/", readOnly)
	full.HandleFunc("POST /sync", x.sync)

	var tasks sync.WaitGroup
	for _, y := range []struct {
		net.Listener
		http.Handler
	}{{l.Full, full}, {l.ReadOnly, readOnly}, {l.Metrics, metrics}, {l.Page, hosts(readOnly)}} {
		if y.Listener != nil {
			tasks.Go(func() { x.listen(y.Listener, y.Handler) })
		}
	}
	<-ctx.Done()
	tasks.Wait()
}

type server struct {
	Service
	ctx     context.Context
	t       limits
	syncing sync.Mutex // tried, never waited for
}

// listen serves one listener until ctx ends. A connection has one request: idle ones would keep others out.
func (s *server) listen(l net.Listener, h http.Handler) {
	r := &room{Listener: l}
	srv := &http.Server{
		Handler:                      crashing{h},
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            s.t.request,
		ReadTimeout:                  s.t.request,
		WriteTimeout:                 s.t.answer,
		MaxHeaderBytes:               8 << 10,
		ConnState:                    r.state,
		ErrorLog:                     log.New(io.Discard, "", 0),
	}
	srv.SetKeepAlivesEnabled(false)
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.Serve(r)
	}()
	<-s.ctx.Done()
	r.end() // Shutdown would wait five seconds for them
	ctx, cancel := context.WithTimeout(context.Background(), s.t.answer)
	defer cancel()
	if srv.Shutdown(ctx) != nil {
		srv.Close()
	}
	<-served
}

// crashing is a Handler whose panic ends the process like any other: net/http would only drop the connection.
type crashing struct{ http.Handler }

func (h crashing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			go panic(p)
			select {}
		}
	}()
	h.Handler.ServeHTTP(w, r)
}

// A room has the connections of a listener, the oldest first. Clients that connect and send
// no request keep nobody out.
type room struct {
	net.Listener
	mu    sync.Mutex
	conns []*conn
	ended bool
}

type conn struct {
	net.Conn
	asks bool // it has sent a request; in state
	read bool // something has been read
}

func (r *room) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c}, nil
}

// busy is the answer when every place is taken by a client with a request.
const busy = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 28\r\n" +
	"Connection: close\r\nRetry-After: 1\r\n\r\ntoo many clients: try again\n"

// state is the http.Server's ConnState.
func (r *room) state(x net.Conn, state http.ConnState) {
	c := x.(*conn)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch state {
	case http.StateNew:
		if r.ended || len(r.conns) >= maxClients && !r.evict() {
			c.last(busy)
			return
		}
		r.conns = append(r.conns, c)
	case http.StateActive:
		c.asks = true
	case http.StateClosed:
		r.conns = slices.DeleteFunc(r.conns, func(y *conn) bool { return y == c })
	}
}

// evict closes the oldest connection without a request, and reports whether there was one.
func (r *room) evict() bool {
	i := slices.IndexFunc(r.conns, func(c *conn) bool { return !c.asks })
	if i >= 0 {
		r.conns[i].Close()
		r.conns = slices.Delete(r.conns, i, i+1)
	}
	return i >= 0
}

// end closes the connections without a request, and admits no more.
func (r *room) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	for r.evict() {
	}
}

// last writes the end of an answer and closes the connection.
func (c *conn) last(answer string) {
	c.SetWriteDeadline(time.Now().Add(time.Second)) // a new socket has room for it
	io.WriteString(c.Conn, answer)
	c.Close()
}

// The first version of this program spoke a protocol of its own. Its messages begin with "TS" and
// a version; for an answer of another version it prints that threatstopd has to be restarted.
const (
	oldRequest = "TS\x01"
	newVersion = "TS\x02\x13\x00\x00\x00\x00"
)

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.read && bytes.HasPrefix(b[:n], []byte(oldRequest)) {
		c.last(newVersion)
		return 0, io.EOF
	}
	c.read = true
	return n, err
}

// reply answers with what write makes of the status.
func (s *server) reply(contentType string, write func(st *Status, w io.Writer, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		st := s.Status()
		var b bytes.Buffer
		if err := write(&st, &b, r); err != nil { // a time that JSON cannot have
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		for name, value := range map[string]string{
			"Content-Type": contentType, "Content-Security-Policy": pagePolicy(),
			"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
		} {
			w.Header().Set(name, value)
		}
		w.Write(b.Bytes())
	}
}

// sync carries out a sync. When the client does not take a line in time, or has gone, the sync
// continues without it.
func (s *server) sync(w http.ResponseWriter, r *http.Request) {
	if !s.syncing.TryLock() {
		http.Error(w, "a sync is under way already: try again when it has ended", http.StatusConflict)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	c := http.NewResponseController(w)
	listens := true
	send := func(e Event) {
		if !listens {
			return
		}
		c.SetWriteDeadline(time.Now().Add(s.t.line))
		err := json.NewEncoder(w).Encode(e)
		listens = err == nil && c.Flush() == nil
	}
	exit := s.Sync(s.ctx, r.URL.Query().Get("force") == "1", func(line string, warn bool) {
		send(Event{Text: line, Warn: warn})
	})
	// A client that has its answer may ask again.
	s.syncing.Unlock()
	send(Event{Exit: &exit})
}
