package config

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Key is a row of the table of keys.
type Key struct {
	Section string // the heading of the first key of a group, else empty
	Name    string
	Default string // as one would write it in the file, unquoted; empty is none. It may refer to $OUT_DIR
	Example string // a value for a key that has no default
	Need    string // what a required key is needed for; empty for an optional one
	Doc     string // what it is for: whole sentences
	kind
	filled      bool // the example sets the key, to its default where it has one: every installation has it
	hits        bool // the key is needed for reporting hits only
	placeholder bool // the owner must replace Example by a value of their own
	unused      bool // the key has no effect
}

// Keys returns all keys in the order in which the file explains them.
func Keys() []Key { return slices.Clone(keys) }

const (
	day = 24 * time.Hour
	mib = 1 << 20
)

// keys is the one place that knows the keys. A default may use $OUT_DIR, so that one
// comes first.
var keys = []Key{
	{
		Section: "This device",
		Name:    "device_id", Example: "tdid_abcd1234",
		Need: "the name under which hits are reported",
		Doc: `The id (TDID) of this device, as the web site of the service shows it. It is sent with every
			upload. Needed unless UPLOAD=no.`,
		kind:   deviceID(func(c *Config) *string { return &c.DeviceID }),
		filled: true, hits: true, placeholder: true,
	},
	{
		Section: "The policy: where it comes from",
		Name:    "DNS_SERVERS", Example: "ts-dns.threatstop.com dns.threatstop.com",
		Need: "the policy servers that are asked for the lists",
		Doc: `The policy servers, in the order in which they are tried. A server without a port is tried on port
			53, then on 5353. The service identifies a device by its public address and answers no other.`,
		kind:   servers(func(c *Config) *[]string { return &c.DNSServers }),
		filled: true,
	},
	{
		Name: "BLOCK_LISTS", Example: "basic.threatstop.local",
		Need: "the lists of the policy that are blocked",
		Doc: `The block lists of the policy. An address on any of them is blocked unless an allow list or
			NEVER_BLOCK contains it.`,
		kind:   names(func(c *Config) *[]string { return &c.BlockLists }),
		filled: true, placeholder: true,
	},
	{
		Name:   "ALLOW_LISTS",
		Doc:    "The allow lists of the policy. An address on any of them is not blocked.",
		kind:   names(func(c *Config) *[]string { return &c.AllowLists }),
		filled: true,
	},
	{
		Name: "POLL_INTERVAL", Default: "1h",
		Doc:  "How often the lists are fetched.",
		kind: duration(func(c *Config) *time.Duration { return &c.PollInterval }, time.Minute, 7*day),
	},
	{
		Name: "STALE_AFTER", Default: "0",
		Doc: `A list that could not be fetched for this long is stale: it stays in force, with a warning. 0
			means three times POLL_INTERVAL.`,
		kind: duration(func(c *Config) *time.Duration { return &c.StaleAfter }, 0, 90*day),
	},
	{
		Name: "DNS_TIMEOUT", Default: "10s",
		Doc: `How long a policy server may take to accept a connection, and to send each complete answer. A list
			may take up to an hour while answers keep coming.`,
		kind: duration(func(c *Config) *time.Duration { return &c.DNSTimeout }, time.Second, 5*time.Minute),
	},
	{
		Name: "DNS_SIBLINGS", Default: "basic1 basic2 basic3 basic4",
		Doc: `Old policies store addresses in A records and continue a list of more than about 4000 addresses
			under neighbouring names. These are the first labels of such names: basic1 continues the list
			basic.threatstop.local and no other. Newer layouts do not use them.`,
		kind: labels(func(c *Config) *[]string { return &c.DNSSiblings }),
	},
	{
		Name: "SOURCE_ADDRESS",
		Doc: `The address of this host that queries and uploads are sent from. Set it if a firewall has several
			addresses and the kernel's choice is not the one that the service knows.`,
		kind: hostAddr(func(c *Config) *netip.Addr { return &c.SourceAddress }),
	},
	{
		Section: "The policy: where it goes",
		Name:    "OUT_DIR", Default: "/var/db",
		Doc:    "The directory of the table files.",
		kind:   filePath(func(c *Config) *string { return &c.OutDir }, "directory"),
		filled: true,
	},
	{
		Name: "BLOCK_FILE", Default: "$OUT_DIR/ThreatSTOP-Block.pftable",
		Doc:    "The file from which pf.conf loads the block table at boot.",
		kind:   filePath(func(c *Config) *string { return &c.BlockFile }, "file"),
		filled: true,
	},
	{
		Name: "ALLOW_FILE", Default: "$OUT_DIR/ThreatSTOP-Allow.pftable",
		Doc:    "The same for the allow table.",
		kind:   filePath(func(c *Config) *string { return &c.AllowFile }, "file"),
		filled: true,
	},
	{
		Name: "BLOCK_TABLE", Default: "ThreatSTOP-Block",
		Doc:    "The pf table of blocked addresses, as pf.conf names it.",
		kind:   tableName(func(c *Config) *string { return &c.BlockTable }),
		filled: true,
	},
	{
		Name: "ALLOW_TABLE", Default: "ThreatSTOP-Allow",
		Doc:    "The pf table of the addresses on the allow lists.",
		kind:   tableName(func(c *Config) *string { return &c.AllowTable }),
		filled: true,
	},
	{
		Name: "RELOAD_PF", Default: "yes",
		Doc: `Whether the tables are loaded into pf. With no, pf only checks them and the files are written; the
			policy is in force when pf.conf is loaded the next time.`,
		kind:   yesNo(func(c *Config) *bool { return &c.ReloadPF }),
		filled: true,
	},
	{
		Name: "FULL_CHECK", Default: "15m",
		Doc: `How often each whole table is compared with the policy, and repaired if something else has changed
			it. Whether pf is enabled, the number of entries and whether a rule refers to the table are
			checked every minute.`,
		kind: duration(func(c *Config) *time.Duration { return &c.FullCheck }, time.Minute, 7*day),
	},
	{
		Section: "The policy: what of it is enforced",
		Name:    "NEVER_BLOCK",
		Doc: `Networks that are never blocked, even if a list contains them. This host's own addresses, its
			gateways, resolvers and servers, connected private networks, and loopback, link-local and
			multicast addresses are never blocked and need not be listed.`,
		kind: networks(func(c *Config) *[]netip.Prefix { return &c.NeverBlock }),
	},
	{
		Name: "MAX_SHRINK", Default: "50%",
		Doc: `A new policy that removes more than this part of a table of 100 entries or more is held: usually
			the lists are broken then.`,
		kind: percent(func(c *Config) *float64 { return &c.MaxShrink }),
	},
	{
		Name: "SHRINK_HOLD", Default: "24h",
		Doc: `A policy that has been that small for this long is enforced. One that leaves less than a tenth of
			the table is enforced only with --force.`,
		kind: duration(func(c *Config) *time.Duration { return &c.ShrinkHold }, 0, 90*day),
	},
	{
		Name: "MIN_PREFIX_V4", Default: "8",
		Doc:  "IPv4 networks on a block list that are wider than this are dropped and reported.",
		kind: count(func(c *Config) *int { return &c.MinPrefixV4 }, 1, 32),
	},
	{
		Name: "MIN_PREFIX_V6", Default: "16",
		Doc:  "The same for IPv6 networks.",
		kind: count(func(c *Config) *int { return &c.MinPrefixV6 }, 1, 128),
	},
	{
		Name: "MAX_ENTRIES", Default: "4000000",
		Doc: `A list or a policy with more entries is refused. This limits the memory of threatstopd; "set limit
			table-entries" in pf.conf limits what fits into pf.`,
		kind: count(func(c *Config) *int { return &c.MaxEntries }, 1, 20_000_000),
	},
	{
		Name: "AGGREGATE", Default: "no",
		Doc: `Whether the tables contain the fewest entries that block the same addresses. With no they contain
			the entries of the lists, which can be searched for.`,
		kind: yesNo(func(c *Config) *bool { return &c.Aggregate }),
	},
	{
		Name: "KILL_STATES", Default: "no",
		Doc: `Whether open connections end when one of their addresses becomes blocked. With no they continue
			until they end by themselves. Only states of addresses that the last update has newly blocked are
			removed, and none at the first update after a start. This needs a process of its own, which could
			change all of pf if it were taken over: see PROCESSES in threatstopd(8).`,
		kind: yesNo(func(c *Config) *bool { return &c.KillStates }),
	},
	{
		Section: "The hits: where they come from",
		Name:    "UPLOAD", Default: "hits",
		Doc: `Which of the packets that pf logs are reported: hits are those from or to an address that the
			policy blocks; all includes those of other rules; no reports none.`,
		kind: oneOf(func(c *Config) *UploadMode { return &c.Upload }, "hits, all or no",
			map[string]UploadMode{"hits": UploadHits, "all": UploadAll, "no": UploadNone}, asText[UploadMode]),
	},
	{
		Name: "PFLOG_IF", Default: "pflog0",
		Doc: `The interface on which pf logs them, if it is not pflog0: pf.conf names it with "log (to pflog1)".
			It is created if it does not exist.`,
		kind: pflogIf(func(c *Config) *string { return &c.PflogIf }),
	},
	{
		Name: "pflog", Default: "/var/log/pflog",
		Doc: `The file that pflogd(8) writes. It is read once at start, with its rotated files, for packets
			logged while threatstopd was not running.`,
		kind:   filePath(func(c *Config) *string { return &c.PflogFile }, "file"),
		filled: true,
	},
	{
		Name: "BACKFILL", Default: "0",
		Doc:  "How far back the very first start reports from those files.",
		kind: duration(func(c *Config) *time.Duration { return &c.Backfill }, 0, 366*day),
	},
	{
		Section: "The hits: where they go",
		Name:    "url", Example: "https://logs.threatstop.com/",
		Need: "the log server that hits are uploaded to",
		Doc: `The log server, as the service gives it for this device. Needed unless UPLOAD=no. Put it in
			quotes: it may contain an &.`,
		kind:   address(func(c *Config) **url.URL { return &c.URL }, "a URL that begins with https://", true, "https", "http"),
		filled: true, hits: true,
	},
	{
		Name: "UPLOAD_INTERVAL", Default: "15m",
		Doc:  "How long a hit waits for others before they are uploaded together.",
		kind: duration(func(c *Config) *time.Duration { return &c.UploadInterval }, time.Second, day),
	},
	{
		Name: "UPLOAD_BATCH", Default: "10000",
		Doc:  "The most lines in one upload.",
		kind: count(func(c *Config) *int { return &c.UploadBatch }, 1, 1_000_000),
	},
	{
		// With the form around it, below the 1 MiB that a web server
		// in front of an application takes by default.
		Name: "UPLOAD_BATCH_BYTES", Default: "960K",
		Doc:  "The most bytes of lines in one upload, before compression.",
		kind: size(func(c *Config) *int64 { return &c.UploadBatchBytes }, 64<<10, 256*mib),
	},
	{
		Name: "UPLOAD_FIELD", Default: "upload_file",
		Doc:  "The form field that contains the lines, as a file.",
		kind: fieldName(func(c *Config) *string { return &c.UploadField }),
	},
	{
		Name: "UPLOAD_ID_FIELD", Default: "device_id",
		Doc:  "The form field that contains the id of the device.",
		kind: fieldName(func(c *Config) *string { return &c.UploadIDField }),
	},
	{
		Name: "UPLOAD_GZIP", Default: "no",
		Doc:  "Whether the lines are compressed with gzip.",
		kind: yesNo(func(c *Config) *bool { return &c.UploadGzip }),
	},
	{
		Name: "PROXY",
		Doc: `The proxy that uploads go through; without one they go directly. A user and a password are written
			before the host, http://user:password@proxy:3128, with %40 for @, %3A for : and %25 for % in them;
			the file must then be readable by its owner alone.`,
		kind: address(func(c *Config) **url.URL { return &c.Proxy }, "a URL of http, https or socks5, of host and port, such as http://192.0.2.1:3128", false, "http", "https", "socks5"),
	},
	{
		Name: "CA_FILE",
		Doc: `The certificates, in PEM form, of the authorities that are trusted for the log server, instead of
			those of the system in /etc/ssl/cert.pem. A file that others can write to is refused.`,
		kind: filePath(func(c *Config) *string { return &c.CAFile }, "file"),
	},
	{
		Name: "ALLOW_HTTP", Default: "no",
		Doc:  `Whether url may begin with http://. Anybody on the path can read such an upload, and answer it.`,
		kind: yesNo(func(c *Config) *bool { return &c.AllowHTTP }),
	},
	{
		Name: "SPOOL_DIR", Default: "/var/spool/threatstop",
		Doc:  "The directory that keeps hits while the log server cannot be reached.",
		kind: filePath(func(c *Config) *string { return &c.SpoolDir }, "directory"),
	},
	{
		Name: "SPOOL_MAX", Default: "64M",
		Doc:  "How large it may become. The oldest hits are then dropped and counted.",
		kind: size(func(c *Config) *int64 { return &c.SpoolMax }, mib, 64<<30),
	},
	{
		Name: "SPOOL_AGE", Default: "7d",
		Doc:  "How old hits in it may become. Older ones are dropped and counted.",
		kind: duration(func(c *Config) *time.Duration { return &c.SpoolAge }, time.Hour, 366*day),
	},
	{
		Section: "The daemon",
		Name:    "USER", Default: "_threatstop",
		Doc: `The service user: the processes that use the network run as it, and the spool belongs to it. Use
			it for nothing else. pf.conf can limit what it connects to: see PROCESSES in
			threatstopd(8).`,
		kind: account(func(c *Config) *string { return &c.User }),
	},
	{
		Name: "STATUS_GROUP",
		Doc: `The group whose members may read the status, for monitoring, in addition to root and wheel. They
			may do nothing else. They use the socket /var/run/threatstopd-status.sock.`,
		kind: account(func(c *Config) *string { return &c.StatusGroup }),
	},
	{
		Name: "METRICS",
		Doc: `Where metrics are served to Prometheus, over HTTP and without authentication, such as
			127.0.0.1:9110. If it is not set, they are not served. An address other than loopback requires
			METRICS_ANY=yes.`,
		kind: listener(func(c *Config) *netip.AddrPort { return &c.Metrics }),
	},
	{
		Name: "METRICS_ANY", Default: "no",
		Doc: `Whether METRICS may be an address that other hosts can reach. They can then see which lists and
			servers are used, and what is blocked how often.`,
		kind: yesNo(func(c *Config) *bool { return &c.MetricsAny }),
	},
	{
		Name: "AUTH_URL",
		Doc: `The page of the service that shows whether the policy servers answer this host's public address.
			"threatstopd --test" requests it; if it is not set, this is not checked.`,
		kind: address(func(c *Config) **url.URL { return &c.AuthURL }, "a URL that begins with https:// or http://", true, "https", "http"),
	},
	{
		Section: "Left from older installations",
		Name:    "logfile",
		Doc:     "The text file that uploads were made from. It is accepted and has no effect.",
		kind:    anything(),
		unused:  true,
	},
}

// byName is an index of keys.
var byName = func() map[string]*Key {
	m := make(map[string]*Key, len(keys))
	for i := range keys {
		m[keys[i].Name] = &keys[i]
	}
	return m
}()

// find returns the row of a key, or nil.
func find(name string) *Key { return byName[name] }

// secret reports whether the value of a key may contain one.
func secret(name string) bool {
	k := find(name)
	return k != nil && k.shown != nil
}

// nearest returns the known key that name was probably meant to be, or "": one
// letter in three may be wrong, two at most, capitals aside.
func nearest(name string) string {
	best, found := 3, ""
	for i := range keys {
		k := keys[i].Name
		d := distance(strings.ToLower(name), strings.ToLower(k))
		if d < best && 3*d <= len(k) {
			best, found = d, k
		}
	}
	return found
}

// distance is the Levenshtein distance of two names: the letters to insert, delete
// or replace.
func distance(a, b string) int {
	if abs := len(a) - len(b); abs > 2 || abs < -2 {
		return 3 // far enough for nearest, and a name can be long
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d++
			}
			diagonal = row[j+1]
			row[j+1] = min(d, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
