package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

// screen writes what is done to Stdout, what is wrong to Stderr, and on a terminal a line that shows how far the
// work has come.
type screen struct {
	env   Env
	quiet bool      // print only what is wrong
	drawn int       // width of the line that is to be replaced
	last  time.Time // when one was drawn
}

// A line that is drawn fits into the narrowest terminal, since one that was wrapped could not be taken back; and
// a serial console of 9600 baud must not hold the work up.
const (
	drawWidth = 79
	drawEvery = 200 * time.Millisecond
)

func (s *screen) say(line string) {
	if s.quiet {
		return
	}
	s.erase()
	fmt.Fprintln(s.env.Stdout, line)
}

func (s *screen) warn(line string) {
	s.erase()
	fmt.Fprintf(s.env.Stderr, "threatstopd: %s\n", line)
}

func (s *screen) draw(line string) {
	if s.quiet || !s.env.Terminal || s.drawn > 0 && time.Since(s.last) < drawEvery {
		return
	}
	s.last = time.Now()
	line = line[:min(len(line), drawWidth)]
	io.WriteString(s.env.Stderr, "\r"+line+strings.Repeat(" ", max(0, s.drawn-len(line))))
	s.drawn = len(line)
}

func (s *screen) erase() {
	if s.drawn > 0 {
		io.WriteString(s.env.Stderr, "\r"+strings.Repeat(" ", s.drawn)+"\r")
		s.drawn = 0
	}
}

// during does work that does not use the screen, and draws what text returns each second until it is done.
func (s *screen) during(text func() string, work func() error) error {
	done, drawn := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(drawn)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.draw(text())
			case <-done:
				s.erase()
				return
			}
		}
	}()
	err := work()
	close(done)
	<-drawn
	return err
}

// printing calls print with Stdout. If that is not a terminal, but Stderr is, it draws there how much was printed.
func (env Env) printing(print func(io.Writer) error) error {
	out := &lineCounter{Writer: env.Stdout}
	s := &screen{env: env, quiet: isTerminal(env.Stdout)}
	return s.during(func() string { return fmt.Sprintf("%d lines printed", out.n.Load()) }, func() error { return print(out) })
}

// lineCounter counts the lines that are written.
type lineCounter struct {
	io.Writer
	n atomic.Int64
}

func (c *lineCounter) Write(p []byte) (int, error) {
	c.n.Add(int64(bytes.Count(p, []byte("\n"))))
	return c.Writer.Write(p)
}

// isTerminal reports whether a stream is one.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
