package daemon_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.org/threatstopd/agent/internal/privsep"
)

// What the role that reports says to main, by the kinds of its frames; those below 16 are
// privsep's.
const (
	sayLog     = 1
	sayReady   = 4
	sayTrouble = 32
	askSync    = 33
)

// attack is what runs in the role instead of its own code. It holds the connection to
// main until it ends.
type attack func(conn net.Conn)

// reads takes what main sends, without answering, until the end.
func reads(conn net.Conn) {
	b := make([]byte, 64<<10)
	for {
		if _, err := conn.Read(b); err != nil {
			return
		}
	}
}

// forever says the same again and again.
func forever(kind byte, payload string) attack {
	return func(conn net.Conn) {
		go reads(conn)
		for c := privsep.NewConn(conn, nil); c.Send(kind, []byte(payload)) == nil; {
		}
	}
}

// once says something, and answers main as it should.
func once(kind byte, payload string) attack {
	return func(conn net.Conn) {
		privsep.NewConn(conn, nil).Send(kind, []byte(payload))
		pong(conn)
	}
}

// pong answers pings, and passes everything else to f.
func pong(conn net.Conn, f ...func(kind byte)) {
	limits := make(privsep.Limits)
	for kind := range 256 {
		limits[byte(kind)] = 8 << 20
	}
	for c := privsep.NewConn(conn, limits); ; {
		kind, _, err := c.Next()
		switch {
		case err != nil:
			return
		case kind == 2:
			if c.Send(3, nil) != nil {
				return
			}
		default:
			for _, f := range f {
				f(kind)
			}
		}
	}
}

// A role that was taken over may say what it likes: main goes on fetching and enforcing,
// and that is reported.
func TestTakenOverReport(t *testing.T) {
	for name, a := range map[string]struct {
		attack attack
		report string
	}{
		"garbage": {func(conn net.Conn) {
			conn.Write(bytes.Repeat([]byte("give me the table\n"), 100))
			pong(conn)
		}, "report process: misbehaved, killed: message refused"},
		"too long": {once(sayTrouble, strings.Repeat("x", 1<<20)), "report process: misbehaved, killed: message refused"},
		"gigabytes ahead": {func(conn net.Conn) {
			conn.Write([]byte{0xff, 0xff, 0xff, 0xff, sayTrouble})
			pong(conn)
		}, "report process: misbehaved, killed: message refused"},
		"a list":          {once(17, "entries"), "report process: misbehaved, killed: message refused"},
		"an unknown kind": {once(200, ""), "report process: misbehaved, killed: message refused"},
		"another field":   {once(sayTrouble, `{"Key":"pflog","Force":true}`), "report process: misbehaved, killed: trouble: json: unknown field"},
		"two values":      {once(sayTrouble, `{"Key":"pflog"}{}`), "report process: misbehaved, killed: trouble: "},
		"a nest":          {once(sayTrouble, strings.Repeat(`[`, 3000)), "report process: misbehaved, killed: trouble: "},
		"sync with more":  {once(askSync, "\x01"), "report process: misbehaved, killed: message refused"},
		"two syncs":       {forever(askSync, ""), "report process: misbehaved, killed: asks for a sync while it has one"},
		"syncs without end": {func(conn net.Conn) {
			privsep.NewConn(conn, nil).Send(askSync, nil)
			pong(conn, func(kind byte) {
				if kind == 22 { // the end of one
					privsep.NewConn(conn, nil).Send(askSync, nil)
				}
			})
		}, "report process: misbehaved, killed: asks for syncs without end"},
		"capture flaps":      {forever(sayTrouble, `{"Key":"pflog","Text":"guess"}`), "report process: misbehaved, killed: reports troubles without end"},
		"no event":           {once(sayLog, "policy enforced"), "report process: misbehaved, killed: "},
		"events without end": {forever(sayLog, `{"level":"error","message":"policy not updated"}`), "report process: misbehaved, killed: "},
		"ready twice":        {once(sayReady, ""), "report process: misbehaved, killed: "},
		"never reads":        {func(conn net.Conn) { time.Sleep(time.Hour) }, "report process: misbehaved, killed: "},
		"never answers":      {reads, "report process: misbehaved, killed: silent"},
		"hangs up":           {func(conn net.Conn) { conn.Close(); time.Sleep(time.Hour) }, "report process: "},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.poll = time.Minute
			entries := 200
			if strings.HasPrefix(name, "never") {
				entries = 50_000 // more than fits the buffer of a connection
			}
			s.serve(entries, 0)
			synctest.Test(t, func(t *testing.T) {
				s.t = t
				s.boot()
				s.body = func(conn net.Conn, _ []*os.File) error {
					if privsep.NewConn(conn, nil).Send(sayReady, nil) == nil {
						a.attack(conn)
					}
					return errors.New("done")
				}
				stop := s.run()
				time.Sleep(10 * time.Second)
				for second := range 6 * 60 {
					time.Sleep(time.Second)
					s.probe()
					// Nothing that the role does keeps main from its signals. (Of one that
					// never reads that cannot be tried here: who waits for a lock, as the
					// line about reporting then does, holds up the bubble's time.)
					if second%20 == 0 && name != "never reads" {
						select {
						case s.signals <- syscall.SIGUSR1:
						case <-time.After(100 * time.Millisecond):
							t.Error("main does not take a signal")
						}
					}
				}
				// Main goes on: what is new comes into force.
				polls := s.said(`"took"`)
				s.serve(entries-10, 3)
				time.Sleep(3 * time.Minute)
				s.probe()
				if s.said(`"added":`) == 0 || s.said(`"message":"policy enforced"`) < 2 {
					t.Error("the new policy has not come into force")
				}
				if n := s.said(`"took"`); n < polls+2 || polls < 5 {
					t.Errorf("%d polls in six minutes, %d in three more", polls, n-polls)
				}
				if s.said(a.report) == 0 {
					t.Errorf("nothing is reported, wanted %q", a.report)
				}
				s.logMu.Lock()
				if n := s.log.Len(); n > 2<<20 {
					t.Errorf("%d bytes of log in eight minutes", n)
				}
				s.logMu.Unlock()
				stop()
				time.Sleep(2 * time.Hour) // until those that sleep have ended
				if t.Failed() {
					log := s.log.String()
					t.Logf("the daemon said:\n%s", log[:min(len(log), 6000)])
				}
			})
		})
	}
}
