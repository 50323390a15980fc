// Package fetch runs DNS in a process of its own. The role fetches lists and looks up host names; the
// Client, in main, asks it to. Main checks every entry that arrives, so that a role which was taken over
// can invent a list, as a policy server can, and nothing else.
//
// One request is carried out at a time. For a list the role sends progress, if it is wanted, and then the list (a
// header, and entries until all have come) or the reason why there is none; for names, one answer for all.
package fetch

import (
	"errors"
	"fmt"
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
	kindEntries                                   // records of entryLen bytes
	kindFailure                                   // failure
	kindAddresses                                 // addresses
)

const (
	maxName   = 1 << 10 // characters of a name
	maxNames  = 64      // names that are looked up at once
	maxAddrs  = 64      // addresses of one
	maxReason = 300     // characters of why a name has none
	maxText   = 4 << 10 // characters of why a list could not be fetched
	maxFailed = 64      // servers that failed before one gave a list
	maxOther  = 1 << 10 // characters of why another server did not give it
	entryLen  = 18      // bytes of an entry: address 16, prefix length 1, flags 1

	maxEntries = 14_000 * entryLen
)

// Flags of an entry.
const (
	entryV6  = 1 << 0
	entryNot = 1 << 1
)

var toRole = privsep.Limits{
	kindSetup:  1 << 20,
	kindFetch:  64 << 10,
	kindLookup: maxNames * (maxName + 16),
	kindCancel: 0,
}

var toMain = privsep.Limits{
	kindProgress: 4 << 10,
	kindHeader:   6 * (maxFailed*maxOther + 4*maxName), // JSON may write a character as six

	kindEntries:   maxEntries,
	kindFailure:   6*maxText + 1<<10,
	kindAddresses: maxNames * 8 << 10,
}

// receive reads a message of the role, and checks it. most is the largest number of entries.
func receive(what string, payload []byte, into interface{ check(most int) error }, most int) error {
	if err := privsep.Unmarshal(payload, into); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return into.check(most)
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

// progress is how much of a list has come.
type progress dnsfetch.Progress

// addresses answers a look-up of names, in their order.
type addresses []answer

type answer struct {
	Addresses []netip.Addr
	Error     string // why there are none
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

// newFailure returns the failure that stands for an error, with a text of at most most characters.
func newFailure(err *dnsfetch.Error, most int) failure {
	return failure{err.Kind, printable(err.Reason(), most)}
}

// error returns the error that a checked failure stands for.
func (f *failure) error(list string) *dnsfetch.Error {
	return &dnsfetch.Error{List: list, Kind: f.Kind, Err: errors.New(f.Text)}
}

func (f *failure) check(int) error {
	if f.Text == "" || !plain(f.Text, maxText) || f.Kind > dnsfetch.KindNXDomain {
		return fmt.Errorf("failure of kind %d without a printable reason of at most %d characters", f.Kind, maxText)
	}
	return nil
}

// check reports what is wrong with a header. The numbers that are only shown must be possible ones.
func (h *header) check(most int) error {
	switch {
	case !plain(h.Name, maxName) || !plain(h.Server, maxName):
		return errors.New("list with a name or a server that is not printable")
	case h.Layout < dnsfetch.LayoutParts || h.Layout > dnsfetch.LayoutAddresses:
		return fmt.Errorf("list of layout %d", h.Layout)
	case h.Parts <= 0 || h.Parts > 1<<20 || h.Restarts < 0 || h.Restarts > 9 || h.Bytes < 0 || h.Elapsed < 0:
		return fmt.Errorf("list of %d parts, %d restarts, %d bytes, in %v", h.Parts, h.Restarts, h.Bytes, h.Elapsed)
	case h.Entries < 0 || h.Entries > most:
		return fmt.Errorf("list of %d entries where the limit is %d", h.Entries, most)
	case len(h.Failed) > maxFailed:
		return fmt.Errorf("list with %d servers that failed", len(h.Failed))
	case len(h.Chunks) > 0:
		return errors.New("entries in a header")
	}
	for _, f := range h.Failed {
		if err := f.check(0); err != nil {
			return err
		}
		h.List.Failed = append(h.List.Failed, f.error(h.Name))
	}
	return nil
}

// appendEntry appends e as it crosses to main.
func appendEntry(b []byte, e dnsfetch.Entry) []byte {
	flags := byte(0)
	if e.V6 {
		flags |= entryV6
	}
	if e.Not {
		flags |= entryNot
	}
	return append(append(b, e.Addr[:]...), e.Bits, flags)
}

// parseEntries returns the entries of a chunk, of which there may be left. Each is one that a list can
// have.
func parseEntries(b []byte, left int) ([]dnsfetch.Entry, error) {
	n := len(b) / entryLen
	if n == 0 || len(b)%entryLen != 0 {
		return nil, fmt.Errorf("chunk of %d bytes", len(b))
	}
	if n > left {
		return nil, errors.New("more entries than announced")
	}
	all := make([]dnsfetch.Entry, n)
	for i := range all {
		r := b[i*entryLen:][:entryLen]
		all[i] = dnsfetch.Entry{Addr: [16]byte(r), Bits: r[16], V6: r[17]&entryV6 != 0, Not: r[17]&entryNot != 0}
		if r[17] > entryV6|entryNot || !all[i].Valid() {
			return nil, fmt.Errorf("entry %x is not a network", r)
		}
	}
	return all, nil
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

// check returns what is wrong with the answer to a look-up of n names.
func (a addresses) check(n int) error {
	if len(a) != n {
		return fmt.Errorf("addresses of %d names where %d were asked for", len(a), n)
	}
	for _, x := range a {
		switch {
		case len(x.Addresses) > maxAddrs:
			return fmt.Errorf("%d addresses of one name", len(x.Addresses))
		case (len(x.Addresses) == 0) == (x.Error == ""):
			return errors.New("neither addresses nor a reason, or both")
		case !plain(x.Error, maxReason):
			return errors.New("reason that is not printable")
		}
		for _, addr := range x.Addresses {
			if !usable(addr) {
				return fmt.Errorf("%s, which no host has, as the address of one", addr)
			}
		}
	}
	return nil
}

// names returns what checked addresses stand for.
func (a addresses) names() []Name {
	found := make([]Name, len(a))
	for i, x := range a {
		if found[i].Addrs = x.Addresses; x.Error != "" {
			found[i].Err = errors.New(x.Error)
		}
	}
	return found
}

// usable reports whether a can be the address of a host to talk to.
func usable(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// check returns what is wrong with a progress. The numbers are only shown, but must be possible.
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
