// Package check implements --test and --check of threatstopd.
//
// Test goes through the configuration, pf and its rules, pflog, files, the policy servers, the log server and
// the clock. In the end it makes a connection that has to be blocked, and looks for its record.
//
// Check reports of addresses and networks whether and why they are blocked.
package check

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/fetch"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/rules"
	"example.org/threatstopd/agent/internal/sources"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/pfioctl"
)

// DefaultIndicator is the test indicator of the service.
const DefaultIndicator = "bad.threatstop.com"

// Options are what is to be checked, and the system on which it is.
type Options struct {
	Config   *config.Config
	Warnings []config.Problem
	Invalid  error  // of a configuration that is refused: Test reports it, and nothing else
	File     string // where Config was read from
	JSON     bool   // write one JSON object in place of text

	Fetch   dnsfetch.Options // all policy servers; they are asked one by one
	Sources sources.Options
	Policy  policy.Options

	PfConf        string   // the file that pf is loaded from
	ResolverFiles []string // host.ResolverFiles
	Indicators    []string // names or addresses of hosts that every policy blocks and that do no harm

	Root       bool // this process is root's
	UID        int  // of Config.User, -1 if there is no such user
	OpenPF     func() (*pfioctl.PF, error)
	Interfaces func() ([]rules.Interface, error) // all of the machine
	Host       func() (policy.Facts, error)
	Lookup     func(context.Context, string) ([]netip.Addr, error)
	Dial       func(ctx context.Context, network, address string) (net.Conn, error) // from SOURCE_ADDRESS
	OpenPflog  func(capture.Options) (capture.Source, error)
	// FlushPflogd has pflogd(8) write out what it has; the error says that it
	// does not run, or wraps errors.ErrUnsupported.
	FlushPflogd func() error
	Logs        func() ([]*os.File, error) // pflogd's files, oldest first

	// Confine takes from this process, for the rest of its life, all but the network and
	// what it has open; it calls asUser, if that is not nil, as the user that the daemon's
	// processes for the network are, and before it takes the file system away. Nil:
	// nothing is taken, and asUser not called.
	Confine func(asUser func()) error

	Now   func() time.Time
	Local *time.Location
}

// block and allow are the tables of the policy.
func (o *Options) block() pfioctl.Table { return pfioctl.Table{Name: o.Config.BlockTable} }
func (o *Options) allow() pfioctl.Table { return pfioctl.Table{Name: o.Config.AllowTable} }

// settle reads what cannot be read when the process is confined: the facts about the host, and
// the file of the time zone.
func (o *Options) settle() {
	facts, err := o.Host()
	o.Host = func() (policy.Facts, error) { return facts, err }
	_ = time.Now().In(o.Local).String()
}

// addresses returns those of a name, or the address that it is.
func (o *Options) addresses(ctx context.Context, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	addrs, err := o.Lookup(ctx, name)
	if err == nil && len(addrs) == 0 {
		err = errors.New("has no address")
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, err
}

// A fetcher fetches lists and looks up names in this process.
type fetcher struct {
	*dnsfetch.Client
	lookup func(context.Context, string) ([]netip.Addr, error)
}

func (f fetcher) Lookup(ctx context.Context, names []string) []sources.Name {
	return fetch.LookUp(ctx, names, f.lookup)
}

// Interfaces returns the interfaces of the machine and the groups that they are in.
func Interfaces() (all []rules.Interface, err error) {
	list, err := net.Interfaces()
	for _, i := range list {
		x := rules.Interface{Name: i.Name, Loopback: i.Flags&net.FlagLoopback != 0, Up: i.Flags&net.FlagUp != 0}
		if x.Groups, err = groups(i.Name); err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	return all, err
}

// WriteJSON writes v as indented JSON.
func WriteJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// count returns a number of things in words.
func count(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + more
}

func entryCount(n int) string { return count(n, "entry", "entries") }
