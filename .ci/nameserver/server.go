// Package nameserver runs the name servers that policies are served by in the
// world, BIND, PowerDNS, NSD and Knot DNS, for tests and comparisons: each on a
// loopback port, on a zone file, with a configuration of its own in a directory
// of the caller's.
package nameserver

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Server is one of the name servers: how to get it, configure and run it.
type Server struct {
	Name string
	Program
	Items    int    // most items that it takes in an APL record; 0 is any number
	Upstream string // of a relay: the address and port of the server that it asks
	Options  string // of a relay: more lines for its configuration
	NoEmpty  bool   // it may answer SERVFAIL for an APL record without items

	version []string // arguments that have it print its version
	// configure returns the files to write into dir, and the arguments to run
	// with. The zone file is zone in dir.
	configure func(ctx context.Context, s *Server, zone, dir string, port int) (files map[string]string, args []string)
}

// ZoneFile is the name of the zone file in the directory that a server is
// started in.
const ZoneFile = "zone"

var servers = []*Server{
	{
		Name:    "bind9",
		Program: Program{Binary: "named", Packages: []string{"bind9"}},
		version: []string{"-v"},
		configure: func(ctx context.Context, s *Server, zone, dir string, port int) (map[string]string, []string) {
			// BIND keeps no more than 100 records of a type at a name by
			// default; versions from before that limit do not know the option.
			limit := ""
			if out, err := exec.CommandContext(ctx, s.path, "-C").Output(); err == nil && strings.Contains(string(out), "max-records-per-type") {
				limit = "max-records-per-type 0;"
			}
			return map[string]string{"named.conf": fmt.Sprintf(`
options {
	directory %q;
	pid-file none;
	session-keyfile none;
	managed-keys-directory %q;
	listen-on port %d { 127.0.0.1; };
	listen-on-v6 { none; };
	recursion no;
	notify no;
	dnssec-validation no;
	allow-transfer { none; };
	%s
};
controls { };
zone %q { type primary; file "zone"; };
`, dir, dir, port, limit, zone)}, []string{"-g", "-c", filepath.Join(dir, "named.conf")}
		},
	},
	{
		Name:    "pdns",
		Program: Program{Binary: "pdns_server", Packages: []string{"pdns-server", "pdns-backend-bind"}},
		version: []string{"--version"},
		NoEmpty: true, // seen with 4.7.3: "Asked to decode 'APL' as an APL record, but missing subnet mask"
		configure: func(_ context.Context, _ *Server, zone, dir string, port int) (map[string]string, []string) {
			return map[string]string{
				"pdns.conf": fmt.Sprintf(`
launch=bind
bind-config=%s/zones
local-address=127.0.0.1
local-port=%d
socket-dir=%s
daemon=no
guardian=no
write-pid=no
disable-syslog=yes
log-timestamp=no
security-poll-suffix=
`, dir, port, dir),
				"zones": fmt.Sprintf("options { directory %q; };\nzone %q { type master; file \"zone\"; };\n", dir, zone),
			}, []string{"--config-dir=" + dir}
		},
	},
	{
		Name:    "nsd",
		Program: Program{Binary: "nsd", Packages: []string{"nsd"}},
		version: []string{"-v"},
		Items:   64, // its zone parser's limit of fields in a record
		configure: func(_ context.Context, _ *Server, zone, dir string, port int) (map[string]string, []string) {
			return map[string]string{"nsd.conf": fmt.Sprintf(`
server:
	ip-address: 127.0.0.1@%d
	do-ip6: no
	username: ""
	chroot: ""
	zonesdir: %q
	database: ""
	pidfile: ""
	xfrdfile: %q
	zonelistfile: %q
	xfrdir: %q
	server-count: 1
remote-control:
	control-enable: no
zone:
	name: %q
	zonefile: "zone"
`, port, dir, filepath.Join(dir, "xfrd.state"), filepath.Join(dir, "zone.list"), dir, zone)},
				[]string{"-d", "-c", filepath.Join(dir, "nsd.conf")}
		},
	},
	{
		Name:    "knot",
		Program: Program{Binary: "knotd", Packages: []string{"knot"}},
		version: []string{"--version"},
		configure: func(_ context.Context, _ *Server, zone, dir string, port int) (map[string]string, []string) {
			return map[string]string{"knot.conf": fmt.Sprintf(`
server:
    rundir: %q
    listen: 127.0.0.1@%d
database:
    storage: %q
log:
  - target: stderr
    any: info
zone:
  - domain: %s
    storage: %q
    file: zone
    journal-content: none
    zonefile-load: whole
`, dir, port, dir, zone, dir)}, []string{"-c", filepath.Join(dir, "knot.conf")}
		},
	},
}

