// Package fetch runs DNS in a process of its own. The role fetches lists and looks up host names; the
// Client, in main, asks it to. Main checks every entry that arrives, so that a role which was taken over
// can invent a list, as a policy server can, and nothing else.
//
// One request is carried out at a time. For a list the role sends progress, if it is wanted, and then the list (a
// header, and entries until all have come) or the reason why there is none; for names, one answer for all.
package fetch

import (
	"net/netip"

	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/dnsfetch"
)

// Role is the role's name in the table of roles.
const Role = "fetch"

// Kinds of messages to the role.
const (
	kindSetup  = privsep.FirstKind + iota // setup, the first
	kindFetch                             // fetch
	kindLookup                            // names of hosts
	kindCancel                            // gives up the request under way
)

// Kinds of messages to main.
const (
	kindProgress  = privsep.FirstKind + 16 + iota // progress
	kindHeader                                    // header
	kindEntries                                   // entries of entryLen bytes
	kindFailure                                   // failure
	kindAddresses                                 // a Name for each name, in their order
)

const (
	maxName   = 1 << 10 // bytes of a name
	maxNames  = 64      // names that are looked up at once
	maxAddrs  = 64      // addresses of one
	maxReason = 300     // bytes of why a name has none
	maxText   = 4 << 10 // bytes of why a list could not be fetched
	maxFailed = 64      // servers that failed before one gave a list
	maxOther  = 1 << 10 // bytes of why another server did not give it
	maxChunk  = 14_000  // entries in a message
	entryLen  = 18      // bytes of an entry: address 16, prefix length 1, flags 1
	entryV6   = 1 << 0  // flags
	entryNot  = 1 << 1
)

var toRole = privsep.Limits{
	kindSetup:  1 << 20,
	kindFetch:  64 << 10,
	kindLookup: maxNames * (maxName + 16),
	kindCancel: 0,
}

var toMain = privsep.Limits{
	kindProgress:  4 << 10,
	kindHeader:    6 * (maxFailed*maxOther + 4*maxName), // JSON may write a character as six
	kindEntries:   maxChunk * entryLen,
	kindFailure:   6*maxText + 1<<10,
	kindAddresses: maxNames * 8 << 10,
}

// setup is what the role has to know of the configuration.
type setup struct {
	Options     dnsfetch.Options // without the Resolver
	Confinement privsep.Confinement
}

// fetch asks for a list.
type fetch struct {
	Name       string
	AllowEmpty bool
	Progress   bool // progress is wanted
}

// Name is what a look-up of a host name brought.
type Name struct {
	Addrs []netip.Addr
	Err   string // why there are none, "" if there are some
}

// header is a list without its entries.
type header struct {
	dnsfetch.List           // without Chunks
	Failed        []failure // in place of the list's
	Entries       int
}

// failure is why a list could not be fetched: a text for people, and what it means.
type failure struct {
	Kind dnsfetch.Kind
	Text string // without the list's name
}

// newFailure returns the failure that stands for an error, with a text of at most most bytes.
func newFailure(err *dnsfetch.Error, most int) failure {
	return failure{err.Kind, printable(err.Reason(), most)}
}

// printable returns s as one line of printable ASCII of at most most bytes.
func printable(s string, most int) string {
	b := []byte(privsep.Clean(s, most))
	for i, c := range b {
		if c > '~' {
			b[i] = '?'
		}
	}
	return string(b[:min(len(b), most)])
}

// plain reports whether s is printable ASCII and has at most most bytes.
func plain(s string, most int) bool { return printable(s, most) == s }

// usable reports whether a can be the address of a host to talk to.
func usable(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
