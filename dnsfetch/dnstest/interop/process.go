package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	startPatience = 60 * time.Second // a server reads its zone
	overPatience  = 5 * time.Second  // a server finds its zone impossible, or small
	stopPatience  = 10 * time.Second // a server that was told to end
)

// errNotReady is what a server fails with that runs and does not serve its zone.
var errNotReady = errors.New("does not serve the zone")

// process is a server that runs.
type process struct {
	addr string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

// start runs a server on a zone in dir, and returns when it answers for it.
func (s *server) start(ctx context.Context, dir string, patience time.Duration) (*process, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	files, args := s.configure(ctx, s, dir, port)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	binary, err := unconfined(s.path, dir)
	if err != nil {
		return nil, err
	}
	p := &process{addr: fmt.Sprintf("127.0.0.1:%d", port), log: filepath.Join(dir, "log"), done: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(binary, args...)
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = mortal()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.cmd.Wait(); close(p.done) }()
	if err := p.ready(ctx, patience); err != nil {
		p.stop()
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	return p, nil
}

// ready waits until the server answers for the zone.
func (p *process) ready(ctx context.Context, patience time.Duration) error {
	late := time.After(patience)
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(origin), dns.TypeSOA)
	c := dns.Client{Net: "tcp", Timeout: 2 * time.Second}
	for {
		r, _, err := c.ExchangeContext(ctx, q, p.addr)
		if err == nil && r.Rcode == dns.RcodeSuccess && r.Authoritative && len(r.Answer) == 1 {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("ended: %s", p.lastWords())
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			if err != nil {
				return fmt.Errorf("%w: %w: %s", errNotReady, err, p.lastWords())
			}
			return fmt.Errorf("%w: %s: %s", errNotReady, dns.RcodeToString[r.Rcode], p.lastWords())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lastWords returns the end of the server's log on one line.
func (p *process) lastWords() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], " | ")
}

// stop ends the server, by force if it takes long.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopPatience):
		p.cmd.Process.Kill()
		<-p.done
	}
}

// freePort returns a port of 127.0.0.1 that is free for TCP and UDP now.
func freePort() (int, error) {
	var err error
	for range 20 {
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return 0, err
		}
		var u net.PacketConn
		u, err = net.ListenPacket("udp", l.Addr().String())
		l.Close()
		if err == nil {
			u.Close()
			return l.Addr().(*net.TCPAddr).Port, nil
		}
	}
	return 0, err
}
