package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"example.org/threatstopd/agent/control"
	"example.org/threatstopd/agent/enforce"
	"example.org/threatstopd/agent/update"
	"example.org/threatstopd/dnsfetch"
)

// syncNow is one policy run: the daemon's where one is running, and else our
// own.
func syncNow(ctx context.Context, env Env, f *flags) error {
	if env.Socket != "" {
		client, err := control.Dial(ctx, env.Socket)
		if err == nil {
			return askDaemon(ctx, env, f, client)
		}
		if !errors.Is(err, control.ErrNotRunning) {
			return err
		}
	}
	cfg, err := load(env, f)
	if err != nil {
		return err
	}
	client, err := dnsfetch.New(fetchOptions(cfg))
	if err != nil {
		return usageError{err}
	}
	defer client.Close()
	unlock, err := enforce.Lock(filepath.Dir(cfg.BlockFile))
	if err != nil {
		return err
	}
	defer unlock()
	pf, err := env.OpenPF()
	if err != nil {
		return err
	}
	defer pf.Close()

	screen := &screen{env: env}
	n := &update.Narrator{
		Say:     screen.say,
		Warn:    screen.warn,
		Draw:    screen.draw,
		Verbose: f.verbose > 0,
		Local:   env.Local,
		Version: shortVersion(),
	}
	trace := n.Begin(env.Now())
	out := update.New(updateOptions(cfg, env), client).Run(ctx, enforce.New(pf), f.force, trace)
	n.End(out)
	if !out.OK() {
		return errSaid
	}
	return nil
}

// askDaemon lets the daemon do it, and shows what it says. The daemon goes on
// when the caller does not wait.
func askDaemon(ctx context.Context, env Env, f *flags, client *control.Client) error {
	screen := &screen{env: env}
	exit, err := client.Sync(ctx, f.force, func(line string, warn bool) {
		if warn {
			screen.warn(line)
		} else {
			screen.say(line)
		}
	})
	if err == nil && exit != exitOK {
		return errSaid
	}
	return err
}

// screen writes what is done to Stdout, what is wrong to Stderr, and on a
// terminal a line that shows how far the work has come.
type screen struct {
	env   Env
	drawn int       // width of the line that is to be replaced
	last  time.Time // when one was drawn
}

// A line that is drawn fits into the narrowest terminal, since one that was
// wrapped could not be taken back; and a serial console of 9600 baud must not
// hold the work up.
const (
	drawWidth = 79
	drawEvery = 200 * time.Millisecond
)

func (s *screen) say(line string) {
	s.erase()
	fmt.Fprintln(s.env.Stdout, line)
}

func (s *screen) warn(line string) {
	s.erase()
	fmt.Fprintf(s.env.Stderr, "threatstopd: %s\n", line)
}

func (s *screen) draw(line string) {
	if !s.env.Terminal || s.drawn > 0 && time.Since(s.last) < drawEvery {
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
