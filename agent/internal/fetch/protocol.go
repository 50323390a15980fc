package fetch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"example.org/threatstopd/agent/internal/frame"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/dnsfetch"
)

// Role is the role's name in the table of roles.
const Role = "fetch"

// Kinds of messages to the role.
const (
	kindSetup  = privsep.FirstKind + iota // setup, the first
	kindFetch                             // fetch
	kindLookup                            // lookup
	kindCancel                            // number of the fetch to give up
)

// Kinds of messages to main.
const (
	kindProgress  = privsep.FirstKind + 16 + iota // progress
	kindHeader                                    // number, dnsfetch.PartHeader
	kindChunk                                     // dnsfetch.PartChunk, of the list whose header came last
	kindCommit                                    // number, dnsfetch.PartCommit
	kindFailure                                   // number, dnsfetch.Error
	kindAddresses                                 // addresses
)

const (
	numberLen = 4
	maxName   = 1 << 10 // characters of a name
	maxAddrs  = 64      // addresses of one
	maxReason = 300     // characters of why a name has none
)

var toRole = frame.Limits{
	kindSetup:  1 << 20,
	kindFetch:  64 << 10,
	kindLookup: 8 << 10,
	kindCancel: numberLen,
}

var toMain = frame.Limits{
	kindProgress:  4 << 10,
	kindHeader:    numberLen + dnsfetch.MaxMessage,
	kindChunk:     dnsfetch.MaxMessage,
	kindCommit:    64,
	kindFailure:   numberLen + dnsfetch.MaxMessage,
	kindAddresses: 8 << 10,
}

// setup is what the role has to know of the configuration.
type setup struct {
	Options     dnsfetch.Options // without the Resolver
	Confinement privsep.Confinement
}

// fetch asks for a list.
type fetch struct {
	Number     uint32
	Name       string
	AllowEmpty bool
	Siblings   []string
	Progress   bool // progress is wanted
}

// lookup asks for the addresses of a host.
type lookup struct {
	Number uint32
	Name   string
}

// progress is a dnsfetch.Progress.
type progress struct {
	Number               uint32
	Server               string
	Done, Parts, Entries int
	Bytes                int64
}

// addresses answers a lookup.
type addresses struct {
	Number    uint32
	Addresses []netip.Addr
	Error     string // why there are none
}

func number(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// cutNumber takes the number off a message.
func cutNumber(b []byte) (uint32, []byte, error) {
	if len(b) < numberLen {
		return 0, nil, errors.New("message without a number")
	}
	return binary.BigEndian.Uint32(b), b[numberLen:], nil
}

// plain reports whether s is printable ASCII and has at most n characters.
func plain(s string, n int) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) <= n
}

// usable reports whether a can be the address of a host to talk to.
func usable(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// check says what is wrong with a progress. The numbers are for show; those that no fetch has
// would spoil it.
func (p *progress) check(most int) error {
	switch {
	case !plain(p.Server, maxName):
		return errors.New("progress with a server that cannot be")
	case p.Done < 0 || p.Parts < p.Done || p.Parts > 1<<20 || p.Entries < 0 || p.Bytes < 0:
		return fmt.Errorf("progress of %d parts of %d, %d entries, %d bytes", p.Done, p.Parts, p.Entries, p.Bytes)
	case p.Entries > most:
		return fmt.Errorf("progress of %d entries where the limit is %d", p.Entries, most)
	}
	return nil
}
