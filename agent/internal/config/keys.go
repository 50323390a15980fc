package config

import (
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Key is what the manual and threatstop.conf.example say about one key.
type Key struct {
	Name    string
	Default string // as one would write it in the file, unquoted; empty is none. It may refer to $OUT_DIR
	Example string // a value for a key that has no default
	Need    string // what a required key is needed for; empty for an optional one
	Doc     string // what it is for: whole sentences
	Allowed string // completes "allowed: …"
	Section string // the heading of the first key of a group, else empty
}

// Keys returns all keys in the order in which the file explains them.
func Keys() []Key {
	all := make([]Key, len(keys))
	for i := range keys {
		all[i] = keys[i].Key
		all[i].Allowed = keys[i].allowed
	}
	return all
}

// key is a row of the table of keys.
type key struct {
	Key
	kind
	// filled has the example set the key, to its default where it has one: the
	// keys that every installation has.
	filled bool
	// hits says that the key is needed for reporting hits only.
	hits bool
}

const (
	day = 24 * time.Hour
	mib = 1 << 20
)

// keys is the one place that knows the keys. A default may use $OUT_DIR, so that one
// comes first.
var keys = []key{
	{
		Key: Key{
			Section: "This device",
			Name:    "device_id",
			Example: "tdid_abcd1234",
			Need:    "the name under which hits are reported",
			Doc:     "The id of this device, its TDID, as the web site of the service shows it. It goes with every upload. Needed unless UPLOAD=no.",
		},
		kind:   deviceID(func(c *Config) *string { return &c.DeviceID }),
		filled: true, hits: true,
	},
	{
		Key: Key{
			Section: "The policy: where it comes from",
			Name:    "DNS_SERVERS",
			Example: "ts-dns.threatstop.com dns.threatstop.com",
			Need:    "the policy servers that are asked for the lists",
			Doc: "The policy servers, in the order in which they are tried. One without a port is asked on port 53, then on 5353. " +
				"The service knows a device by its public address, and answers no other.",
		},
		kind:   servers(func(c *Config) *[]string { return &c.DNSServers }),
		filled: true,
	},
	{
		Key: Key{
			Name:    "BLOCK_LISTS",
			Example: "basic.threatstop.local",
			Need:    "the lists of the policy that are blocked",
			Doc:     "The block lists of the policy: addresses on any of them are blocked, unless an allow list or NEVER_BLOCK has them.",
		},
		kind:   names(func(c *Config) *[]string { return &c.BlockLists }),
		filled: true,
	},
	{
		Key: Key{
			Name: "ALLOW_LISTS",
			Doc:  "The allow lists of the policy: addresses on any of them are not blocked.",
		},
		kind:   names(func(c *Config) *[]string { return &c.AllowLists }),
		filled: true,
	},
	{
		Key: Key{
			Name:    "POLL_INTERVAL",
			Default: "1h",
			Doc:     "How often the lists are fetched.",
		},
		kind: duration(func(c *Config) *time.Duration { return &c.PollInterval }, time.Minute, 7*day),
	},
	{
		Key: Key{
			Name:    "STALE_AFTER",
			Default: "0",
			Doc:     "A list that could not be fetched for so long is stale: it stays in force, and its owner is warned. 0 is three times POLL_INTERVAL.",
		},
		kind: duration(func(c *Config) *time.Duration { return &c.StaleAfter }, 0, 90*day),
	},
	{
		Key: Key{
			Name:    "DNS_TIMEOUT",
			Default: "10s",
			Doc:     "How long a policy server may take to accept a connection, and for each whole answer. A list may take an hour as long as answers keep coming.",
		},
		kind: duration(func(c *Config) *time.Duration { return &c.DNSTimeout }, time.Second, 5*time.Minute),
	},
	{
		Key: Key{
			Name:    "DNS_SIBLINGS",
			Default: "basic1 basic2 basic3 basic4",
			Doc: "Old policies hold their addresses in A records, and continue a list of more than some 4000 under names beside it. " +
				"These are the first labels of such names: basic1 continues the list basic.threatstop.local, and no other. Newer layouts of a list make no use of it.",
		},
		kind: labels(func(c *Config) *[]string { return &c.DNSSiblings }),
	},
	{
		Key: Key{
			Name: "SOURCE_ADDRESS",
			Doc: "The address of this host that queries and uploads come from. Set it where a firewall has several, and the kernel's choice " +
				"is not the one that the service knows.",
		},
		kind: hostAddr(func(c *Config) *netip.Addr { return &c.SourceAddress }),
	},
	{
		Key: Key{
			Section: "The policy: where it goes",
			Name:    "OUT_DIR",
			Default: "/var/db",
			Doc:     "The directory of the table files.",
		},
		kind:   filePath(func(c *Config) *string { return &c.OutDir }, true),
		filled: true,
	},
	{
		Key: Key{
			Name:    "BLOCK_FILE",
			Default: "$OUT_DIR/ThreatSTOP-Block.pftable",
			Doc:     "The file from which pf.conf loads the block table at boot.",
		},
		kind:   filePath(func(c *Config) *string { return &c.BlockFile }, false),
		filled: true,
	},
	{
		Key: Key{
			Name:    "ALLOW_FILE",
			Default: "$OUT_DIR/ThreatSTOP-Allow.pftable",
			Doc:     "Likewise for the allow table.",
		},
		kind:   filePath(func(c *Config) *string { return &c.AllowFile }, false),
		filled: true,
	},
	{
		Key: Key{
			Name:    "BLOCK_TABLE",
			Default: "ThreatSTOP-Block",
			Doc:     "The pf table of what is blocked, as pf.conf names it.",
		},
		kind:   tableName(func(c *Config) *string { return &c.BlockTable }),
		filled: true,
	},
	{
		Key: Key{
			Name:    "ALLOW_TABLE",
			Default: "ThreatSTOP-Allow",
			Doc:     "The pf table of what the allow lists hold.",
		},
		kind:   tableName(func(c *Config) *string { return &c.AllowTable }),
		filled: true,
	},
	{
		Key: Key{
			Name:    "RELOAD_PF",
			Default: "yes",
			Doc:     "Whether the tables are loaded into pf. With no, pf only checks them, and the files are written: the policy is in force from the next time that pf.conf is loaded.",
		},
		kind:   yesNo(func(c *Config) *bool { return &c.ReloadPF }),
		filled: true,
	},
	{
		Key: Key{
			Name:    "FULL_CHECK",
			Default: "15m",
			Doc: "How often the whole of each table is compared with the policy, and put right where something else has changed it. " +
				"That pf is enabled, the number of entries and whether a rule refers to the table are looked at every minute.",
		},
		kind: duration(func(c *Config) *time.Duration { return &c.FullCheck }, time.Minute, 7*day),
	},
	{
		Key: Key{
			Section: "The policy: what of it is enforced",
			Name:    "NEVER_BLOCK",
			Doc: "What is never blocked, whatever the lists say. The addresses of this host, its gateways, resolvers and servers, private networks that it is " +
				"connected to, loopback, link-local and multicast addresses never are, and need not be named.",
		},
		kind: networks(func(c *Config) *[]netip.Prefix { return &c.NeverBlock }),
	},
	{
		Key: Key{
			Name:    "MAX_SHRINK",
			Default: "50%",
			Doc:     "A new policy that takes more than this part out of a table of 100 entries or more is held back: more often than not the lists are broken.",
		},
		kind: percent(func(c *Config) *float64 { return &c.MaxShrink }),
	},
	{
		Key: Key{
			Name:    "SHRINK_HOLD",
			Default: "24h",
			Doc:     "A policy that has stayed that small for so long is believed. One that leaves less than a tenth of the table is taken only with --force.",
		},
		kind: duration(func(c *Config) *time.Duration { return &c.ShrinkHold }, 0, 90*day),
	},
	{
		Key: Key{
			Name:    "MIN_PREFIX_V4",
			Default: "8",
			Doc:     "IPv4 networks on a block list that are wider than this are dropped, and reported.",
		},
		kind: count(func(c *Config) *int { return &c.MinPrefixV4 }, 1, 32),
	},
	{
		Key: Key{
			Name:    "MIN_PREFIX_V6",
			Default: "16",
			Doc:     "Likewise for IPv6 networks.",
		},
		kind: count(func(c *Config) *int { return &c.MinPrefixV6 }, 1, 128),
	},
	{
		Key: Key{
			Name:    "MAX_ENTRIES",
			Default: "4000000",
			Doc: "A list, or a policy, of more entries is refused. It bounds the memory of the agent; what fits into pf is bounded by " +
				"\"set limit table-entries\" in pf.conf.",
		},
		kind: count(func(c *Config) *int { return &c.MaxEntries }, 1, 20_000_000),
	},
	{
		Key: Key{
			Name:    "AGGREGATE",
			Default: "no",
			Doc:     "Whether the tables hold the fewest entries that block the same addresses. With no they hold the entries of the lists, which can be searched for.",
		},
		kind: yesNo(func(c *Config) *bool { return &c.Aggregate }),
	},
	{
		Key: Key{
			Name:    "KILL_STATES",
			Default: "no",
			Doc: "Whether connections that are open already end when an address of theirs becomes blocked. With no they go on until they end by themselves. " +
				"Only states of addresses that the last update has newly blocked are removed, and none at the first update after a start. " +
				"This takes a process of its own, which could change all of pf if it were taken over: see PROCESSES in threatstopd(8).",
		},
		kind: yesNo(func(c *Config) *bool { return &c.KillStates }),
	},
	{
		Key: Key{
			Section: "The hits: where they come from",
			Name:    "UPLOAD",
			Default: "hits",
			Doc:     "Which of the packets that pf logs are reported: hits are those from or to an address that the policy blocks; all are all of them, those of other rules too; no is none.",
		},
		kind: oneOf(func(c *Config) *UploadMode { return &c.Upload }, UploadHits, UploadAll, UploadNone),
	},
	{
		Key: Key{
			Name:    "PFLOG_IF",
			Default: "pflog0",
			Doc:     "The interface on which pf logs them: another one than pflog0 where pf.conf says so, with \"log (to pflog1)\". It is created when it does not exist.",
		},
		kind: pflogIf(func(c *Config) *string { return &c.PflogIf }),
	},
	{
		Key: Key{
			Name:    "pflog",
			Default: "/var/log/pflog",
			Doc:     "What pflogd(8) writes. It is read once at start, with its rotated files, for what was logged while the agent was down.",
		},
		kind:   filePath(func(c *Config) *string { return &c.PflogFile }, false),
		filled: true,
	},
	{
		Key: Key{
			Name:    "BACKFILL",
			Default: "0",
			Doc:     "How far back the first start ever reports from those files.",
		},
		kind: duration(func(c *Config) *time.Duration { return &c.Backfill }, 0, 366*day),
	},
	{
		Key: Key{
			Section: "The hits: where they go",
			Name:    "url",
			Example: "https://logs.threatstop.com/",
			Need:    "the log server that hits are uploaded to",
			Doc:     "The log server, as the service gives it for this device. Needed unless UPLOAD=no. Put it in quotes: it may have an & in it.",
		},
		kind:   address(func(c *Config) **url.URL { return &c.URL }, "a URL that begins with https://", true, "https", "http"),
		filled: true, hits: true,
	},
	{
		Key: Key{
			Name:    "UPLOAD_INTERVAL",
			Default: "15m",
			Doc:     "How long a hit waits for others before they are uploaded together.",
		},
		kind: duration(func(c *Config) *time.Duration { return &c.UploadInterval }, time.Second, day),
	},
	{
		Key: Key{
			Name:    "UPLOAD_BATCH",
			Default: "10000",
			Doc:     "The lines of one upload at most.",
		},
		kind: count(func(c *Config) *int { return &c.UploadBatch }, 1, 1_000_000),
	},
	{
		Key: Key{
			Name: "UPLOAD_BATCH_BYTES",
			// With the form around it, below the 1 MiB that a web server
			// in front of an application takes unless told otherwise.
			Default: "960K",
			Doc:     "The bytes of the lines of one upload at most, before compression.",
		},
		kind: size(func(c *Config) *int64 { return &c.UploadBatchBytes }, 64<<10, 256*mib),
	},
	{
		Key: Key{
			Name:    "UPLOAD_FIELD",
			Default: "upload_file",
			Doc:     "The field of the form that holds the lines, as a file.",
		},
		kind: fieldName(func(c *Config) *string { return &c.UploadField }),
	},
	{
		Key: Key{
			Name:    "UPLOAD_ID_FIELD",
			Default: "device_id",
			Doc:     "The field of the form that holds the id of the device.",
		},
		kind: fieldName(func(c *Config) *string { return &c.UploadIDField }),
	},
	{
		Key: Key{
			Name:    "UPLOAD_GZIP",
			Default: "no",
			Doc:     "Whether the lines are compressed with gzip.",
		},
		kind: yesNo(func(c *Config) *bool { return &c.UploadGzip }),
	},
	{
		Key: Key{
			Name: "PROXY",
			Doc: "The proxy that uploads go through; without one they go directly. A user and a password stand before the host, http://user:password@proxy:3128, " +
				"with %40 for an @ in them, %3A for a : and %25 for a %; the file must then be readable by its owner alone.",
		},
		kind: address(func(c *Config) **url.URL { return &c.Proxy }, "a URL of http, https or socks5, of host and port, such as http://192.0.2.1:3128", false, "http", "https", "socks5"),
	},
	{
		Key: Key{
			Name: "CA_FILE",
			Doc:  "The certificates, in PEM form, of the authorities that may vouch for the log server. Without it they are those of the system, /etc/ssl/cert.pem. A file that others can write to is refused.",
		},
		kind: filePath(func(c *Config) *string { return &c.CAFile }, false),
	},
	{
		Key: Key{
			Name:    "ALLOW_HTTP",
			Default: "no",
			Doc:     "Whether url may begin with http://. Everybody on the way can read such an upload, and answer it.",
		},
		kind: yesNo(func(c *Config) *bool { return &c.AllowHTTP }),
	},
	{
		Key: Key{
			Name:    "SPOOL_DIR",
			Default: "/var/spool/threatstop",
			Doc:     "The directory that keeps hits while the log server cannot be reached.",
		},
		kind: filePath(func(c *Config) *string { return &c.SpoolDir }, true),
	},
	{
		Key: Key{
			Name:    "SPOOL_MAX",
			Default: "64M",
			Doc:     "How large it may grow. The oldest hits are dropped then, and counted.",
		},
		kind: size(func(c *Config) *int64 { return &c.SpoolMax }, mib, 64<<30),
	},
	{
		Key: Key{
			Name:    "SPOOL_AGE",
			Default: "7d",
			Doc:     "How old hits may become in it. Older ones are dropped, and counted.",
		},
		kind: duration(func(c *Config) *time.Duration { return &c.SpoolAge }, time.Hour, 366*day),
	},
	{
		Key: Key{
			Section: "The daemon",
			Name:    "USER",
			Default: "_threatstop",
			Doc: "The service user: the processes for the network run as it, and the spool belongs to it. It should be used for nothing else. " +
				"pf.conf can say what it may connect to: see SECURITY CONSIDERATIONS in threatstopd(8).",
		},
		kind: account(func(c *Config) *string { return &c.User }),
	},
	{
		Key: Key{
			Name: "STATUS_GROUP",
			Doc: "The group whose members may ask for the status, beside root and wheel: for monitoring. They may ask for nothing else. " +
				"They do so at a socket of their own, /var/run/threatstopd-status.sock.",
		},
		kind: account(func(c *Config) *string { return &c.StatusGroup }),
	},
	{
		Key: Key{
			Name: "METRICS",
			Doc: "Where the figures of the status are served to Prometheus, over HTTP and to whoever asks, such as 127.0.0.1:9110. Without it nobody listens. " +
				"An address other than of loopback wants METRICS_ANY=yes.",
		},
		kind: listener(func(c *Config) *netip.AddrPort { return &c.Metrics }),
	},
	{
		Key: Key{
			Name:    "METRICS_ANY",
			Default: "no",
			Doc:     "Whether METRICS may be an address that other hosts reach. They see there which lists and servers are used, and what is blocked how often.",
		},
		kind: yesNo(func(c *Config) *bool { return &c.MetricsAny }),
	},
	{
		Key: Key{
			Name: "AUTH_URL",
			Doc: "The page of the service that tells whether this host's public address is one that the policy servers answer. " +
				"\"threatstopd --test\" asks it; without it that is not asked.",
		},
		kind: address(func(c *Config) **url.URL { return &c.AuthURL }, "a URL that begins with https:// or http://", true, "https", "http"),
	},
	{
		Key: Key{
			Section: "Left from older installations",
			Name:    "logfile",
			Doc:     "The text file that uploads were made from. It is accepted, and used for nothing.",
		},
		kind: anyText(func(c *Config) *string { return &c.LogFile }),
	},
}

// byName is an index of keys.
var byName = func() map[string]*key {
	m := make(map[string]*key, len(keys))
	for i := range keys {
		m[keys[i].Name] = &keys[i]
	}
	return m
}()

// find returns the row of a key, or nil.
func find(name string) *key { return byName[name] }

// secret says whether the value of a key may hold one.
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
