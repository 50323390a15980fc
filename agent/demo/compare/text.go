package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

const textTarget = 20

// compareText prints what pf logged.
func compareText(ctx context.Context, dir string, o *options, t *table) error {
	file := filepath.Join(dir, "pflog")
	if err := writePflog(file, o.packets); err != nil {
		return err
	}
	// "TZ" in the process's environment decides a good part of tcpdump's time.
	zones := []struct {
		name   string
		env    []string
		target float64
	}{{"TZ=" + os.Getenv("TZ"), nil, textTarget}}
	if _, set := os.LookupEnv("TZ"); !set {
		zones[0].name = "TZ unset"
		zones = append(zones, zones[0])
		zones[1].name, zones[1].env, zones[1].target = "TZ=UTC", append(os.Environ(), "TZ=UTC"), 0
	}
	for _, z := range zones {
		theirs, ours := []string{"tcpdump", "-n", "-e", "-S", "-r", file}, []string{o.agent, "--read", file}
		if err := sameText(ctx, z.env, theirs, ours, o.packets); err != nil {
			return err
		}
		way := func(args []string) *contestant {
			return &contestant{
				name:  args[0],
				run:   func(ctx context.Context) (took, error) { return process(ctx, z.env, dir, args[0], args[1:]...) },
				check: func() error { return nil },
			}
		}
		a, b := way(theirs), way(ours)
		if err := race(ctx, o.rounds, a, b); err != nil {
			return err
		}
		t.row(fmt.Sprintf("text of %d packets: tcpdump, %s", o.packets, z.name), a, b, z.target)
	}
	return nil
}

// sameText looks whether two commands print a line for each packet, and the
// same time and ends in it. What Debian's tcpdump says of a packet is otherwise
// worded otherwise than OpenBSD's.
func sameText(ctx context.Context, env, theirs, ours []string, packets int) error {
	var texts [2]*bufio.Scanner
	for i, args := range [...][]string{theirs, ours} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = env
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		texts[i] = bufio.NewScanner(bytes.NewReader(out))
	}
	lines := 0
	for texts[0].Scan() {
		if !texts[1].Scan() {
			return fmt.Errorf("another result: %s has more than %d lines", theirs[0], lines)
		}
		lines++
		a, b := ends(texts[0].Text()), ends(texts[1].Text())
		if a != b {
			return fmt.Errorf("another result: line %d is of %q, not of %q", lines, b, a)
		}
	}
	if texts[1].Scan() || lines != packets {
		return fmt.Errorf("another result: %d lines of %d packets", lines, packets)
	}
	return nil
}

// ends returns the time of a line, and who sent to whom.
func ends(line string) string {
	words := strings.Fields(line)
	for i, w := range words {
		if w == ">" && i > 0 && i+1 < len(words) {
			return words[0] + " " + words[i-1] + " > " + strings.TrimSuffix(words[i+1], ":")
		}
	}
	return line
}

// writePflog writes packets as a firewall on the Internet blocks them, in a file
// as pflogd(8) leaves it: mostly connections that somebody tries, the rest of
// connections that are gone, UDP, pings; few are IPv6. Every packet is another.
func writePflog(name string, packets int) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := pflog(w, packets); err != nil {
		return err
	}
	return w.Flush()
}

func pflog(to io.Writer, packets int) error {
	w, err := capturetest.NewPcapWriter(to, 0, nil)
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(117, uint64(packets)))
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	own4, own6 := netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8:ffff::2")
	ports := []uint16{22, 23, 80, 443, 445, 3389, 8080, 8443}
	// What SYN segments carry: MSS; and SACK, time stamps and window scale.
	syn := []byte{2, 4, 5, 0xb4}
	for i := range packets {
		at = at.Add(time.Duration(r.IntN(20_000)) * time.Microsecond)
		p := capturetest.Packet{
			Time: at, Action: capture.ActionBlock, Iface: "em0", Rule: uint32(r.IntN(4)),
			Src: netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 0x01000000+r.Uint32N(0xdf000000)))), Dst: own4,
			SrcPort: uint16(1024 + r.IntN(64512)), DstPort: ports[r.IntN(len(ports))],
			TTL: uint8(40 + r.IntN(80)), ID: uint16(i), DontFragment: r.IntN(2) == 0,
			Seq: r.Uint32(), Window: uint16(1024 + r.IntN(64512)),
		}
		if r.IntN(20) == 0 {
			a := binary.BigEndian.AppendUint64(nil, 0x20010db8<<32|uint64(r.Uint32()))
			p.Src, p.Dst = netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(a, r.Uint64()))), own6
		}
		if r.IntN(10) == 0 {
			p.Dir, p.Src, p.Dst = capture.Out, p.Dst, p.Src
		}
		switch kind := r.IntN(100); {
		case kind < 55: // a SYN
			p.Proto, p.Options = capturetest.TCP, syn
			if r.IntN(2) == 0 {
				p.Options = append(append([]byte{}, syn...), 4, 2, 8, 10)
				p.Options = append(binary.BigEndian.AppendUint64(p.Options, uint64(r.Uint32())<<32), 1, 3, 3, 7)
			}
		case kind < 70: // the rest of a connection
			p.Proto, p.Ack = capturetest.TCP, r.Uint32()
			p.Flags = []uint8{capturetest.ACK, capturetest.RST | capturetest.ACK, capturetest.FIN | capturetest.ACK, capturetest.PSH | capturetest.ACK}[r.IntN(4)]
			if p.Flags&capturetest.PSH != 0 {
				p.Payload = make([]byte, 1+r.IntN(1000))
			}
		case kind < 92:
			// Ports that mean nothing to tcpdump: it would print what is
			// in the datagrams of others.
			p.Proto, p.DstPort, p.SrcPort = capturetest.UDP, uint16(40000+r.IntN(1000)), uint16(50000+r.IntN(10000))
			p.Payload = make([]byte, r.IntN(200))
		default:
			p.Proto = capturetest.ICMP
			if p.Src.Is6() {
				p.Proto = capturetest.ICMPv6
			}
			p.Payload = make([]byte, 56)
		}
		if err := w.Write(&p); err != nil {
			return err
		}
	}
	return nil
}
