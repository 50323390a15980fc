package states

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"example.org/threatstopd/agent/internal/frame"
	"example.org/threatstopd/agent/internal/privsep"
)

// Name is that of the role.
const Name = "states"

// Kinds of frames from main to the role, and from the role to main.
const (
	kindSetup = 16 + iota // a Setup, the first frame
	kindBegin             // a request: what follows are addresses to cut off
	kindChunk             // of the ranges (policy.Ranges.Chunks)
	kindGo                // the request is complete

	kindAnswer = 32 // an answer
)

// Bounds on what is sent.
const (
	maxSetup  = 64 << 10
	maxBegin  = 1 << 20
	chunkSize = 256 << 10
	maxText   = 800 // bytes of an answer's error
	maxAnswer = 8 * maxText

	// maxRanges is how many ranges a request has: 8 bytes of the role's memory
	// each, 32 for those of IPv6. More make several requests.
	maxRanges = 1 << 20
	// maxWait bounds the time that a request may take.
	maxWait = time.Minute
	// maxStates is how many states no firewall has: 17 GB of the kernel's memory.
	maxStates = 1 << 26
)

var (
	fromMain = frame.Limits{kindSetup: maxSetup, kindBegin: maxBegin, kindChunk: chunkSize, kindGo: 0}
	fromRole = frame.Limits{kindAnswer: maxAnswer}
)

// Memory returns the bound for the memory of the role where pf has at most so many states
// (its limit), in bytes.
func Memory(states int) uint64 {
	// The state table is read whole, with some room; the rest is the ranges of a request,
	// twice while they come.
	const state, room = 288, 2 * 32 * maxRanges
	return privsep.Memory(0) + room + state*uint64(max(0, states))
}

// Setup is all that the role knows of the configuration.
type Setup struct {
	// Confinement is how the role gives up root.
	Confinement privsep.Confinement
}

// request announces addresses to cut off.
type request struct {
	ID     uint64
	Ranges int           // how many follow
	Wait   time.Duration // how long it may take
	Own    []netip.Addr  // the host's addresses, which the ranges do not have
}

// answer is what became of a request.
type answer struct {
	ID    uint64
	Done  Killed
	Error string // why not all was done; empty: nothing went wrong
}

// check says why an answer cannot be one to the request of this number.
func (a answer) check(id uint64) error {
	switch d := a.Done; {
	case a.ID != id:
		return fmt.Errorf("answer to request %d, not %d", a.ID, id)
	case d.Considered < 0 || d.Killed < 0 || d.Left < 0, d.Considered > maxStates || d.Left > maxStates-d.Considered:
		return fmt.Errorf("answer with %d states looked at, %d left", d.Considered, d.Left)
	case d.Killed > d.Considered:
		return fmt.Errorf("answer with %d states killed of %d looked at", d.Killed, d.Considered)
	case len(a.Error) > maxText:
		return errors.New("answer with an error that is too long")
	}
	return nil
}

// line makes a text one line of bounded length that does nothing to a terminal or a log.
func line(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != utf8.RuneError {
			return r
		}
		return '?'
	}, s)
	for len(s) > maxText {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
