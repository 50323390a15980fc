package status

import (
	"encoding/json"
	"io"
	"net/netip"
	"time"
)

// Format is the value of Status.Format: it changes when a field changes its meaning or goes
// away, not when one is added.
const Format = 1

// Status is what a daemon knows of itself at one moment. It is plain data: what is not known
// or does not apply has its zero value. A zero time is "never" or "not planned". Counts are
// since Started where nothing else is documented.
//
// Strings may come from strangers (a server's error) and contain anything: text and metrics clean them.
type Status struct {
	Format   int       `json:"format"` // Format; filled in when the status is sent
	Version  string    `json:"version"`
	Config   string    `json:"config"` // the configuration file, absolute
	Started  time.Time `json:"started"`
	Now      time.Time `json:"now"`               // the daemon's clock; ages are counted to it
	Reported time.Time `json:"reported,omitzero"` // when main made its part of this status
	// Enforced says that pf acts on the policy in force: pf is enabled, the block table has entries, a
	// loaded rule refers to it. Where it is false, NotEnforced is the reason and what to do about it, in
	// one line; or NotKnown is the reason why nothing is known about it.
	Enforced    bool   `json:"enforced"`
	NotEnforced string `json:"not_enforced,omitempty"`
	NotKnown    string `json:"not_known,omitempty"`
	// Unsure is, where Enforced is false and the other two are empty, why it is not known whether pf acts
	// on the policy, though nothing is wrong: the release is newer than the program.
	Unsure    string    `json:"unsure,omitempty"`
	Poll      Poll      `json:"poll"`
	Lists     []List    `json:"lists"`  // in the order of the configuration, block lists first
	Tables    []Table   `json:"tables"` // block first
	PF        PF        `json:"pf"`
	Hits      Hits      `json:"hits"`
	Uploads   Uploads   `json:"uploads"`
	Troubles  []Trouble `json:"troubles"`            // those that last, the oldest first
	Processes []Process `json:"processes,omitempty"` // main, then the roles
}

// Poll is about the runs that fetch the policy.
type Poll struct {
	Running  bool      `json:"running"`                 // one is under way
	Applying time.Time `json:"applying_since,omitzero"` // when it began to set pf's tables; zero when it does not
	Last     time.Time `json:"last,omitzero"`           // when the last one ended
	Took     Seconds   `json:"took_seconds"`            // and how long it took
	Error    string    `json:"error,omitempty"`         // why it ended before the tables; "" when it came to them
	LastGood time.Time `json:"last_good,omitzero"`      // when one last brought both tables to what the servers have
	Next     time.Time `json:"next,omitzero"`           // when the next begins, a retry too
	Interval Seconds   `json:"interval_seconds"`        // POLL_INTERVAL
	// StaleAfter is the age from which a list is stale, STALE_AFTER or three intervals; 0: no list ever is.
	StaleAfter Seconds `json:"stale_after_seconds"`
}

// List is one list of the policy.
type List struct {
	Kind string `json:"kind"` // "block" or "allow"
	Name string `json:"name"`
	// What is in use. It is an earlier copy when Kept is set: the last attempt failed, and
	// Error is the reason. With Fetched zero no copy has come since the start, and what the
	// table files hold is in force.
	Server   string    `json:"server,omitempty"` // that gave it
	Layout   string    `json:"layout,omitempty"` // the records it is made of
	Parts    int       `json:"parts"`
	Entries  int       `json:"entries"`
	Fetched  time.Time `json:"fetched,omitzero"`
	Kept     bool      `json:"kept,omitempty"`
	Tried    time.Time `json:"tried,omitzero"`     // the last attempt
	Failures int       `json:"failures,omitempty"` // in a row, up to the last attempt
	Error    string    `json:"error,omitempty"`    // of the last attempt; "" when it was good
	Absent   bool      `json:"absent,omitempty"`   // the servers answered that there is no such list, or that it is empty
	Retry    time.Time `json:"retry,omitzero"`     // when it is fetched again before the next poll
	Enforced int       `json:"enforced"`           // of its entries, those that count in the table
	Dropped  int       `json:"dropped,omitempty"`  // of its entries, those refused as too wide
}

