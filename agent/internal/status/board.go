package status

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"
)

// MaxEncoded is the most bytes that Encode returns.
const MaxEncoded = 4 << 20

// Encode returns a status as main sends it to the process that serves it; [Decode] reads it. Where
// exceptions, dropped entries and texts make it longer than MaxEncoded, only their first ones are kept.
func Encode(s Status) ([]byte, error) {
	s.Format = Format
	s.Tables = slices.Clone(s.Tables)
	for named := 1000; ; named /= 10 {
		b, err := json.Marshal(s)
		switch {
		case err != nil:
			return nil, fmt.Errorf("status: %w", err)
		case len(b) <= MaxEncoded:
			return b, nil
		case named == 0:
			return nil, fmt.Errorf("status: %d bytes, at most %d can be sent", len(b), MaxEncoded)
		}
		for i := range s.Tables {
			t := &s.Tables[i]
			t.Excepted, t.Dropped = t.Excepted[:min(len(t.Excepted), named)], t.Dropped[:min(len(t.Dropped), named)]
		}
	}
}

// Decode is the inverse of [Encode]. A status of another format is an error.
func Decode(b []byte) (*Status, error) {
	s := new(Status)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	if s.Format != Format {
		return nil, fmt.Errorf("status of format %d, this program knows %d: %s", s.Format, Format, restart)
	}
	return s, nil
}

// OldAfter is how old main's part of the status may be. main reports after every change and at
// least once a minute.
const OldAfter = 2 * time.Minute

// firstTime is how long a client of a new process may wait for main's first report.
const firstTime = 3 * time.Second

// A Board holds main's part of the status for the process that serves it. It is safe for concurrent use.
type Board struct {
	mu    sync.Mutex
	last  Status
	came  time.Time
	first chan struct{} // closed when the first status has come
}

// NewBoard returns a Board without a status.
func NewBoard() *Board { return &Board{first: make(chan struct{})} }

// Put takes a status that main has just sent.
func (b *Board) Put(s *Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.came.IsZero() {
		close(b.first)
	}
	b.last, b.came = *s, time.Now()
}

// Status returns main's part as of now; it waits a moment for the first. When main has not reported for
// [OldAfter], whether the policy is enforced is not known: the rest is what main reported last.
func (b *Board) Status() Status {
	select {
	case <-b.first:
	case <-time.After(firstTime):
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at(time.Now())
}

func (b *Board) at(now time.Time) Status {
	s := b.last
	s.Reported, s.Now = s.Now, now
	why := ""
	switch old := now.Sub(b.came); {
	case b.came.IsZero():
		why = "main has not reported yet"
	case old > OldAfter:
		why = fmt.Sprintf("main has not reported for %d s", old/time.Second)
	}
	if why != "" {
		s.Enforced, s.NotEnforced, s.Unsure, s.NotKnown = false, "", "", why
	}
	return s
}
