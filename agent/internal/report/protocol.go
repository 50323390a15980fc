package report

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/status"
	"example.org/threatstopd/capture"
)

// Kinds of frames from main to the role.
const (
	kindSetup     = 16 + iota // a Setup, the first frame
	kindBegin                 // a policyHead: what follows replaces the policy in force, and one that has begun
	kindChunk                 // of the policy's columns (policy.Set.Chunks)
	kindCommit                // the policy is complete
	kindStatus                // main's part of a status (status.Encode), after every change and once a minute
	kindLine                  // of a sync that was asked for: lineWarn or 0, and text
	kindDone                  // of the sync: its exit code
	kindLogStatus             // asks for a line about reporting in the log
	kindRetry                 // the configuration was read again: what the log server refused is sent again
)

// Kinds of frames from the role to main.
const (
	kindCapture = 32 + iota // a captureState: once when the role is ready, and when it changes
	kindAskSync             // asks for a policy run now: askForce or 0
	kindTrouble             // a trouble: something else begins to be wrong, or has ended
)

const (
	lineWarn = 1
	askForce = 1
)

// Bounds on what is sent.
const (
	maxSetup    = 64 << 10
	maxHead     = 1 << 20
	chunkSize   = 256 << 10
	maxSyncLine = 2000 // bytes of a line
	maxWhy      = 500  // bytes of a captureState's reason
	maxCapture  = 16 * maxWhy
)

var (
	fromMain = privsep.Limits{
		kindSetup: maxSetup, kindBegin: maxHead, kindChunk: chunkSize, kindCommit: 0,
		kindStatus: status.MaxEncoded, kindLine: 1 + maxSyncLine, kindDone: 1, kindLogStatus: 0, kindRetry: 0,
	}
	fromRole = privsep.Limits{kindCapture: maxCapture, kindAskSync: 1, kindTrouble: maxCapture}
)

// Setup is all that the role knows of the configuration. It is plain data.
type Setup struct {
	// Reporting is nil with UPLOAD=no: the role then only serves the sockets.
	Reporting *Reporting

	// What --status says of reporting: UPLOAD, PFLOG_IF, and the log server's
	// host.
	Mode, Interface, LogServer string

	// LogLevel is the zerolog.Level from which on events are logged.
	LogLevel int

	// Confinement is how the role gives up root.
	Confinement privsep.Confinement

	// Listeners names the descriptors that the role inherits, in their order; and
	// Policy says that a policy is in force and follows. The Client fills them in.
	Listeners []string
	Policy    bool
}

// Reporting is what the role opens and reports with.
type Reporting struct {
	Config
	Pflog   capture.Options
	LogFile string // what pflogd writes; empty for no catching up
	Upload  UploadOptions
}

// Names of listeners.
const (
	listenFull     = "full"
	listenReadOnly = "status"
	listenMetrics  = "metrics"
	listenPage     = "page"
)

// policyHead announces a policy.
type policyHead struct {
	Generation uint64
	V4, V6     int
	Lists      []string
	Own        []netip.Addr
	Sum        string // policy.Set.Sum in hexadecimal
}

func newHead(generation uint64, set *policy.Set, own []netip.Addr) policyHead {
	n, sum := set.Counts(), set.Sum()
	return policyHead{Generation: generation, V4: n.V4, V6: n.V6, Lists: set.Lists(), Own: own, Sum: hex.EncodeToString(sum[:])}
}

// captureState says whether hits are read.
type captureState struct {
	Reading bool
	Why     string // when they are not
	// NoUploads is why the hits cannot be uploaded until the configuration is changed.
	NoUploads string
}

// A trouble is something that is wrong; an empty text: no more.
type trouble struct{ Key, Text string }

// clip bounds a text, between characters.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	s = s[:most]
	for len(s) > 0 {
		if r, n := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || n != 1 {
			break
		}
		s = s[:len(s)-1]
	}
	return s
}

// printable makes a text from a role one line that does nothing to a terminal or a log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != utf8.RuneError {
			return r
		}
		return '?'
	}, s)
}
