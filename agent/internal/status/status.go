package status

import (
	"net/netip"
	"strconv"
	"time"
)

// StatusFormat is the value of Status.Format: it changes when a field changes its
// meaning or goes away, not when one is added.
const StatusFormat = 1

// Status is what a daemon knows of itself at one moment. It is plain data: whoever fills
// it leaves at its zero value what is not known or does not apply. A zero time is
// "never" or "not planned". Counts are since Started unless it is said otherwise.
//
// Strings may come from strangers (a server's error); whoever prints them takes care of
// what is in them, as [Status.WriteText] does.
type Status struct {
	Format  int       `json:"format"` // StatusFormat; filled in when the status is sent
	Version string    `json:"version"`
	Config  string    `json:"config"` // the configuration file, absolute
	Started time.Time `json:"started"`
	Now     time.Time `json:"now"` // the daemon's clock; ages are counted to it

	// Enforced says that pf acts on the policy in force: pf is enabled, the
	// block table has entries, a loaded rule refers to it. NotEnforced says, where
	// Enforced is false, why, in one line, and what to do about it.
	Enforced    bool   `json:"enforced"`
	NotEnforced string `json:"not_enforced,omitempty"`

	Poll   Poll    `json:"poll"`
	Lists  []List  `json:"lists"`  // in the order of the configuration, block lists first
	Tables []Table `json:"tables"` // block first
	PF     PF      `json:"pf"`

	Hits    Hits    `json:"hits"`
	Uploads Uploads `json:"uploads"`

	Troubles []Trouble `json:"troubles"` // those that last, the oldest first
}

// Poll is about the runs that fetch the policy.
type Poll struct {
	Running  bool      `json:"running"`            // one is under way
	Last     time.Time `json:"last,omitzero"`      // when the last one ended
	Took     Seconds   `json:"took"`               // and how long it took
	Error    string    `json:"error,omitempty"`    // why it ended before the tables; "" when it came to them
	LastGood time.Time `json:"last_good,omitzero"` // when one last brought both tables to what the servers have
	Next     time.Time `json:"next,omitzero"`      // when the next begins, a retry too
	Interval Seconds   `json:"interval"`           // POLL_INTERVAL
	// StaleAfter is the age from which a list is stale, three intervals unless
	// STALE_AFTER says otherwise. 0: no list ever is.
	StaleAfter Seconds `json:"stale_after"`
}

// Values of List.Kind and Table.Kind, which are those of policy.Kind's String.
const (
	KindBlock = "block"
	KindAllow = "allow"
)

// List is one list of the policy.
type List struct {
	Kind string `json:"kind"` // KindBlock or KindAllow
	Name string `json:"name"`

	// What is in use, which is an earlier copy when Kept is set: the last attempt
	// failed then, and Error says why. With Fetched zero there is no copy
	// since the start, and what the persist files hold is in force.
	Server  string    `json:"server,omitempty"` // that gave it
	Layout  string    `json:"layout,omitempty"` // the records it is made of
	Parts   int       `json:"parts"`
	Entries int       `json:"entries"`
	Fetched time.Time `json:"fetched,omitzero"`
	Kept    bool      `json:"kept,omitempty"`

	Tried    time.Time `json:"tried,omitzero"`     // the last attempt
	Failures int       `json:"failures,omitempty"` // in a row, up to the last attempt
	Error    string    `json:"error,omitempty"`    // of the last attempt; "" when it was good
	Retry    time.Time `json:"retry,omitzero"`     // when it is fetched again before the next poll

	Enforced int `json:"enforced"`          // of its entries, those that count in the table
	Dropped  int `json:"dropped,omitempty"` // of its entries, those refused as too wide or no addresses
}

// Table is one pf table.
type Table struct {
	Kind string `json:"kind"` // KindBlock or KindAllow
	Name string `json:"name"` // with its anchor, as pfioctl.Table's String has it

	Loaded bool `json:"loaded"` // it is set in pf; false with RELOAD_PF=no
	Policy int  `json:"policy"` // entries of the policy last enforced, negated ones included
	Not    int  `json:"not"`    // of these, negated
	Kernel int  `json:"kernel"` // entries that pf counts in it; -1: pf has no such table
	Rules  int  `json:"rules"`  // loaded rules and anchors that refer to it

	Updated time.Time `json:"updated,omitzero"` // when it was last changed to a new policy
	Change  Change    `json:"change"`           // and what that changed
	Error   string    `json:"error,omitempty"`  // why the last policy could not be enforced

	Held *Held `json:"held,omitempty"` // nil: nothing is held back

	// Excepted names what the lists have and must not be blocked: those
	// exceptions that met entries, MaxNamed at most; ExceptedCount counts all.
	Excepted      []Excepted `json:"excepted,omitempty"`
	ExceptedCount int        `json:"excepted_count"`
	// Dropped names entries that were refused, MaxNamed at most; DroppedCount
	// counts all.
	Dropped      []Dropped `json:"dropped,omitempty"`
	DroppedCount int       `json:"dropped_count"`

	Checked time.Time `json:"checked,omitzero"` // when the whole table was last compared with the policy
	Drift   Drift     `json:"drift"`

	File        string    `json:"file,omitempty"`         // the persist file; "" when there is none
	FileWritten time.Time `json:"file_written,omitzero"`  // when it was last replaced, by an earlier process too
	FileEntries int       `json:"file_entries,omitempty"` // what it holds
}

