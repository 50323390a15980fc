package dnsfetch

import (
	"errors"
	"strings"
	"syscall"
)

// What can be wrong with a list, a server or an answer. The errors of [Client.Fetch] match
// these with [errors.Is]; when several servers failed, they match the reason of each.
var (
	// The request or the configuration.
	ErrName   = errors.New("not a usable name for a list")
	ErrSource = errors.New("source address and server are of different families")

	// The way to the server.
	ErrLookup   = errors.New("cannot look up the server's name")
	ErrConnect  = errors.New("cannot connect")
	ErrNotLocal = errors.New("the source address is not an address of this host")
	ErrTimeout  = errors.New("timed out")                          // a connection, one answer, or the whole list
	ErrCut      = errors.New("connection closed before an answer") // or in the middle of one

	// What the server said.
	ErrRefused   = errors.New("query refused (REFUSED)")
	ErrServFail  = errors.New("server failure (SERVFAIL)")
	ErrNXDomain  = errors.New("no such name (NXDOMAIN)")
	ErrRcode     = errors.New("query failed") // with the name of any other response code
	ErrNoRecords = errors.New("no records (NOERROR without an answer)")
	ErrTruncated = errors.New("answer truncated over TCP (TC)")
	ErrAnswer    = errors.New("unusable answer") // malformed, or to another question

	// The list.
	ErrEmpty    = errors.New("the list is empty")
	ErrParts    = errors.New("unusable list of parts")
	ErrChanged  = errors.New("the list changed again each time it was fetched")
	ErrTooLarge = errors.New("the list is too large")
)

// advice is what to do about an error, for those where that is not obvious.
var advice = []struct {
	is   error
	text string
}{
	{ErrRefused, "this device's public address may not be registered yet; new devices take up to an hour; " +
		"on a relay, access-control must name this host"},
	{ErrServFail, "a relay answers so when its server fails, or when its msg-buffer-size is too small for the list"},
	{ErrTruncated, "the records do not fit in 64 KiB: the publisher must split the list"},
	{ErrEmpty, "an empty list is accepted for allow lists only"},
	{ErrTooLarge, "raise the limit if the list is meant to be that large"},
	{ErrSource, "give a source address of the server's family, or none"},
	// What a sender gets on OpenBSD when pf blocks its packet on the way out.
	{syscall.EACCES, "the packet filter blocks the way out"},
}

// Kind is what a failed fetch means for the list.
type Kind uint8

// The kinds. Servers that were not reached do not count. If the kinds of the others differ, the kind is
// KindFailed if one of them is, and else KindNXDomain: they agree that there is nothing to block or allow.
const (
	KindFailed    Kind = iota // a server failed, or its answer is not to be relied on
	KindUnreached             // no server could be reached: no other list can be fetched either
	KindSource                // likewise, because of the source address: see ErrNotLocal
	KindEmpty                 // by an APL record without items, from each server reached
	KindNoData                // authoritative answers without records, from each server reached
	KindNXDomain              // authoritative NXDOMAIN, from each server reached
)

// Error is why a list could not be fetched.
type Error struct {
	List   string // the name requested
	Part   string // the part or sibling at fault, "" when it is the list as a whole
	Server string // the server at fault; "" when no server was asked, or when several failed
	Kind   Kind
	// Err is the reason. It wraps one of this package's Err variables, with an errno beside it where
	// there is one, or the error of the context, or an *Error for each server tried.
	Err error
}

// Error returns one line: list, server, part, reason, and what to do about it.
func (e *Error) Error() string { return "list " + e.List + ": " + e.Reason() }

// Reason returns the line without the list.
func (e *Error) Reason() string {
	s := e.reason()
	if e.Server != "" {
		s = "server " + e.Server + ": " + s
	}
	for _, a := range advice {
		if errors.Is(e.Err, a.is) {
			s += "; " + a.text
		}
	}
	return s
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

func (e *Error) reason() string {
	if e.Part != "" {
		return "part " + e.Part + ": " + e.Err.Error()
	}
	return e.Err.Error()
}

// combine returns the error of a list that none of the servers gave.
func combine(list string, failed []*Error) *Error {
	if len(failed) == 1 {
		return failed[0]
	}
	all := &Error{List: list, Kind: KindUnreached, Err: allFailed(failed)}
	for _, e := range failed {
		switch {
		case e.Kind == KindUnreached || e.Kind == all.Kind || e.Kind == KindSource && all.Kind != KindUnreached:
		case all.Kind == KindUnreached || all.Kind == KindSource:
			all.Kind = e.Kind
		case e.Kind >= KindEmpty && all.Kind >= KindEmpty:
			all.Kind = KindNXDomain
		default:
			all.Kind = KindFailed
			return all
		}
	}
	return all
}

// allFailed is the reason when several servers were tried.
type allFailed []*Error

func (a allFailed) Error() string {
	var each []string
	for _, e := range a {
		each = append(each, e.Server+": "+e.reason())
	}
	return "no server gave it: " + strings.Join(each, "; ")
}

func (a allFailed) Unwrap() (errs []error) {
	for _, e := range a {
		errs = append(errs, e)
	}
	return errs
}
