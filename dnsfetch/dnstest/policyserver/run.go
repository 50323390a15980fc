package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/pflag"

	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/dnsfetch/dnstest"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// idle is how long a connection without a question is kept: long enough for any
// client that still means to ask, short enough that forgotten ones go away.
const idle = 2 * time.Minute

var layouts = map[string]dnsfetch.Layout{
	"parts":     dnsfetch.LayoutParts,
	"apl":       dnsfetch.LayoutAPL,
	"addresses": dnsfetch.LayoutAddresses,
}

// source is a list and the file that it is read from.
type source struct {
	list dnstest.List
	file string
}

// options are the command's, checked.
type options struct {
	listen  string
	zone    string // file, "" to serve
	origin  string
	serial  uint32
	clients []netip.Prefix
	verbose bool
	sources []source
}

// parse reads the flags.
func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	fs := pflag.NewFlagSet("policyserver", pflag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.SortFlags = false
	fs.Usage = func() {
		fmt.Fprintf(stderr, "usage: policyserver --list NAME=[LAYOUT:]FILE ... [flags]\n%s", fs.FlagUsages())
	}
	var lists, clients []string
	fs.StringArrayVar(&lists, "list", nil, "serve `NAME=[LAYOUT:]FILE`; may be given again")
	layout := fs.String("layout", "parts", "`LAYOUT` of lists that name none: parts, apl or addresses")
	part := fs.Int("part-size", 0, "`entries` a part (0: 900), or addresses a name (0: 4000 IPv4, 2300 IPv6)")
	items := fs.Int("items", 0, "most `items` in one APL record (0: no limit; nsd takes 64)")
	siblings := fs.StringSlice("siblings", nil, "`labels` of the names that continue a list of addresses")
	fs.StringVarP(&o.listen, "listen", "l", "127.0.0.1:0", "`address:port` to listen on; port 0 is any free one")
	fs.StringArrayVar(&clients, "allow-from", nil, "answer this `network` only, refuse others; may be given again")
	fs.StringVar(&o.zone, "zone", "", "write a zone to `FILE`, - for standard output, and serve nothing")
	fs.StringVar(&o.origin, "origin", "", "`name` of that zone (default: what the first list is directly below)")
	fs.Uint32Var(&o.serial, "serial", 1, "serial `number` of that zone")
	fs.BoolVarP(&o.verbose, "verbose", "v", false, "print each question")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if len(lists) == 0 {
		return nil, errors.New("no --list given")
	}
	if *part < 0 || *items < 0 {
		return nil, errors.New("--part-size and --items cannot be negative")
	}
	for _, spec := range lists {
		name, file, ok := strings.Cut(spec, "=")
		if !ok || name == "" || file == "" {
			return nil, fmt.Errorf("--list %s: not NAME=[LAYOUT:]FILE", spec)
		}
		kind := *layout
		if l, rest, ok := strings.Cut(file, ":"); ok && layouts[l] != 0 {
			kind, file = l, rest
		}
		if layouts[kind] == 0 {
			return nil, fmt.Errorf("--layout %s: not one of parts, apl, addresses", kind)
		}
		o.sources = append(o.sources, source{file: file, list: dnstest.List{
			Name:           name,
			Layout:         layouts[kind],
			PartSize:       *part,
			ItemsPerRecord: *items,
			Siblings:       *siblings,
		}})
	}
	for _, c := range clients {
		p, err := netip.ParsePrefix(c)
		if a, aerr := netip.ParseAddr(c); aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("--allow-from %s: not an address or network", c)
		}
		o.clients = append(o.clients, p)
	}
	if o.origin == "" {
		first := dns.Fqdn(o.sources[0].list.Name)
		if next, end := dns.NextLabel(first, 0); !end {
			o.origin = first[next:]
		} else {
			o.origin = "."
		}
	}
	return o, nil
}

// read reads every file.
func (o *options) read(stdin io.Reader) ([]dnstest.List, error) {
	var lists []dnstest.List
	for _, src := range o.sources {
		entries, err := readFile(src.file, stdin)
		if err != nil {
			return nil, err
		}
		l := src.list
		l.Entries = entries
		lists = append(lists, l)
	}
	return lists, nil
}

func readFile(name string, stdin io.Reader) ([]dnstest.Entry, error) {
	if name == "-" {
		return dnstest.ReadPrefixes(stdin, "standard input")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return dnstest.ReadPrefixes(f, name)
}

// run is the command: it returns its exit code when ctx is done or something
// failed. A value on hup has it read its files again.
func run(ctx context.Context, hup <-chan os.Signal, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "policyserver: %v\n", err)
		return exitUsage
	}
	lists, err := o.read(stdin)
	if err == nil {
		if o.zone != "" {
			err = o.writeZone(lists, stdout)
		} else {
			err = o.serve(ctx, hup, lists, stdin, stdout, stderr)
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "policyserver: %v\n", err)
		return exitFailed
	}
	return exitOK
}

func (o *options) writeZone(lists []dnstest.List, stdout io.Writer) error {
	if o.zone == "-" {
		return dnstest.WriteZone(stdout, o.origin, o.serial, lists...)
	}
	f, err := os.Create(o.zone)
	if err != nil {
		return err
	}
	if err := dnstest.WriteZone(f, o.origin, o.serial, lists...); err != nil {
		f.Close()
		os.Remove(o.zone)
		return err
	}
	return f.Close()
}

func (o *options) serve(ctx context.Context, hup <-chan os.Signal, lists []dnstest.List, stdin io.Reader, stdout, stderr io.Writer) error {
	opts := dnstest.Options{Addr: o.listen, Clients: o.clients, Idle: idle, KeepQueries: 1}
	if o.verbose {
		queries := make(chan dnstest.Query, 1024)
		printed := make(chan struct{})
		go func() {
			defer close(printed)
			printQueries(stdout, queries)
		}()
		// The server is closed first, and asks no more then.
		defer func() { close(queries); <-printed }()
		opts.Log = func(q dnstest.Query) { queries <- q }
	}
	srv, err := dnstest.Start(opts)
	if err != nil {
		return err
	}
	defer srv.Close()
	if err := srv.Set(lists...); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "listening on %s\n", srv.Addr())
	printLists(stdout, lists)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
		}
		lists, err := o.read(stdin)
		if err == nil {
			err = srv.Set(lists...)
		}
		if err != nil {
			fmt.Fprintf(stderr, "policyserver: %v; the lists stay as they were\n", err)
			continue
		}
		printLists(stdout, lists)
	}
}

func printLists(w io.Writer, lists []dnstest.List) {
	for _, l := range lists {
		fmt.Fprintf(w, "list %s: %d entries, %s\n", l.Name, len(l.Entries), l.Layout)
	}
}

func printQueries(w io.Writer, queries <-chan dnstest.Query) {
	bw := bufio.NewWriter(w)
	for q := range queries {
		fmt.Fprintf(bw, "%s %s %s %s: %s, %d records, %d bytes\n", q.Remote, q.Net, q.Name,
			dns.Type(q.Type), dns.RcodeToString[q.Rcode], q.Records, q.Bytes)
		if len(queries) == 0 {
			bw.Flush()
		}
	}
	bw.Flush()
}