// Table is one pf table.
type Table struct {
	Kind    string    `json:"kind"`             // "block" or "allow"
	Name    string    `json:"name"`             // with its anchor, as pfioctl.Table's String has it
	Loaded  bool      `json:"loaded"`           // it is set in pf; false with RELOAD_PF=no
	Policy  int       `json:"policy"`           // entries of the policy last enforced, negated ones included
	Not     int       `json:"not"`              // of these, negated
	Kernel  int       `json:"kernel"`           // entries that pf counts in it; -1: pf has no such table
	Rules   int       `json:"rules"`            // loaded rules and anchors that refer to it
	Updated time.Time `json:"updated,omitzero"` // when it was last changed to a new policy
	Change  Change    `json:"change"`           // and what that changed
	Error   string    `json:"error,omitempty"`  // why the last policy could not be enforced
	Held    *Held     `json:"held,omitempty"`   // nil: nothing is held back
	// Excepted are the exceptions that met entries of the lists; ExceptedCount counts all
	// of them, also where a status that would be too long names only the first.
	Excepted      []Excepted `json:"excepted,omitempty"`
	ExceptedCount int        `json:"excepted_count"`
	// Dropped are the entries that were refused, DroppedCount their number, likewise.
	Dropped      []Dropped `json:"dropped,omitempty"`
	DroppedCount int       `json:"dropped_count"`
	Checked      time.Time `json:"checked,omitzero"` // when the whole table was last compared with the policy
	Drift        Drift     `json:"drift"`
	File         string    `json:"file,omitempty"`         // the persist file; "" when there is none
	FileWritten  time.Time `json:"file_written,omitzero"`  // when it was last replaced, by an earlier process too
	FileEntries  int       `json:"file_entries,omitempty"` // what it holds
}

// Change is what one step changed in a table.
type Change struct {
	Added   int `json:"added"`
	Deleted int `json:"deleted"`
	Changed int `json:"changed"` // entries that became negated, or ceased to be
}