// Relays are servers that ask another one, and keep its answers: a site with many firewalls asks the policy
// servers once. Each is to be run with an Upstream; it serves no zone file.
var Relays = []*Server{
	{
		Name:    "unbound",
		Program: Program{Binary: "unbound", Packages: []string{"unbound"}},
		version: []string{"-V"},
		// As threatstop.conf(5) advises, but for what makes it run as anybody and anywhere.
		configure: func(_ context.Context, s *Server, zone, dir string, port int) (map[string]string, []string) {
			host, upstream, _ := net.SplitHostPort(s.Upstream)
			return map[string]string{"unbound.conf": fmt.Sprintf(`
server:
	interface: 127.0.0.1@%d
	do-ip6: no
	username: ""
	chroot: ""
	directory: %q
	pidfile: ""
	use-syslog: no
	do-not-query-localhost: no
	access-control: 127.0.0.0/8 allow
	module-config: "iterator"
	domain-insecure: %q
	cache-max-ttl: 3600
	serve-expired: no
	aggressive-nsec: no
	rrset-cache-size: 128m
	msg-cache-size: 128m
%sremote-control:
	control-enable: no
forward-zone:
	name: %q
	forward-addr: %s@%s
	forward-tcp-upstream: yes
`, port, dir, zone, s.Options, zone, host, upstream)}, []string{"-d", "-p", "-c", filepath.Join(dir, "unbound.conf")}
		},
	},
	{
		Name:    "dnsdist",
		Program: Program{Binary: "dnsdist", Packages: []string{"dnsdist"}},
		version: []string{"--version"},
		configure: func(_ context.Context, s *Server, _, dir string, port int) (map[string]string, []string) {
			return map[string]string{"dnsdist.conf": fmt.Sprintf(`
setLocal("127.0.0.1:%d")
setSecurityPollSuffix("")
newServer({address=%q, tcpOnly=true, healthCheckMode="up"})
getPool(""):setCache(newPacketCache(100000, {maxTTL=3600, temporaryFailureTTL=5}))
`, port, s.Upstream)}, []string{"--supervised", "--disable-syslog", "-C", filepath.Join(dir, "dnsdist.conf")}
		},
	},
}

// Behind returns a copy of a relay that asks the server at an address and port. options are lines for the
// first section of its configuration.
func (s *Server) Behind(upstream, options string) *Server {
	relay := *s
	relay.Upstream, relay.Options = upstream, options
	return &relay
}

// Config returns the configuration of a relay.
func (s *Server) Config(zone, dir, upstream string) string {
	files, _ := s.Behind(upstream, "").configure(context.Background(), s.Behind(upstream, ""), zone, dir, 53)
	for _, text := range files {
		return text
	}
	return ""
}

// Names returns the names of all servers.
func Names() []string {
	var names []string
	for _, s := range servers {
		names = append(names, s.Name)
	}
	return names
}

// Choose returns the servers of the names given.
func Choose(names ...string) ([]*Server, error) {
	var out []*Server
next:
	for _, name := range names {
		for _, s := range servers {
			if s.Name == name {
				out = append(out, s)
				continue next
			}
		}
		return nil, fmt.Errorf("server %q: not one of %s", name, strings.Join(Names(), ", "))
	}
	return out, nil
}

// Version returns the server's version, or "unknown".
func (s *Server) Version(ctx context.Context) string {
	out, _ := exec.CommandContext(ctx, s.path, s.version...).CombinedOutput()
	return version(string(out))
}

// version finds the version in a server's output: the first word
// that begins like one.
func version(said string) string {
	for _, word := range strings.Fields(said) {
		var major, minor, patch int
		if n, _ := fmt.Sscanf(word, "%d.%d.%d", &major, &minor, &patch); n == 3 {
			return strings.TrimRight(word, ".,")
		}
	}
	return "unknown"
}

// unconfined returns a binary to run instead of path where AppArmor confines
// that to its system directories, as Debian's profile for named does: profiles
// go by the path, and a copy has none.
func unconfined(path, dir string) (string, error) {
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || !strings.HasPrefix(string(enabled), "Y") {
		return path, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	copied := filepath.Join(dir, filepath.Base(path))
	return copied, os.WriteFile(copied, b, 0o755)
}
