package nameserver

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

// stopPatience is how long a server may take to end.
const stopPatience = 10 * time.Second

// ErrNotReady is what a server fails with that runs and does not serve its zone.
var ErrNotReady = errors.New("does not serve the zone")

// A Process is a server that runs.
type Process struct {
	// Addr is the address and port that it answers at, over TCP and UDP.
	Addr string

	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

// Start runs the server, which Find has found, on the zone whose file is ZoneFile
// in dir, and returns when it answers for it. The error wraps ErrNotReady when it
// did not so within patience. The server ends at Stop, and on Linux at the latest
// with the thread that started it.
func (s *Server) Start(ctx context.Context, dir, zone string, patience time.Duration) (*Process, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	files, args := s.configure(ctx, s, zone, dir, port)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	binary, err := unconfined(s.path, dir)
	if err != nil {
		return nil, err
	}
	p := &Process{Addr: fmt.Sprintf("127.0.0.1:%d", port), log: filepath.Join(dir, "log"), done: make(chan struct{})}
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
	if err := p.ready(ctx, zone, s.Upstream == "", patience); err != nil {
		p.Stop()
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	return p, nil
}

// ready waits until the server answers for the zone, with authority unless it is a relay.
func (p *Process) ready(ctx context.Context, zone string, authority bool, patience time.Duration) error {
	late := time.After(patience)
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(zone), dns.TypeSOA)
	c := dns.Client{Net: "tcp", Timeout: 2 * time.Second}
	for {
		r, _, err := c.ExchangeContext(ctx, q, p.Addr)
		if err == nil && r.Rcode == dns.RcodeSuccess && (r.Authoritative || !authority) && len(r.Answer) == 1 {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("ended: %s", p.lastWords())
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			if err != nil {
				return fmt.Errorf("%w: %w: %s", ErrNotReady, err, p.lastWords())
			}
			return fmt.Errorf("%w: %s: %s", ErrNotReady, dns.RcodeToString[r.Rcode], p.lastWords())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lastWords returns the end of the server's log on one line.
func (p *Process) lastWords() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], " | ")
}

// Stop ends the server, by force if it takes long.
func (p *Process) Stop() {
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
