package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.org/threatstopd/agent/internal/cli"
	"example.org/threatstopd/agent/reporttest"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// The second half of the story: what pf blocks is seen, and reaches the log
// server although that is down for a while.

func (s *stage) hits() error {
	s.title("Now the daemon: it reads what pf logs, and reports what the policy blocked.")
	if err := s.runDaemon(func(d *running) error {
		if err := s.traffic(d); err != nil {
			return err
		}
		text, err := s.run(0, "--status")
		fmt.Fprint(s.out, indent(text))
		return err
	}); err != nil {
		return err
	}
	if err := s.receipts(3); err != nil {
		return err
	}
	s.title("The log server goes down, and packets go on being blocked:")
	if err := s.collector.Fail(reporttest.Failure{Fault: reporttest.Refuse}); err != nil {
		return err
	}
	if err := s.runDaemon(s.traffic); err != nil {
		return err
	}
	files, err := os.ReadDir(filepath.Join(s.dir, "spool"))
	if err != nil {
		return err
	}
	fmt.Fprint(s.out, "   The daemon has stopped; its spool has:")
	for _, f := range files {
		fmt.Fprintf(s.out, " %s", f.Name())
	}
	fmt.Fprintln(s.out)
	if err := s.receipts(3); err != nil {
		return err
	}
	s.title("The log server is back, and so is the daemon:")
	if err := s.collector.Fail(reporttest.Failure{}); err != nil {
		return err
	}
	return s.runDaemon(func(*running) error {
		if err := s.receipts(6); err != nil {
			return err
		}
		return s.showPage(os.Stdin)
	})
}

// showPage prints where the status page is, if it is wanted, and waits for Enter or an interrupt.
func (s *stage) showPage(enter io.Reader) error {
	if s.page == "" {
		return nil
	}
	s.title("The status page is at http://%s/ until you press Enter.", s.page)
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupt)
	pressed := make(chan struct{})
	go func() {
		defer close(pressed)
		bufio.NewReader(enter).ReadString('\n')
	}()
	select {
	case <-pressed:
	case <-interrupt:
	}
	return nil
}

// freeAddress returns an address of loopback with a port that nobody uses.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// traffic sends packets through pf: three are hits, one is not.
func (s *stage) traffic(d *running) error {
	bad, found := s.victim()
	if !found {
		return errors.New("the policy blocks no address")
	}
	stranger, err := s.stranger()
	if err != nil {
		return err
	}
	own := s.own.Addr()
	for _, p := range []pfsim.Packet{
		{Dir: pfioctl.DirIn, Src: bad, Dst: own, Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22},
		{Dir: pfioctl.DirIn, Src: stranger, Dst: own, Proto: capturetest.TCP, SrcPort: 40001, DstPort: 22},
		{Dir: pfioctl.DirOut, Src: own, Dst: bad, Proto: capturetest.UDP, SrcPort: 5353, DstPort: 53},
		{Dir: pfioctl.DirIn, Src: bad, Dst: own, Proto: capturetest.ICMP},
	} {
		p.Iface, p.Bytes = "em0", 60
		v := s.kernel.Verdict(p)
		fmt.Fprintf(s.out, "   pf: %s > %s: %s\n", p.Src, p.Dst, word(v.Action))
		for _, l := range v.Logs {
			s.logged++
			s.pflog.Log(&capturetest.Packet{
				Action: capture.Action(l.Action), Dir: capture.Direction(p.Dir), Iface: p.Iface, Rule: l.RuleNr, SubRule: l.SubRuleNr, Ruleset: l.Ruleset,
				Src: p.Src, Dst: p.Dst, Proto: p.Proto, SrcPort: p.SrcPort, DstPort: p.DstPort,
			})
		}
	}
	status, err := d.until(s.seen())
	fmt.Fprint(s.out, indent(status))
	return err
}

// seen is in the status when the daemon has read all that was logged. The count outlives the daemon.
func (s *stage) seen() string { return fmt.Sprintf(" seen=%d ", s.logged) }

