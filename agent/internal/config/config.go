package config

import (
	"net/netip"
	"net/url"
	"time"
)

// DefaultPath is where an installation keeps its configuration. A package sets it with the linker's -X.
var DefaultPath = "/usr/local/etc/threatstop.conf"

// UploadMode is which of the packets that pf logs are reported.
type UploadMode string

const (
	UploadHits UploadMode = "hits" // packets with an address that the policy blocks
	UploadAll  UploadMode = "all"  // every packet that pf logs
	UploadNone UploadMode = "no"   // none; the policy is enforced all the same
)

// Config is a checked configuration: every field has a value that is allowed, its default where the file does not
// set it. The name of the key is behind each field. Slices are nil when they are empty.
type Config struct {
	DeviceID string // device_id: the TDID; empty only with UploadNone

	// The policy: where it comes from.

	DNSServers    []string      // DNS_SERVERS: "192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:53", "name", "name:53"; never empty
	DNSSiblings   []string      // DNS_SIBLINGS: first labels of names that continue a list in the old layout
	DNSTimeout    time.Duration // DNS_TIMEOUT: for one answer
	SourceAddress netip.Addr    // SOURCE_ADDRESS: of queries and uploads; the zero Addr leaves the choice to the kernel
	BlockLists    []string      // BLOCK_LISTS: names without the final dot; never empty
	AllowLists    []string      // ALLOW_LISTS: likewise, may be empty
	PollInterval  time.Duration // POLL_INTERVAL: between two fetches of the policy
	StaleAfter    time.Duration // STALE_AFTER: the age from which a list is stale, at least PollInterval; 0 is three times PollInterval

	// The policy: what of it may be enforced.

	NeverBlock  []netip.Prefix // NEVER_BLOCK: masked; an address is a prefix of its full length
	MaxShrink   float64        // MAX_SHRINK: the part of a table, 0 to 1, that one update may take away unasked
	ShrinkHold  time.Duration  // SHRINK_HOLD: after this long below MaxShrink the smaller policy is believed
	MinPrefixV4 int            // MIN_PREFIX_V4: shorter IPv4 prefixes are dropped
	MinPrefixV6 int            // MIN_PREFIX_V6: shorter IPv6 prefixes are dropped
	MaxEntries  int            // MAX_ENTRIES: a list, or a policy, of more entries is refused
	Aggregate   bool           // AGGREGATE: the smallest equivalent table in place of the entries as listed
	KillStates  bool           // KILL_STATES: remove the states of newly blocked addresses

	// The policy: where it goes.

	OutDir     string        // OUT_DIR: absolute
	BlockFile  string        // BLOCK_FILE: absolute
	AllowFile  string        // ALLOW_FILE: absolute, not BlockFile
	BlockTable string        // BLOCK_TABLE: 1 to 31 bytes
	AllowTable string        // ALLOW_TABLE: likewise, not BlockTable
	ReloadPF   bool          // RELOAD_PF: load the tables into pf; else only check and write the files
	FullCheck  time.Duration // FULL_CHECK: between two comparisons of whole tables with the policy

	// The hits: where they come from.

	PflogIf   string        // PFLOG_IF: "pflog0"
	PflogFile string        // pflog: what pflogd(8) writes, absolute
	Backfill  time.Duration // BACKFILL: how far back the first start ever reports pflogd's files; 0 is not at all

	// The hits: where they go.

	Upload           UploadMode    // UPLOAD
	URL              *url.URL      // url: of the log server, https unless AllowHTTP; nil only with UploadNone
	AllowHTTP        bool          // ALLOW_HTTP: url may be http
	UploadInterval   time.Duration // UPLOAD_INTERVAL: a batch waits no longer
	UploadBatch      int           // UPLOAD_BATCH: lines in a batch at most
	UploadBatchBytes int64         // UPLOAD_BATCH_BYTES: bytes of lines in a batch at most
	UploadField      string        // UPLOAD_FIELD: form field of the lines
	UploadIDField    string        // UPLOAD_ID_FIELD: form field of the device id, not UploadField
	UploadGzip       bool          // UPLOAD_GZIP: compress the lines
	Proxy            *url.URL      // PROXY: http, https or socks5, with credentials if it needs them; nil is direct
	CAFile           string        // CA_FILE: PEM roots, absolute; empty means the system's
	SpoolDir         string        // SPOOL_DIR: absolute
	SpoolMax         int64         // SPOOL_MAX: bytes
	SpoolAge         time.Duration // SPOOL_AGE: older batches are dropped

	// The daemon.

	User        string         // USER: the service user, to whom the spool belongs
	StatusGroup string         // STATUS_GROUP: who may ask for the status; empty for root and wheel alone
	Metrics     netip.AddrPort // METRICS: where figures are served; the zero AddrPort is nowhere. Loopback, unless MetricsAny
	MetricsAny  bool           // METRICS_ANY: Metrics may be any address
	StatusPage  netip.AddrPort // STATUS_PAGE: where the status is served to browsers; loopback. The zero AddrPort is nowhere
	AuthURL     *url.URL       // AUTH_URL: the page that shows whether this host is authorised; nil: it is not requested

	Text string // the contents of the file
}