// MaxNamed is how many exceptions, dropped entries and troubles a Status names of each:
// what is more is cut off when it is sent.
const MaxNamed = 100

// Change is what one step changed in a table.
type Change struct {
	Added   int `json:"added"`
	Deleted int `json:"deleted"`
	Changed int `json:"changed"` // entries that became negated, or ceased to be
}

// Held is a policy that was held back, because it takes too much out of a table.
type Held struct {
	Why     string    `json:"why"`     // with the numbers, and since and until when
	Entries int       `json:"entries"` // of the policy that is held back
	Since   time.Time `json:"since,omitzero"`
	Until   time.Time `json:"until,omitzero"` // when it will be believed; zero: never by itself
	// Forcible says that --sync-now --force enforces it, as it does all but an empty block table.
	Forcible bool `json:"forcible"`
}

// Excepted is an exception that entries of block lists met.
type Excepted struct {
	Prefix netip.Prefix `json:"prefix"`
	Why    string       `json:"why"`    // "own address of em0"
	Inside int          `json:"inside"` // entries that lie inside it, and are not enforced
	Around int          `json:"around"` // entries that are wider, and enforced but for it
	Lists  []string     `json:"lists"`  // the lists that have them
}

// Dropped is an entry that was refused.
type Dropped struct {
	Entry string `json:"entry"` // "!" before it when it is negated
	List  string `json:"list"`
	Why   string `json:"why"`
}

// Drift is what else than the daemon changed in a table, and the daemon put right.
type Drift struct {
	Mended int       `json:"mended"`        // how many times
	Last   time.Time `json:"last,omitzero"` // the last of them
	Change Change    `json:"change"`        // and what mending it changed
}

// PF is about pf as a whole.
type PF struct {
	Running bool `json:"running"` // it is enabled
	// Limit is pf's table-entries, 0 when it is not known; Used the entries in
	// all tables of the host, whoever's.
	Limit int `json:"limit"`
	Used  int `json:"used"`
	// Reload is how many more pf needs for as long as `pfctl -f` takes, which
	// builds the tables with persist files beside those in force. When Used +
	// Reload is beyond Limit, pf.conf does not load any more.
	Reload int `json:"reload"`
	// Advice is what to write into pf.conf about that; "" when all is well.
	Advice string `json:"advice,omitempty"`
}

// Hits are the packets that pf logged and the policy explains.
type Hits struct {
	Mode      string `json:"mode"`      // UPLOAD: "hits", "all", or "no": nothing is captured then
	Interface string `json:"interface"` // "pflog0"
	// Capturing says that the interface is read. When it is not, Error says why.
	Capturing bool   `json:"capturing"`
	Error     string `json:"error,omitempty"`

	// Since is when Seen, Matched, Lists, Drops and the counts of Uploads began to count:
	// they outlive the daemon. Zero: Status.Started.
	Since   time.Time  `json:"since,omitzero"`
	Seen    int64      `json:"seen"`            // packets that were logged
	Matched int64      `json:"matched"`         // those of them with an address on the policy
	Lists   []ListHits `json:"lists,omitempty"` // matched, by list
	Drops   []Drop     `json:"drops,omitempty"` // what was lost, by reason; reasons with nothing lost may be left out

	Hour   Top    `json:"hour"`   // the last hour
	Day    Top    `json:"day"`    // the last day
	Hourly Hourly `json:"hourly"` // hits of each hour
	// CatchUp says in a few words what reading pflogd's files is at, for what was
	// logged while no daemon ran.
	CatchUp string `json:"catch_up,omitempty"`
}

// ListHits are the hits of one list.
type ListHits struct {
	List string `json:"list"`
	Hits int64  `json:"hits"`
}