// stranger is an address that the table does not block.
func (s *stage) stranger() (netip.Addr, error) {
	pf, err := s.open()
	if err != nil {
		return netip.Addr{}, err
	}
	defer pf.Close()
	for a := netip.MustParseAddr("203.0.113.200"); a.Is4(); a = a.Next() {
		results, err := pf.Test(pfioctl.Table{Name: blockTable}, a)
		if err != nil {
			return a, err
		}
		if !results[0].Match {
			return a, nil
		}
	}
	return netip.Addr{}, errors.New("the policy blocks every address")
}

// receipts waits until the log server has n lines, and shows them.
func (s *stage) receipts(n int) error {
	count := func(all []reporttest.Receipt) (lines int) {
		for _, r := range all {
			lines += len(r.Lines())
		}
		return lines
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.collector.Wait(ctx, func(all []reporttest.Receipt) bool { return count(all) >= n }); err != nil {
		return fmt.Errorf("the log server did not get its %d lines: %w", n, err)
	}
	all := s.collector.Receipts()
	if got := count(all); got != n {
		return fmt.Errorf("the log server has %d lines, expected %d", got, n)
	}
	for _, r := range all[s.shown:] {
		fmt.Fprintf(s.out, "   the log server took batch %s of %s:\n%s", r.Batch, r.Device, indent(indent(r.Text)))
	}
	if len(all) == s.shown {
		fmt.Fprintln(s.out, "   the log server got nothing new")
	}
	s.shown = len(all)
	return nil
}

// running is a running daemon, whose log is shown as it is written.
type running struct {
	out     io.Writer
	signals chan os.Signal
	mu      sync.Mutex
	log     bytes.Buffer
	status  string // the last status line
}

// Write receives a line of the log. Status lines are kept apart, since the demo requests many.
func (d *running) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if bytes.Contains(p, []byte("INF status ")) {
		d.status = string(p)
		return len(p), nil
	}
	fmt.Fprint(d.out, indent(string(p)))
	return d.log.Write(p)
}

func (d *running) said() (log, status string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.String(), d.status
}

// until requests the daemon's status until phrase is in it or in the log, and returns the status.
func (d *running) until(phrase string) (string, error) {
	for range 250 {
		select {
		case d.signals <- syscall.SIGUSR1:
		case <-time.After(10 * time.Second):
			return "", errors.New("the daemon does not answer")
		}
		time.Sleep(40 * time.Millisecond)
		if log, status := d.said(); strings.Contains(log+status, phrase) {
			return status, nil
		}
	}
	return "", fmt.Errorf("the daemon did not come to %q", phrase)
}

// runDaemon runs the daemon while during runs, and shows its log.
func (s *stage) runDaemon(during func(*running) error) error {
	d := &running{out: s.out, signals: make(chan os.Signal)}
	env := s.env()
	env.Stderr, env.Signals = d, d.signals
	fmt.Fprintf(s.out, "\n$ threatstopd -d\n")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	code := make(chan int, 1)
	go func() { code <- cli.Run(ctx, []string{"-d", "-f", s.conf}, env) }()
	_, err := d.until("policy unchanged")
	if err == nil {
		_, err = d.until(s.seen())
	}
	if err == nil {
		err = during(d)
	}
	stop()
	if c := <-code; err == nil && c != 0 {
		err = fmt.Errorf("the daemon ended with exit code %d", c)
	}
	return err
}

// logServer starts the log server and puts its URL into threatstop.conf.
func (s *stage) logServer() (string, error) {
	ca := filepath.Join(s.dir, "ca.pem")
	if err := s.collector.WriteCA(ca); err != nil {
		return "", err
	}
	spool := filepath.Join(s.dir, "spool")
	if err := os.Mkdir(spool, 0o700); err != nil {
		return "", err
	}
	return fmt.Sprintf("url=%s\nCA_FILE=%s\nSPOOL_DIR=%s\npflog=%s\n", s.collector.URL(), ca, spool, filepath.Join(s.dir, "pflog")), nil
}
