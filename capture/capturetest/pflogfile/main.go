// Command pflogfile writes a file as pflogd(8) does, to try on an agent what it makes
// of packets that were logged while it was not running.
//
//	pflogfile --age 1m pflog 198.51.100.1 2001:db8::1
//
// It has a packet from each address, blocked on its way in, a second apart; the last
// one is as old as --age says.
package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/pflag"

	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stderr))
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func run(args []string, stderr io.Writer) int {
	fs := pflag.NewFlagSet("pflogfile", pflag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintf(stderr, "usage: pflogfile [flags] file address ...\n%s", fs.FlagUsages())
	}
	age := fs.Duration("age", 0, "how old the last packet is, a `duration`")
	iface := fs.String("iface", "em0", "the `interface` that they came in on")
	err := fs.Parse(args)
	var from []netip.Addr
	if err == nil && fs.NArg() < 2 {
		err = errors.New("wants a file and addresses")
	}
	if err == nil {
		for _, text := range fs.Args()[1:] {
			a, aerr := netip.ParseAddr(text)
			err = errors.Join(err, aerr)
			from = append(from, a)
		}
	}
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "pflogfile: %v\n", err)
		return exitUsage
	}
	if err := write(fs.Arg(0), *iface, from, time.Now().Add(-*age)); err != nil {
		fmt.Fprintf(stderr, "pflogfile: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// write writes the file; last is the time of the last packet.
func write(name, iface string, from []netip.Addr, last time.Time) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w, err := capturetest.NewPcapWriter(f, 0, nil)
	if err != nil {
		return err
	}
	for i, a := range from {
		to := netip.MustParseAddr("192.0.2.2")
		if a.Is6() {
			to = netip.MustParseAddr("2001:db8:ffff::2")
		}
		p := &capturetest.Packet{
			Time:   last.Add(-time.Duration(len(from)-1-i) * time.Second),
			Action: capture.ActionBlock, Iface: iface,
			Src: a, Dst: to, Proto: capturetest.TCP, SrcPort: 40000, DstPort: 22,
		}
		if err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}