// Reasons for losing packets or hits, in the order of their way. All but the first four
// are hits that should have been delivered.
const (
	DropKernel      = "kernel"       // bpf's buffer was full: nobody knows whether they were hits
	DropMalformed   = "malformed"    // reads that did not parse to the end
	DropUndecoded   = "undecoded"    // packets cut or broken: matched by what could be read
	DropNoPolicy    = "no_policy"    // packets from before the first policy
	DropMemory      = "memory"       // every batch in memory was full
	DropUnsaved     = "unsaved"      // in memory at the end, and the disk did not take them
	DropSpoolFull   = "spool_full"   // the oldest went to make room
	DropSpoolAge    = "spool_age"    // older than SPOOL_AGE
	DropSpoolDamage = "spool_damage" // not readable any more
	DropRefused     = "refused"      // refused by the log server, and no room to set them aside
)

// Drop is how many packets, or lines, were lost for one reason.
type Drop struct {
	Reason string    `json:"reason"` // one of the Drop… constants
	Count  int64     `json:"count"`
	Last   time.Time `json:"last,omitzero"` // when the count was last seen to grow; zero when that is not known
}

// Top is who hits most in a span of time.
type Top struct {
	From time.Time `json:"from,omitzero"` // when the span begins; it ends at Status.Now
	Hits int64     `json:"hits"`          // all hits in it
	// The most frequent first.
	Addresses []Counted `json:"addresses,omitempty"` // listed addresses: "192.0.2.1"
	Ports     []Counted `json:"ports,omitempty"`     // "22/tcp"; "icmp" for a protocol without ports
	Lists     []Counted `json:"lists,omitempty"`
}

// Counted is a key and how often it came: Hits times at least, and at most Slack times
// more. Slack is 0 unless more different keys came than are kept.
type Counted struct {
	Key   string `json:"key"`
	Hits  int64  `json:"hits"`
	Slack int64  `json:"slack,omitempty"`
}

// HistoryHours is how many hours have a count, the one that is being filled included.
const HistoryHours = 48

// Hourly has the hits of each hour.
type Hourly struct {
	From   time.Time `json:"from,omitzero"` // when the first of these hours began
	Counts []int64   `json:"counts"`        // the oldest hour first; the last one has not ended
}

// Volume is an amount of lines in batches. Bytes are of lines, uncompressed.
type Volume struct {
	Batches int64 `json:"batches"`
	Lines   int64 `json:"lines"`
	Bytes   int64 `json:"bytes"`
}

// Uploads are about the log server.
type Uploads struct {
	Server    string  `json:"server,omitempty"` // host of the log server; "" when nothing is uploaded
	Last      *Upload `json:"last,omitempty"`   // the last batch that was delivered; nil: none
	Delivered Volume  `json:"delivered"`

	InMemory int64  `json:"in_memory"` // lines that are not in the spool yet
	Spool    Volume `json:"spool"`     // what waits there, of earlier processes too
	SpoolDir string `json:"spool_dir,omitempty"`
	DiskUsed int64  `json:"disk_used"` // bytes of its files
	DiskMax  int64  `json:"disk_max"`  // SPOOL_MAX
	Aside    Volume `json:"aside"`     // refused by the server, set aside in the spool directory

	Tried        time.Time `json:"tried,omitzero"`         // the last attempt
	Error        string    `json:"error,omitempty"`        // of the last attempt; "" when it was good
	FailingSince time.Time `json:"failing_since,omitzero"` // the first failure since the last delivery
	Failures     int64     `json:"failures"`
	Next         time.Time `json:"next,omitzero"` // when the next batch is due
}

// Upload is one batch that was delivered. With Lines 0 no more than when is known.
type Upload struct {
	At    time.Time `json:"at"`
	Lines int64     `json:"lines"`
	Bytes int64     `json:"bytes"`
	Took  Seconds   `json:"took"`
}

// Trouble is something that is wrong now.
type Trouble struct {
	Text  string    `json:"text"`
	Since time.Time `json:"since"`
	Last  time.Time `json:"last,omitzero"` // when it was last noticed
	Count int64     `json:"count"`         // how many times
	// NeedsOwner says that it will not pass by itself, so that [NeedsOwner]
	// has it, too.
	NeedsOwner bool `json:"needs_owner,omitempty"`
}

// Seconds is a duration; in JSON a number of seconds, to the millisecond.
type Seconds time.Duration

// Duration returns d as a time.Duration.
func (d Seconds) Duration() time.Duration { return time.Duration(d) }

// MarshalJSON writes d as 1.5.
func (d Seconds) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, time.Duration(d).Round(time.Millisecond).Seconds(), 'f', -1, 64), nil
}

// UnmarshalJSON reads what MarshalJSON writes. What is beyond a time.Duration becomes
// the nearest one that is not.
func (d *Seconds) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return err
	}
	const most = float64(1<<63-1) / float64(time.Second)
	switch {
	case f >= most:
		*d = 1<<63 - 1
	case f <= -most:
		*d = -1 << 63
	default:
		*d = Seconds(time.Duration(f * float64(time.Second)).Round(time.Millisecond))
	}
	return nil
}