// Held is a policy that is held, because it takes too much out of a table.
type Held struct {
	Why     string    `json:"why"`     // with the numbers, and since and until when
	Entries int       `json:"entries"` // of the policy that is held
	Since   time.Time `json:"since,omitzero"`
	Until   time.Time `json:"until,omitzero"` // when it is enforced all the same; zero: never
	// Forcible is set where --sync-now --force enforces it: always but for an empty block table.
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

// Drift is what others changed in a table and the daemon repaired.
type Drift struct {
	Mended int       `json:"mended"`        // how many times
	Last   time.Time `json:"last,omitzero"` // the last of them
	Change Change    `json:"change"`        // and what the repair changed
}

// PF is about pf as a whole.
type PF struct {
	Running bool `json:"running"` // it is enabled
	// Unknown is true if it is not known whether pf is enabled. Notice is about a release of
	// OpenBSD that is newer than the program.
	Unknown bool   `json:"unknown,omitempty"`
	Notice  string `json:"notice,omitempty"`
	// Limit is pf's table-entries, 0 when it is not known; Used the entries in all tables of the host.
	Limit int `json:"limit"`
	Used  int `json:"used"`
	// Reload is how many more pf needs for as long as `pfctl -f` takes, which
	// builds the tables with persist files beside those in force. When Used +
	// Reload is beyond Limit, pf.conf does not load any more.
	Reload int `json:"reload"`
	// Advice is what to write into pf.conf then; "" when there is room.
	Advice string `json:"advice,omitempty"`
}

// Hits are the packets that pf logged and the policy explains.
type Hits struct {
	Mode      string `json:"mode"`      // UPLOAD: "hits", "all", or "no": nothing is captured then
	Interface string `json:"interface"` // "pflog0"
	// Capturing is set while the interface is read. Otherwise Error is the reason.
	Capturing bool   `json:"capturing"`
	Error     string `json:"error,omitempty"`
	// Since is when Seen, Matched, Lists, Drops and the counts of Uploads began to count:
	// they outlive the daemon. Zero: Status.Started.
	Since   time.Time  `json:"since,omitzero"`
	Seen    int64      `json:"seen"`            // packets that were logged
	Matched int64      `json:"matched"`         // those of them with an address on the policy
	Lists   []ListHits `json:"lists,omitempty"` // matched, by list
	Drops   []Drop     `json:"drops,omitempty"` // what was lost, by reason; reasons with nothing lost may be missing
	Hour    Top        `json:"hour"`            // the last hour
	Day     Top        `json:"day"`             // the last day
	Hourly  Series     `json:"hourly"`          // hits of each of the last HistoryHours
	Daily   Series     `json:"daily"`           // hits of each of the last HistoryDays, which begin at midnight UTC
	// CatchUp is in a few words how far the reading of pflogd's files has come, for packets
	// that were logged while no daemon ran.
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

// How many hours and days have a count, the one that is being filled included.
const (
	HistoryHours = 48
	HistoryDays  = 30
)

// Series has the hits of each hour, or of each day.
type Series struct {
	From   time.Time `json:"from,omitzero"` // when the first of them began
	Counts []int64   `json:"counts"`        // the oldest first; the last one has not ended
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
	InMemory  int64   `json:"in_memory"` // lines that are not in the spool yet
	Spool     Volume  `json:"spool"`     // what waits there, of earlier processes too
	SpoolDir  string  `json:"spool_dir,omitempty"`
	DiskUsed  int64   `json:"disk_used"` // bytes of its files
	DiskMax   int64   `json:"disk_max"`  // SPOOL_MAX
	// SpoolError is why batches cannot be written to the spool now; they stay in memory.
	SpoolError   string    `json:"spool_error,omitempty"`
	Aside        Volume    `json:"aside"`                  // refused by the server, set aside in the spool directory
	AsideError   string    `json:"aside_error,omitempty"`  // the server's answer to the last of them: "403"
	Tried        time.Time `json:"tried,omitzero"`         // the last attempt
	Error        string    `json:"error,omitempty"`        // of the last attempt; "" when it was good
	Advice       string    `json:"advice,omitempty"`       // what to do about Error, when it does not pass by itself
	FailingSince time.Time `json:"failing_since,omitzero"` // the first failure since the last delivery
	Failures     int64     `json:"failures"`
	Next         time.Time `json:"next,omitzero"` // when the next batch is due
}

// Upload is one batch that was delivered. With Lines 0 only its time is known.
type Upload struct {
	At    time.Time `json:"at"`
	Lines int64     `json:"lines"`
	Bytes int64     `json:"bytes"`
	Took  Seconds   `json:"took_seconds"`
}

// Process is one of the daemon's processes.
type Process struct {
	Name     string    `json:"name"`             // main, or its role
	Started  time.Time `json:"started,omitzero"` // zero: it is not ready
	Restarts int       `json:"restarts"`         // after it died, since main started
}

// Trouble is something that is wrong now.
type Trouble struct {
	Text  string    `json:"text"`
	Since time.Time `json:"since"`
	Last  time.Time `json:"last,omitzero"` // when it was last noticed
	Count int64     `json:"count"`         // how many times
	// NeedsOwner is set when it does not pass by itself and nothing else in the status
	// shows it, so that [NeedsOwner] has to list it.
	NeedsOwner bool `json:"needs_owner,omitempty"`
}

// Seconds is a duration, to the millisecond.
type Seconds float64

// InSeconds returns d in seconds.
func InSeconds(d time.Duration) Seconds { return Seconds(d.Round(time.Millisecond).Seconds()) }

// Duration returns s as a time.Duration.
func (s Seconds) Duration() time.Duration {
	return time.Duration(float64(s) * 1e9).Round(time.Millisecond)
}

// WriteJSON writes the status for programs: one object, indented, that begins with what
// [NeedsOwner] returns as needs_owner.
func (s *Status) WriteJSON(w io.Writer) error {
	c := *s
	c.Format = Format
	// Never null, for programs that count.
	c.Lists, c.Tables, c.Troubles = append([]List{}, c.Lists...), append([]Table{}, c.Tables...), append([]Trouble{}, c.Troubles...)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		NeedsOwner []string `json:"needs_owner"`
		*Status
	}{append([]string{}, NeedsOwner(s)...), &c})
}
