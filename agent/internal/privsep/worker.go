package privsep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/frame"
)

// setupWait is how long a role waits for its first message.
const setupWait = 30 * time.Second

// Worker is a role's end of its connection to main. It answers pings, carries the
// role's log events to main, and ends when main says so or is gone.
type Worker struct {
	conn *Conn
	log  zerolog.Logger

	mu     sync.Mutex
	failed bool
}

// NewWorker returns the role's end of conn, which takes the kinds in takes (from
// [FirstKind]) each up to its length.
func NewWorker(conn net.Conn, takes frame.Limits) *Worker {
	w := &Worker{conn: NewConn(conn, withOwn(takes, frame.Limits{kindPing: pingLen, kindEnd: 0}))}
	w.log = zerolog.New(events{w.conn})
	return w
}

// withOwn adds this package's own kinds to those of a role's protocol.
func withOwn(takes, own frame.Limits) frame.Limits {
	all := maps.Clone(own)
	for kind, most := range takes {
		if kind < FirstKind {
			panic(fmt.Sprintf("privsep: kind %d is not for protocols", kind))
		}
		all[kind] = most
	}
	return all
}

// ErrEnded: main told the role to end, or is gone, before there was anything to do. A body
// that returns it has ended orderly.
var ErrEnded = errors.New("ended by main")

// Setup waits 30 seconds at most for the first message, which has to be of the kind
// given, and reads its JSON; fields that into does not have are errors. It comes before
// Run. When there is no such message because main has other plans, the error is
// [ErrEnded].
func (w *Worker) Setup(kind byte, into any) error {
	w.conn.conn.SetReadDeadline(time.Now().Add(setupWait))
	defer w.conn.conn.SetReadDeadline(time.Time{})
	for {
		got, payload, err := w.conn.Next()
		switch {
		case gone(err):
			return ErrEnded
		case err != nil:
			return fmt.Errorf("setup: %w", err)
		case got == kindEnd:
			return ErrEnded
		case got == kindPing:
			if err := w.conn.Send(kindPong, payload); err != nil {
				return err
			}
		case got != kind:
			return fmt.Errorf("setup: message of kind %d, not %d", got, kind)
		default:
			if err := Unmarshal(payload, into); err != nil {
				return fmt.Errorf("setup: %w", err)
			}
			return nil
		}
	}
}

// gone tells whether a read failed because the other side is not there any more.
func gone(err error) bool {
	return err == io.EOF || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) || isReset(err)
}

// Log returns a logger whose events main logs as this role's. They carry no time: main
// gives them its own.
func (w *Worker) Log() zerolog.Logger { return w.log }

// Ready tells main that the role is confined and at work. Once.
func (w *Worker) Ready() error { return w.conn.Send(kindReady, nil) }

// Send sends main a message. It is safe for concurrent use.
func (w *Worker) Send(kind byte, payload []byte) error { return w.conn.Send(kind, payload) }

// SendJSON sends main a message of one JSON value.
func (w *Worker) SendJSON(kind byte, v any) error { return w.conn.SendJSON(kind, v) }

// Run gives handle each message of main until main says that this is the end, or is
// gone, or ctx ends: then it returns nil. It returns handle's error, or that of a message
// which main should not have sent. The payload is handle's until it returns; handle must
// return soon (a few seconds), for pings are answered in between.
func (w *Worker) Run(ctx context.Context, handle func(kind byte, payload []byte) error) error {
	stop := context.AfterFunc(ctx, func() { w.conn.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		kind, payload, err := w.conn.Next()
		switch {
		case ctx.Err() != nil, gone(err):
			return nil
		case err != nil:
			return fmt.Errorf("message of main: %w", err)
		}
		switch kind {
		case kindEnd:
			return nil
		case kindPing:
			if err := w.conn.Send(kindPong, payload); err != nil {
				if gone(err) {
					return nil
				}
				return fmt.Errorf("main: %w", err)
			}
		default:
			if err := handle(kind, payload); err != nil {
				return err
			}
		}
	}
}

// Fail tells main why the role ends. The first reason counts; a body that returns an
// error need not call it.
func (w *Worker) Fail(err error) {
	w.mu.Lock()
	again := w.failed
	w.failed = true
	w.mu.Unlock()
	if again || err == nil || errors.Is(err, ErrEnded) {
		return
	}
	w.conn.Send(kindFailed, []byte(clean(err.Error(), maxReason)))
}

// Close closes the connection to main.
func (w *Worker) Close() error { return w.conn.Close() }

// events makes each log event a message.
type events struct{ conn *Conn }

func (e events) Write(p []byte) (int, error) { return e.WriteLevel(zerolog.NoLevel, p) }

func (e events) WriteLevel(level zerolog.Level, p []byte) (int, error) {
	event := p
	if n := len(event); n > 0 && event[n-1] == '\n' {
		event = event[:n-1]
	}
	if len(event) > maxLog {
		event = shortened(level, event)
	}
	// When main is gone nobody is there to be told, and zerolog need not complain.
	if err := e.conn.Send(kindLog, event); err != nil && !gone(err) {
		return 0, err
	}
	return len(p), nil
}

// shortened is what remains of an event that is longer than a message may be: its text
// and how long it was.
func shortened(level zerolog.Level, event []byte) []byte {
	var m struct {
		Message string `json:"message"`
	}
	json.Unmarshal(event, &m)
	b, err := json.Marshal(map[string]any{
		zerolog.LevelFieldName:   level.String(),
		zerolog.MessageFieldName: clean(m.Message, maxReason),
		"cut":                    len(event),
	})
	if err != nil {
		return []byte("{}")
	}
	return b
}
