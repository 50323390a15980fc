package privseptest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"example.org/threatstopd/agent/internal/privsep"
)

// InProcess starts roles as goroutines of this process, unconfined. bodies has what each role does, by
// its name.
func InProcess(bodies map[string]privsep.Body) privsep.Starter { return inProcess(bodies) }

type inProcess map[string]privsep.Body

func (s inProcess) Start(role string, files []*os.File) (privsep.Child, error) {
	body, ok := s[role]
	if !ok {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("no role %q", role)
	}
	ours, theirs := Pipe()
	g := &goroutine{conn: ours, theirs: theirs, ended: make(chan struct{})}
	go func() {
		err := body(theirs, files)
		if errors.Is(err, privsep.ErrEnded) {
			err = nil
		}
		theirs.Close()
		g.end(err)
	}()
	return g, nil
}

type goroutine struct {
	conn, theirs net.Conn
	once         sync.Once
	ended        chan struct{}
	err          error
}

// end notes how the role ended. It reports whether that was not known yet.
func (g *goroutine) end(err error) (first bool) {
	g.once.Do(func() {
		first = true
		g.err = err
		close(g.ended)
	})
	return first
}

func (g *goroutine) Conn() net.Conn { return g.conn }

func (g *goroutine) Wait() error {
	<-g.ended
	return g.err
}

// Kill closes the role's connection: there is no other way to end a goroutine.
func (g *goroutine) Kill() {
	if g.end(errors.New("killed")) {
		g.theirs.Close()
		g.conn.Close()
	}
}
