// Package check implements --test and --check of threatstopd.
//
// Test goes through the configuration, pf and its rules, pflog, the policy
// servers, the log server, the clock, and the files. In the end it makes a
// connection that has to be blocked, and looks for its record.
//
// Check reports of addresses and networks whether and why they are blocked.
package check

import (
	"context"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"time"

	"example.org/threatstopd/agent/internal/config"
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
	File     string // where Config was read from
	JSON     bool   // write one JSON object in place of text

	Fetch   dnsfetch.Options // all policy servers; they are asked one by one
	Sources sources.Options
	Policy  policy.Options

	PfConf        string   // the file that pf is loaded from
	ResolverFiles []string // host.ResolverFiles
	Indicators    []string // names or addresses of hosts that every policy blocks and that do no harm

	Root       bool // this process is root's
	OpenPF     func() (*pfioctl.PF, error)
	Interfaces func() ([]rules.Interface, error) // all of the machine
	Host       func() (policy.Facts, error)
	Lookup     func(context.Context, string) ([]netip.Addr, error)
	Dial       func(ctx context.Context, network, address string) (net.Conn, error) // from SOURCE_ADDRESS
	User       func(name string) (uid uint32, err error)
	Owner      func(fs.FileInfo) (uid int, ok bool)
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
