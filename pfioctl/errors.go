package pfioctl

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Errors that do not come from the kernel.
var (
	// ErrLimit is returned by Add, which did not send the request: it would have
	// come to the limit of table entries, where the kernel waits without end.
	ErrLimit = errors.New("would reach the limit, where the kernel waits without end")

	// ErrConflict is returned by Add and Delete if entries are in the table with the
	// other negation. The kernel left those as they were, and did the rest.
	ErrConflict = errors.New("in the table with the other negation")

	// ErrPledged is returned for a request that was not sent because the promise
	// "pf" does not allow it: the kernel would have ended the process.
	ErrPledged = errors.New(`not allowed under the promise "pf"`)

	// ErrUnknownRelease is returned if the release is newer than those that this
	// package knows, and the struct asked for is not known.
	ErrUnknownRelease = errors.New("the structs of this release are not known")

	// errMismatch: the kernel's answer is not made of the struct that is known of
	// its release.
	errMismatch = errors.New("not the struct that is known of this release")

	errChanging = errors.New("keeps changing while it is read")
	errInactive = errors.New("table was not made active") // by DIOCRADDTABLES
	errNoAnchor = errors.New("the anchor could not be made")
)

// Error is what went wrong with a request.
type Error struct {
	Op    string // "set addresses", "read status"; its last word is what Count counts
	Table Table  // zero where no one table is meant
	Count int    // elements in the request, 0 where it has none

	// Used and Limit are filled in where a limit may have been the cause and
	// they could be read: what all tables hold together before the request, and
	// the hard limit. Limit 0 means that they are not known.
	Used, Limit int

	Err error // a syscall.Errno where the kernel gave one

	limit Limit // which one Used and Limit are about
}

