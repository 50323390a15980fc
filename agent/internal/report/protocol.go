package report

import (
	"net/netip"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/capture"
)

// Config is what the role knows of the configuration, which was checked by package config. It is
// plain data, and the first message to the role.
type Config struct {
	Mode      string // UPLOAD: "hits", "all" for every packet, or "no": the role only serves the sockets
	Interface string // PFLOG_IF
	LogFile   string // what pflogd writes; "": its files are not read, for the reason NoLogs
	NoLogs    string

	Interval time.Duration // how long a hit waits for others, 0 for 15 minutes
	// BatchLines and BatchBytes bound a batch's text: 0 for 10,000 lines and 960 KiB. BatchBytes is
	// at least 8 KiB, and at most a tenth of SpoolMax and 16 MiB.
	BatchLines, BatchBytes int
	// SpoolDir is the directory for batches and the watermark, made with mode 0700 when it is
	// missing. SpoolMax bounds the size of the batch files in bytes, 0 for 64 MiB, at least 128 KiB;
	// an eighth of it is for batches that the server refused.
	SpoolDir string
	SpoolMax int64
	SpoolAge time.Duration // how long a batch is kept, 0 for ever
	Backfill time.Duration // how far back the first start ever reads pflogd's files, 0 for not at all
	// RetryMin is the pause after a first failure to deliver, 0 for 10 s; it doubles with each, up
	// to RetryMax, 0 for 15 min. Half of it is random.
	RetryMin, RetryMax time.Duration

	URL      string // of the log server: https or http
	DeviceID string
	// FileField and DeviceField are the names of the form's fields, "" for "upload_file" and "device_id".
	FileField, DeviceField string
	Gzip                   bool       // the file is sent compressed, under a name that ends in .gz
	Version                string     // in the User-Agent
	Proxy                  string     // its URL with credentials; "": none. The environment is not asked
	Source                 netip.Addr // to connect from; the zero one: the system chooses
	CAFile                 string     // certificates to trust instead of the system's, see Roots
	timeouts               timeouts

	LogLevel    int // the zerolog.Level from which on events are logged
	Confinement privsep.Confinement

	// The Client fills these in: which listeners the role inherits, and that a policy is in force and follows.
	Listeners [4]bool
	Policy    bool
}

// all reports whether every packet is reported, not only the hits.
func (c *Config) all() bool { return c.Mode == "all" }

// filter selects the packets that are read.
func (c *Config) filter() capture.Filter {
	if c.all() {
		return capture.FilterAll
	}
	return capture.FilterBlock
}

// Kinds of messages from main to the role.
const (
	kindSetup     = privsep.FirstKind + iota // a Config, the first message
	kindBegin                                // a policyHead: what follows replaces the policy in force
	kindChunk                                // of the policy (policy.Set.Chunks)
	kindCommit                               // the policy is complete
	kindStatus                               // main's part of a status (status.Encode), after every change and once a minute
	kindLine                                 // of a sync that was asked for
	kindDone                                 // of the sync: its exit code
	kindLogStatus                            // asks for a line about reporting in the log
	kindRetry                                // the configuration was read again: what the log server refused is sent again
	kindWarn                                 // a line of a sync that is a warning
)

// Kinds of messages from the role to main.
const (
	kindTrouble  = 32 + iota // a trouble begins or ends
	kindAskSync              // asks for a policy run now
	kindAskForce             // for one with force
)

const (
	chunkSize   = 256 << 10
	maxSyncLine = 2000 // bytes of a line
	maxWhy      = 500  // bytes of a trouble's text
	cut         = 4    // more bytes where privsep.Clean has cut a text
)

var (
	fromMain = privsep.Limits{
		kindSetup: 64 << 10, kindBegin: 1 << 20, kindChunk: chunkSize, kindCommit: 0, kindStatus: status.MaxEncoded,
		kindLine: maxSyncLine + cut, kindWarn: maxSyncLine + cut, kindDone: 1, kindLogStatus: 0, kindRetry: 0,
	}
	fromRole = privsep.Limits{kindTrouble: 16 * maxWhy, kindAskSync: 0, kindAskForce: 0}
)

// policyHead announces a policy. Own are the host's addresses.
type policyHead struct {
	V4, V6 int
	Lists  []string
	Own    []netip.Addr
	Sum    [32]byte // policy.Set.Sum
}

func newHead(set *policy.Set, own []netip.Addr) policyHead {
	n := set.Counts()
	return policyHead{V4: n.V4, V6: n.V6, Lists: set.Lists(), Own: own, Sum: set.Sum()}
}

// trouble is something that is wrong; with an empty text it has ended.
type trouble struct{ Key, Text string }

// Keys of troubles. The role may report all but the last.
const (
	TroubleCapture = "pflog"               // hits are not read
	TroubleUploads = "uploads"             // the log server cannot be reached with this configuration
	TroubleSpool   = "report: spool"       // the disk takes no batches
	TroubleFiles   = "report: spool files" // strange files are in the spool directory
	TroubleLogs    = "report: pflogd"      // pflogd's files cannot be read
	TroubleSyncs   = "report syncs"        // the role asks for more syncs than it may
)

// troubles has what main puts in front of each text that the role reports, and whether only the owner can
// cure it. The figures of the status show whether the others need the owner.
var troubles = map[string]struct {
	prefix     string
	needsOwner bool
}{
	TroubleCapture: {prefix: "hits are not read: "},
	TroubleUploads: {prefix: "no uploads, hits stay in the spool: ", needsOwner: true},
	TroubleSpool:   {},
	TroubleFiles:   {needsOwner: true},
	TroubleLogs:    {needsOwner: true},
}

// NeedsOwner reports whether a trouble of this key lasts until the owner has cured it and reloads.
func NeedsOwner(key string) bool { return troubles[key].needsOwner }

// thenReload is what the owner does after that.
const thenReload = ", then rcctl reload threatstopd"
