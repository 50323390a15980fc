package status

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"example.org/threatstopd/agent/internal/frame"
)

// A connection carries one request and its answer. The kinds of frames:
const (
	askStatus = 1 // no payload; the answer is sayStatus
	askSync   = 2 // one byte, askForce or 0; the answer is sayLine, any number of times, then sayDone
	askFlush  = 3 // no payload; the answer is sayDone

	sayStatus = 16 // a Status as JSON
	sayLine   = 17 // a byte, lineWarn or 0, and a line of text without its end
	sayDone   = 18 // the exit code, one byte, and what went wrong, if anything
	sayError  = 19 // why the request was not carried out
)

const (
	askForce = 1
	lineWarn = 1
)

// Bounds on what is sent. A Status that is filled to MaxNamed and maxText everywhere stays
// below maxStatus, unless there are hundreds of lists.
const (
	maxStatus = 4 << 20
	maxText   = 2000
)

var (
	requests = frame.Limits{askStatus: 0, askSync: 1, askFlush: 0}
	answers  = frame.Limits{sayStatus: maxStatus, sayLine: 1 + maxText, sayDone: 1 + maxText, sayError: maxText}
)

// clip bounds a text, between characters.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	const dots = "..."
	s = s[:most-len(dots)]
	for len(s) > 0 {
		if r, n := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || n != 1 {
			break
		}
		s = s[:len(s)-1]
	}
	return s + dots
}

// printable takes out of a line what would do something to a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != utf8.RuneError {
			return r
		}
		return '?'
	}, s)
}

// cut returns s as it is sent: with the first MaxNamed of what has no other bound,
// and texts of maxText bytes at most. s itself, and what its slices hold, is left alone.
func cut(s Status) Status {
	s.Format = StatusFormat
	text := func(t *string) { *t = clip(*t, maxText) }
	for _, t := range []*string{&s.Version, &s.NotEnforced, &s.Poll.Error, &s.PF.Advice, &s.Hits.Error, &s.Hits.CatchUp, &s.Uploads.Error} {
		text(t)
	}
	s.Lists = append([]List{}, s.Lists...)
	for i := range s.Lists {
		text(&s.Lists[i].Error)
	}
	s.Tables = append([]Table{}, s.Tables...)
	for i := range s.Tables {
		t := &s.Tables[i]
		text(&t.Error)
		if t.Held != nil {
			held := *t.Held
			text(&held.Why)
			t.Held = &held
		}
		t.Excepted = append([]Excepted(nil), t.Excepted[:min(len(t.Excepted), MaxNamed)]...)
		for j := range t.Excepted {
			x := &t.Excepted[j]
			text(&x.Why)
			x.Lists = x.Lists[:min(len(x.Lists), MaxNamed)]
		}
		t.Dropped = append([]Dropped(nil), t.Dropped[:min(len(t.Dropped), MaxNamed)]...)
		for j := range t.Dropped {
			text(&t.Dropped[j].Why)
		}
	}
	s.Troubles = append([]Trouble{}, s.Troubles[:min(len(s.Troubles), MaxNamed)]...)
	for i := range s.Troubles {
		text(&s.Troubles[i].Text)
	}
	return s
}