// Error returns one line, such as "pf table ThreatSTOP-Block: set 26424
// addresses: cannot allocate memory (used 180000 + new 26424 > limit 200000)".
func (e *Error) Error() string {
	s := "pf"
	if e.Table != (Table{}) {
		s += " table " + e.Table.String()
	}
	op := e.Op
	if i := strings.LastIndexByte(op, ' ') + 1; e.Count != 0 && i > 0 {
		noun := op[i:]
		if e.Count == 1 {
			noun = map[string]string{"addresses": "address", "tables": "table"}[noun]
		}
		op = fmt.Sprintf("%s%d %s", op[:i], e.Count, noun)
	}
	s += fmt.Sprintf(": %s: %v", op, e.Err)
	switch {
	case e.Limit == 0:
	case e.Used+e.Count > e.Limit:
		s += fmt.Sprintf(" (used %d + new %d > limit %d)", e.Used, e.Count, e.Limit)
	default:
		s += fmt.Sprintf(" (used %d + new %d, limit %d)", e.Used, e.Count, e.Limit)
	}
	return s
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// fail makes an Error of err.
func fail(op string, t Table, count int, err error) *Error {
	return &Error{Op: op, Table: t, Count: count, Err: err}
}

// failLimit does the same for a request that a limit may have stopped, and
// fills in the numbers if they can be read. They are read after the
// fact, and something else may have changed them.
func (p *PF) failLimit(op string, t Table, count int, l Limit, err error) *Error {
	e := fail(op, t, count, err)
	if !errors.Is(err, syscall.ENOMEM) {
		return e
	}
	limit, err1 := p.Limit(l)
	entries, tables, err2 := p.Used()
	if err1 != nil || err2 != nil {
		return e
	}
	e.Used, e.Limit, e.limit = entries, limit, l
	if l == LimitTableEntries && entries+count <= limit {
		// There was room for the entries: each change needs a table of its own
		// while it runs, so it may be that limit.
		if most, err := p.Limit(LimitTables); err == nil && tables >= most {
			e.Limit, e.limit = most, LimitTables
		}
	}
	if e.limit == LimitTables {
		e.Used = tables
	}
	return e
}

// advice has a line for each error, the first that fits; in it, TABLE is the table's line
// in pf.conf.
var advice = []struct {
	err  error
	text string
}{
	{syscall.ESRCH, "the table is not defined: add TABLE to /etc/pf.conf and load it with pfctl -f"},
	{syscall.EPERM, "the table is const (remove the word from its line in /etc/pf.conf), or the system runs at securelevel 2, where tables can be neither made nor removed"},
	{syscall.EACCES, "the descriptor of /dev/pf is open for reading only: open it for writing"},
	{syscall.ENODEV, "the kernel's table ABI differs from this build: rebuild it for this release and architecture"},
	{syscall.EINVAL, `the kernel refused an argument: the name has to have 1 to 31 bytes, the anchor may not be "_pf", and host bits have to be clear`},
	{syscall.ENAMETOOLONG, "the name has to have 1 to 31 bytes, the anchor's path at most 1023"},
	{syscall.EFAULT, "the kernel could not read or write the request's memory: this is an error in the program"},
	{syscall.EBUSY, "the rules were replaced meanwhile, or too many transactions are open: try again"},
	{syscall.ENOENT, "there is no such anchor: load the ruleset that uses it"},
	{syscall.ENXIO, "the transaction is gone: try again"},
	{syscall.EBADF, "/dev/pf is not open any more"},
	{syscall.ENOTTY, "the descriptor is not /dev/pf"},
	{ErrPledged, "do it before pledge, or in another process"},
	{ErrUnknownRelease, "tables can be worked with all the same; for status and rules use a build made for this release"},
	{errMismatch, "the kernel is not the release it says, or not one of OpenBSD's: use a build made for it"},
	{ErrConflict, "delete the entry with the negation it has, then add the other one"},
	{errNoAnchor, "a part of an anchor's path has at most 63 bytes; see also `set limit anchors` in pf.conf(5)"},
	{errInactive, "OpenBSD 7.1 to 7.3 do not bring a table to life that only a rule mentions: add TABLE to /etc/pf.conf and load it with pfctl -f"},
}

// Advice returns what to do about the error, in a line, or "" where there is
// nothing to say beyond the error itself.
func (e *Error) Advice() string {
	line := fmt.Sprintf("`table <%s> persist`", e.Table.Name)
	switch {
	case errors.Is(e.Err, ErrLimit), errors.Is(e.Err, syscall.ENOMEM):
		return e.adviseLimit()
	case errors.Is(e.Err, syscall.ESRCH) && e.Table.Anchor != "":
		return fmt.Sprintf("the table is not defined in anchor %s: add %s to what is loaded there", e.Table.Anchor, line)
	case errors.Is(e.Err, syscall.EPERM) && e.Table == Table{}:
		return "the system runs at securelevel 2, which does not allow it"
	}
	for _, a := range advice {
		if errors.Is(e.Err, a.err) {
			return strings.ReplaceAll(a.text, "TABLE", line)
		}
	}
	return ""
}

// adviseLimit names the line of pf.conf that gives room. A table with `persist
// file` is built anew beside the old one when pf.conf is loaded, so entries
// count twice for that moment.
func (e *Error) adviseLimit() string {
	switch {
	case e.Limit == 0:
		return "the limit of table entries or of tables is reached, or the kernel is out of memory: see pfctl -sm"
	case e.limit == LimitTables:
		// A request takes two more for each table while it runs.
		return limitLine(LimitTables, e.Used+2*e.Count, 100)
	}
	return AdviseEntries(e.Used+e.Count) + "; loading pf.conf counts a table's old and new entries together"
}

// AdviseEntries returns the advice to give pf room for n entries in all tables,
// in half a line: twice as many, because loading pf.conf builds the tables of
// persist files beside those in force, and a quarter to grow, in round numbers.
func AdviseEntries(n int) string {
	return limitLine(LimitTableEntries, 2*n+n/2, 10_000)
}

// limitLine is about n, rounded up.
func limitLine(l Limit, n, round int) string {
	n = (n + round - 1) / round * round
	return fmt.Sprintf("put `set limit %v %d` into /etc/pf.conf, above its table lines, where alone it works", l, n)
}
