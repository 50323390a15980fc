package privsep

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"example.org/threatstopd/agent/internal/frame"
)

// InProcess starts roles as goroutines of this process, unconfined: for tests and the
// demo. bodies has each role's life by its name.
func InProcess(bodies map[string]Body) Starter { return inProcess(bodies) }

type inProcess map[string]Body

func (s inProcess) Start(role string, files []*os.File) (Child, error) {
	body, ok := s[role]
	if !ok {
		closeAll(files)
		return nil, fmt.Errorf("no role %q", role)
	}
	ours, theirs := memoryPipe()
	g := &goroutine{conn: ours, theirs: theirs, ended: make(chan struct{})}
	go func() {
		err := body(theirs, files)
		if tell(theirs, err) {
			// As the exit status of a process would be.
			err = errors.New("exit status 1")
		} else {
			err = nil
		}
		theirs.Close()
		g.end(err)
	}()
	return g, nil
}

// tell sends main the error with which a body ended, if it is one.
func tell(conn net.Conn, err error) bool {
	if err == nil || errors.Is(err, ErrEnded) {
		return false
	}
	conn.SetWriteDeadline(time.Now().Add(endWait))
	frame.Write(conn, kindFailed, []byte(clean(err.Error(), maxReason)))
	return true
}

type goroutine struct {
	conn, theirs net.Conn
	once         sync.Once
	ended        chan struct{}
	err          error
}

// end notes how the role ended, and tells whether it had not.
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

// Kill takes the role's connection away: there is no other way to end a goroutine.
func (g *goroutine) Kill() {
	if g.end(errors.New("killed")) {
		g.theirs.Close()
		g.conn.Close()
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
